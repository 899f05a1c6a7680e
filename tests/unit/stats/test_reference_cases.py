"""The statistics engine against published libraries: every case of `tests/vectors/stats_cases.json`."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.vectors import adapters

_CASES_FILE = Path(__file__).parents[2] / "vectors" / "stats_cases.json"
_DELIVERED_FILE = Path(__file__).parents[4] / "shared" / "reference" / "stats_cases.json"
_REFERENCE: dict[str, Any] = json.loads(_CASES_FILE.read_text(encoding="utf-8"))
_GROUPS: list[str] = sorted({case["group"] for case in _REFERENCE["cases"]})


def disagreements(got: Any, want: Any, *, relative: float, absolute: float) -> list[str]:
    """Return what differs by more than the tolerance, an empty list where nothing does."""
    if isinstance(want, list):
        if not isinstance(got, list) or len(got) != len(want):
            return [f"got {got!r}, want {want!r}"]
        pairs = zip(got, want, strict=True)
        return [text for g, w in pairs for text in disagreements(g, w, relative=relative, absolute=absolute)]
    if want is None or isinstance(want, str):
        return [] if got == want else [f"got {got!r}, want {want!r}"]
    if got is None or not abs(got - want) <= max(absolute, relative * abs(want)):
        return [f"got {got!r}, want {want!r}"]
    return []


def test_reference_cases__counted_by_group__are_all_there() -> None:
    by_group = dict.fromkeys(_GROUPS, 0)
    for case in _REFERENCE["cases"]:
        by_group[case["group"]] += 1

    assert by_group == _REFERENCE["counts"]


@pytest.mark.parametrize("group", _GROUPS)
def test_engine__reference_cases_of_a_group__agrees_within_tolerance(group: str) -> None:
    adapter = getattr(adapters, group)
    problems = []

    for case in _REFERENCE["cases"]:
        if case["group"] != group:
            continue
        result = adapter(**case["inputs"])
        tolerance = case["tolerance"]
        for key, want in case["expected"].items():
            found = disagreements(result[key], want, relative=tolerance["rel"], absolute=tolerance["abs"])
            problems += [f"{case['id']} {key}: {text}" for text in found]

    assert problems == []


@pytest.mark.skipif(not _DELIVERED_FILE.exists(), reason="the delivered reference file is not beside the repository")
def test_reference_cases__delivered_file_beside_the_repository__equals_the_copy() -> None:
    assert _CASES_FILE.read_bytes() == _DELIVERED_FILE.read_bytes()
