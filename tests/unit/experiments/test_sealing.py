"""Sealed plans: one text, its hash, and what contradicts it."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.experiments.analysis_plan import AnalysisPlan, PlannedMetric, Seal, SealedPlan, Spending, StoppingRule
from app.experiments.lifecycle import Status
from app.experiments.population import ContextValue, ExposureRule, Population
from app.experiments.sealing import (
    NotedStart,
    Verdict,
    account_of,
    canonical,
    hash_of,
    plan_document,
    read_document,
    verdict,
)
from app.experiments.values import Experiment, Variant
from app.metrics.values import AttachedMetric, Direction, Kind, Metric, Recipe, Role, Selection

_AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
_METRIC = Metric(
    id=3,
    project_id=1,
    key="revenue",
    version=2,
    name="Revenue",
    description=None,
    recipe=Recipe(kind=Kind.SUM, selections=(Selection(("purchase",)),), cap=100.0),
    direction=Direction.UP,
    unit="EUR",
)
_USED = AttachedMetric(metric=_METRIC, role=Role.GUARDRAIL, margin=0.02)
_EXPERIMENT = Experiment(
    id=7,
    project_id=1,
    key="button",
    name="Button",
    description=None,
    status=Status.RUNNING,
    seed="seed",
    traffic_pct=Decimal("50.00"),
    config={},
    version=1,
    starts_at=None,
    ends_at=None,
    started_at=_AT,
    ended_at=None,
    created_at=_AT,
    updated_at=_AT,
    variants=(
        Variant(1, "a", "A", Decimal("50.00"), is_control=True, config={}, bucket_start=0, bucket_end=5000),
        Variant(2, "b", "B", Decimal("50.00"), is_control=False, config={}, bucket_start=5000, bucket_end=10_000),
    ),
    population=Population(exclude_users=("ü",)),
    plan=AnalysisPlan(
        hypothesis='Größer "besser" 😀',
        sample_size=1000,
        stopping_rule=StoppingRule.GROUP_SEQUENTIAL,
        looks=4,
        spending=Spending.POCOCK,
        metrics=(PlannedMetric("revenue", Role.GUARDRAIL, 0.02, 2),),
    ),
    metrics=(_USED,),
)


def _sealed(experiment: Experiment) -> SealedPlan:
    document = canonical(plan_document(experiment, _AT))
    return SealedPlan(Seal(_AT, hash_of(document)), document)


def test_hash__of_a_document__is_the_sha256_that_anybody_computes() -> None:
    sealed = _sealed(_EXPERIMENT)

    assert sealed.seal.hash == hashlib.sha256(sealed.document.encode("utf-8")).hexdigest()
    # Pinned: another text for the same promise would break every seal there is.
    assert sealed.seal.hash == "9dddc38f58f89fe19f43ca2a9da9148a9c456d0a67422eda74058580997d48c5"


def test_canonical__of_any_order_of_keys__is_one_text() -> None:
    document = plan_document(_EXPERIMENT, _AT)
    text = canonical(document)

    assert canonical(dict(reversed(document.items()))) == text
    assert json.loads(text) == document
    assert "😀" in text


def test_verdict__nothing_changed__is_good() -> None:
    found = verdict(_EXPERIMENT, _sealed(_EXPERIMENT))

    assert (found.problems, found.changed_since) == ((), ())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"traffic_pct": Decimal(100)}, ["traffic_pct"]),
        ({"population": Population(exclude_users=("ü", "v"))}, ["population.exclude_users"]),
        (
            {"population": Population(exclude_context=(ContextValue("bot", "true"),))},
            ["population.exclude_users", "population.exclude_context"],
        ),
        ({"name": "Other", "status": Status.COMPLETED, "version": 9, "ended_at": _AT}, []),
        ({"metrics": (_USED, replace(_USED, exploratory=True, position=1))}, []),
    ],
)
def test_verdict__lawful_changes__are_named_and_break_nothing(changes: dict[str, Any], expected: list[str]) -> None:
    found = verdict(replace(_EXPERIMENT, **changes), _sealed(_EXPERIMENT))

    assert (found.problems, list(found.changed_since)) == ((), expected)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"seed": "other"}, "seed"),
        ({"key": "other"}, "experiment"),
        ({"variants": _EXPERIMENT.variants[:1]}, "variants"),
        ({"plan": replace(_EXPERIMENT.plan, sample_size=10)}, "sample_size"),
        ({"plan": replace(_EXPERIMENT.plan, hypothesis="Other")}, "hypothesis"),
        ({"plan": replace(_EXPERIMENT.plan, stopping_rule=StoppingRule.FIXED)}, "stopping_rule"),
        ({"metrics": ()}, "metrics"),
        ({"metrics": (replace(_USED, role=Role.SECONDARY),)}, "metrics"),
        ({"metrics": (replace(_USED, metric=replace(_METRIC, version=3)),)}, "metrics"),
        ({"metrics": (replace(_USED, metric=replace(_METRIC, recipe=replace(_METRIC.recipe, cap=9.0))),)}, "metrics"),
        ({"population": replace(_EXPERIMENT.population, exposure=ExposureRule.EVENT)}, "population.exposure"),
    ],
)
def test_verdict__what_was_promised_differs__is_broken(changes: dict[str, Any], part: str) -> None:
    found = verdict(replace(_EXPERIMENT, **changes), _sealed(_EXPERIMENT))

    assert any(problem.startswith(part) for problem in found.problems), found.problems


@given(st.data())
def test_verdict__any_byte_of_the_text_changed__is_broken(data: st.DataObject) -> None:
    sealed = _sealed(_EXPERIMENT)
    place = data.draw(st.integers(0, len(sealed.document) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda char: char != sealed.document[place]))
    text = sealed.document[:place] + other + sealed.document[place + 1 :]

    found = verdict(_EXPERIMENT, replace(sealed, document=text))

    assert found.problems == ("the sealed text does not have this hash",)


_NO_OBJECTS = [
    "not json",
    "[]",
    "1",
    "",
    '{"a": NaN}',
    '{"a": 1e999}',
    '{"a": "\\ud800"}',
    '{"a": ' + "[" * 300 + "]" * 300 + "}",
    '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
]


@pytest.mark.parametrize("text", _NO_OBJECTS)
def test_verdict__text_with_its_hash_that_is_no_plan__is_broken(text: str) -> None:
    found = verdict(_EXPERIMENT, SealedPlan(Seal(_AT, hash_of(text)), text))

    assert found.problems == ("the sealed text is no JSON object as plans are",)
    assert read_document(text) is None


def test_verdict__population_that_is_no_object__is_broken() -> None:
    text = '{"population": 5}'

    found = verdict(_EXPERIMENT, SealedPlan(Seal(_AT, hash_of(text)), text))

    assert "population is not what was sealed" in found.problems


def test_account__seal_that_the_audit_log_confirms__is_good() -> None:
    sealed = _sealed(_EXPERIMENT)

    found = account_of(_EXPERIMENT, sealed, NotedStart(sealed.seal.hash))

    assert found.verdict is not None
    assert (found.document, found.seal, found.verdict.problems) == (sealed.document, sealed.seal, ())


@pytest.mark.parametrize(
    ("noted", "problem"),
    [
        (NotedStart("0" * 64), f"the audit log's entry of the start has another hash: {'0' * 64}"),
        (NotedStart(None), "the audit log's entry of the start has no hash of a plan"),
        (None, "the audit log has no entry of the start, which would confirm the hash"),
    ],
)
def test_account__seal_that_the_audit_log_does_not_confirm__is_broken(noted: NotedStart | None, problem: str) -> None:
    found = account_of(_EXPERIMENT, _sealed(_EXPERIMENT), noted)

    assert found.verdict is not None
    assert found.verdict.problems == (problem,)


@pytest.mark.parametrize(
    ("noted", "problem"),
    [
        (NotedStart("0" * 64), f"the seal is gone: the audit log's entry of the start has its hash, {'0' * 64}"),
        (None, "there is neither a seal nor an entry of the start in the audit log"),
    ],
)
def test_account__seal_that_is_gone__is_broken(noted: NotedStart | None, problem: str) -> None:
    found = account_of(_EXPERIMENT, None, noted)

    assert (found.seal, found.verdict) == (None, Verdict((problem,), ()))


@pytest.mark.parametrize(
    ("experiment", "noted"),
    [(replace(_EXPERIMENT, status=Status.DRAFT, started_at=None), None), (_EXPERIMENT, NotedStart(None))],
)
def test_account__draft_or_started_before_there_were_plans__has_no_verdict(
    experiment: Experiment, noted: NotedStart | None
) -> None:
    found = account_of(experiment, None, noted)

    assert (found.seal, found.verdict) == (None, None)


def test_plan__said_again_without_versions__is_the_sealed_one() -> None:
    again = replace(_EXPERIMENT.plan, metrics=(PlannedMetric("revenue", Role.GUARDRAIL, 0.02),))

    assert again.with_versions_of(_EXPERIMENT.plan) == _EXPERIMENT.plan
