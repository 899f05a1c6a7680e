"""Real assignments follow the golden vectors."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.factories import ask_many, make_experiment

_VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "bucketing.json").read_text(encoding="utf-8"))
_BY_SEED: dict[str, list[dict[str, Any]]] = defaultdict(list)
for _case in _VECTORS["cases"]:
    _BY_SEED[_case["seed"]].append(_case)


@pytest.mark.parametrize("seed", _BY_SEED)
@pytest.mark.parametrize("ranges", _VECTORS["ranges"])
def test_assignments__with_a_golden_seed__are_the_golden_variants(client: httpx.Client, seed: str, ranges: str) -> None:
    bounds = _VECTORS["ranges"][ranges]
    experiment = make_experiment(client, *((end - start) / 100 for start, end in bounds), seed=seed)
    shown = [[variant["bucket_start"], variant["bucket_end"]] for variant in experiment["variants"]]
    assert shown == bounds
    cases = _BY_SEED[seed]
    answers = ask_many(client, experiment, [case["user_id"] for case in cases])
    expected = [f"v{case['variants'][ranges]}" for case in cases]
    assert [answer["variant"]["key"] for answer in answers] == expected


@pytest.mark.parametrize("seed", _BY_SEED)
@pytest.mark.parametrize("traffic_pct", [0.01, 12.34, 50, 99.99])
def test_assignments__with_a_traffic_share__enter_by_the_golden_traffic_bucket(
    client: httpx.Client, seed: str, traffic_pct: float
) -> None:
    experiment = make_experiment(client, seed=seed, traffic_pct=traffic_pct)
    cases = _BY_SEED[seed]
    answers = ask_many(client, experiment, [case["user_id"] for case in cases], enroll=False)
    expected = [case["traffic_bucket"] < round(traffic_pct * 100) for case in cases]
    assert [answer["variant"] is not None for answer in answers] == expected
