"""Which metrics an answer is about."""

from datetime import UTC, datetime
from typing import Any

import pytest

from app.core.errors import Invalid
from app.experiments.values import Experiment
from app.metrics.values import AttachedMetric, Direction, Kind, Recipe, Role, Selection, StoredMetric
from app.metrics.values import Metric as MetricVersion
from app.results.chosen import chosen, names_of, to_look_up
from app.results.values import Metric
from tests.unit.results.arms import experiment

_AT = datetime(2026, 3, 1, tzinfo=UTC)


def _metric(key: str, version: int = 1, number: int = 1) -> MetricVersion:
    return MetricVersion(
        id=number,
        project_id=1,
        key=key,
        version=version,
        name=key,
        description=None,
        recipe=Recipe(kind=Kind.COUNT, selections=(Selection(("view",)),)),
        direction=Direction.UP,
        unit=None,
    )


def _attached(key: str, role: Role = Role.SECONDARY, **fields: Any) -> AttachedMetric:
    return AttachedMetric(metric=_metric(key), role=role, **fields)


def _planned(*metrics: AttachedMetric) -> Experiment:
    return experiment(metrics=metrics)


_FULL = _planned(
    _attached("views"),
    _attached("late", exploratory=True),
    _attached("sales", Role.PRIMARY),
    _attached("errors", Role.GUARDRAIL),
)


@pytest.mark.parametrize(
    ("of", "asked", "names"),
    [
        (experiment(), (), ("conversion_rate", "unique_users")),
        (_planned(_attached("late", exploratory=True)), (), ("conversion_rate", "unique_users")),
        (_FULL, (), ("sales", "views", "errors", "late", "conversion_rate", "unique_users")),
        (_FULL, ("attached",), ("sales", "views", "errors", "late")),
        (_FULL, ("views", "attached", "p95_value"), ("views", "sales", "errors", "late", "p95_value")),
        (_FULL, ("other",), ("other",)),
    ],
)
def test_names__asked__are_the_plans_first_and_each_once(
    of: Experiment, asked: tuple[str, ...], names: tuple[str, ...]
) -> None:
    assert names_of(of, asked) == names


def test_names__all_of_an_experiment_without_any__is_refused() -> None:
    with pytest.raises(Invalid, match=r"metrics\.1: .*has none"):
        names_of(experiment(), ("conversion_rate", "attached"))


def test_chosen__metric_of_the_experiment__has_its_version_there_and_others_are_exploratory() -> None:
    found = {"other": StoredMetric(metric=_metric("other", 3), latest_version=3, created_at=_AT, changed_at=_AT)}
    names = ("sales", "other", "conversion_rate", "event_count")
    assert to_look_up(_FULL, names) == ("other",)

    sales, other, rate, total = chosen(_FULL, names, found, names)

    assert sales.stored is not None
    assert (sales.stored.version, sales.attached and sales.attached.role) == (1, Role.PRIMARY)
    assert other.attached == AttachedMetric(metric=_metric("other", 3), role=Role.SECONDARY, exploratory=True)
    assert (rate.built_in, rate.stored) == (Metric.CONVERSION_RATE, None)
    assert (total.built_in, total.attached) == (Metric.EVENT_COUNT, None)


def test_chosen__unknown_names__are_all_refused_by_their_places() -> None:
    names = ("a", "conversion_rate", "b")
    with pytest.raises(Invalid) as refusal:
        chosen(experiment(), names, {}, names)
    errors: Any = refusal.value.extensions["errors"]
    assert [error["field"] for error in errors] == ["metrics.0", "metrics.2"]
    assert "GET /metrics" in refusal.value.detail
