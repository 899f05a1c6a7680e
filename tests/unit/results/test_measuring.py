"""What recipes measure for an answer, and how the analysis takes it."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest

from app.measurement.values import ArmMeasured, ClusterCounts, DailySums, Days, QuantileSeen, Sums
from app.metrics.builtin import built_in
from app.metrics.values import AttachedMetric, Direction, Kind, Metric, Recipe, Role, Selection
from app.results.chosen import Chosen
from app.results.comparison_values import Method
from app.results.contrasts import contrast
from app.results.estimates import measure
from app.results.measured import Measured, Shape
from app.results.measuring import (
    MOST_EFFECT_POINTS,
    days_of,
    metrics_of,
    observed_question,
    wanted_of,
    without_covariates,
)
from app.results.over_time import effects_over_time
from app.results.values import NOTHING_WANTED, ArmObservations, Entries, Observations, Question, Slot, Wanted
from app.stats.reasons import NullReason
from app.stats.samples import MeanSample, Proportion, RatioSample
from tests.unit.results.arms import experiment

_DAY = timedelta(days=1)
_FIRST = datetime(2026, 3, 1, tzinfo=UTC)
_VIEWS = (Selection(("view",)),)


def _stored(key: str, **recipe: Any) -> Chosen:
    metric = Metric(
        id=1,
        project_id=1,
        key=key,
        version=4,
        name="A name",
        description=None,
        recipe=Recipe(**{"kind": Kind.COUNT, "selections": _VIEWS, **recipe}),
        direction=Direction.DOWN,
        unit="ms",
    )
    return Chosen(key, AttachedMetric(metric=metric, role=Role.GUARDRAIL, margin=0.1))


def _by_name(key: str) -> Chosen:
    metric = built_in(key, 1)
    return Chosen(key, None if metric is None else AttachedMetric(metric=metric, role=Role.SECONDARY))


def _measured(item: Chosen, *arms: ArmMeasured, question: Question | None = None) -> Measured:
    question = question or Question(metrics=(item.key,))
    wanted = wanted_of([item], question, 1)
    seen = Observations({}, measured={item.key: dict(enumerate(arms, start=1))})
    (found,) = metrics_of([item], experiment(), question, wanted, seen)
    return found


@pytest.mark.parametrize(
    ("names", "question", "measured", "by_days"),
    [
        (["conversion_rate", "unique_users", "value_per_user"], {}, [], False),
        (["conversion_rate", "p95_value", "event_count"], {"cuped_days": 1}, ["conversion_rate"], False),
        (["conversion_rate", "avg_value"], {"cuped_days": 7}, ["conversion_rate"], False),
        (["conversion_rate", "unique_users"], {"effect_over_time": True}, ["conversion_rate"], True),
        (["views", "conversion_rate", "unique_users"], {}, ["views", "conversion_rate"], True),
        (["views", "conversion_rate"], {"effect_over_time": False}, ["views"], False),
        (["views", "conversion_rate"], {"with_series": False}, ["views"], False),
    ],
)
def test_wanted__of_a_question__is_what_counts_alone_do_not_tell(
    names: list[str],
    question: dict[str, Any],
    measured: list[str],
    by_days: bool,  # noqa: FBT001  # A case.
) -> None:
    metrics = [_stored(name) if name == "views" else _by_name(name) for name in names]
    asked = Question(metrics=tuple(names), **question)

    wanted = wanted_of(metrics, asked, 2)

    assert (list(wanted.recipes), wanted.most_days > 0) == (measured, by_days)
    assert observed_question(asked, wanted).metrics == tuple(name for name in names if name not in measured)


def test_wanted__percentile_of_the_experiment__is_measured_with_its_interval() -> None:
    metric = built_in("p95_value", 1)
    assert metric is not None
    own = Chosen("p95_value", AttachedMetric(metric=metric, role=Role.GUARDRAIL, margin=0.1), is_own=True)
    assert list(wanted_of([own], Question(), 1).recipes) == ["p95_value"]
    found = _measured(own, _quantile(5.0, 4.0, 7.0), _quantile(8.0, 6.0, 9.0))
    assert (found.tested, found.version, found.kind) == (True, None, Kind.QUANTILE)


def test_wanted__built_in_metric__is_of_the_events_that_are_asked_for() -> None:
    question = Question(event_types=("buy",), cuped_days=9)
    wanted = wanted_of([_by_name("value_per_user"), _stored("views", covariate_days=3)], question, 1)

    assert wanted.recipes["value_per_user"].selections[0].event_types == ("buy",)
    assert wanted.recipes["views"].selections == _VIEWS
    assert [recipe.covariate_days for recipe in wanted.recipes.values()] == [9, 3]
    assert [recipe.covariate_days for recipe in without_covariates(wanted).recipes.values()] == [None, None]


def test_wanted__so_many_metrics_that_the_series_would_be_too_long__begins_later() -> None:
    metrics = [_stored(f"m{number}") for number in range(50)]
    assert wanted_of(metrics, Question(), 4).most_days == MOST_EFFECT_POINTS // 200


def _entered(*times: datetime) -> Observations:
    return Observations({1: ArmObservations(entries=tuple(Entries(time, 1) for time in times))})


def test_days__of_users__go_from_the_first_to_the_last_on_which_anything_happened() -> None:
    asked, wanted, late = Question(), Wanted(most_days=100), _FIRST + 900 * _DAY
    seen = _entered(_FIRST + 5 * _DAY, _FIRST + timedelta(hours=23))
    assert days_of(seen, asked, wanted, late) == Days(date(2026, 3, 1), 6)
    slot = Slot(_FIRST + 8 * _DAY, "view", 1, 1)
    active = Observations({1: replace(seen.arms[1], slots=(slot,))})
    assert days_of(active, asked, wanted, late) == Days(date(2026, 3, 1), 9)
    assert days_of(active, asked, Wanted(most_days=4), late) == Days(date(2026, 3, 6), 4)
    assert days_of(seen, asked, NOTHING_WANTED, late) is None
    assert days_of(_entered(), asked, wanted, late) is None


def test_days__of_named_events_alone__go_as_far_as_events_of_others_may() -> None:
    seen, wanted = _entered(_FIRST), Wanted(most_days=100)
    asked = Question(event_types=("view",))
    assert days_of(seen, asked, wanted, _FIRST + 9 * _DAY) == Days(date(2026, 3, 1), 11)
    ended = replace(asked, end=_FIRST + 3 * _DAY)
    assert days_of(seen, ended, wanted, _FIRST + 9 * _DAY) == Days(date(2026, 3, 1), 4)


def test_metric__stored__is_what_its_experiment_makes_of_it() -> None:
    found = _measured(_stored("views"), ArmMeasured(sums=Sums(n=2)), question=Question(event_types=("x",)))
    assert (found.name, found.kind, found.shape, found.version) == ("A name", Kind.COUNT, Shape.MEAN, 4)
    assert (found.role, found.margin, found.sign, found.unit) == (Role.GUARDRAIL, 0.1, -1.0, "ms")
    assert "event_type does not narrow" in found.notes[0]


@pytest.mark.parametrize(
    ("recipe", "shape", "sample"),
    [
        ({"kind": Kind.CONVERSION}, Shape.RATE, Proportion),
        ({"kind": Kind.RETENTION, "first_day": 1, "last_day": 2}, Shape.RATE, Proportion),
        ({"kind": Kind.SUM, "cap": 5.0}, Shape.MEAN, MeanSample),
        ({"kind": Kind.MEAN}, Shape.RATIO, RatioSample),
        ({"kind": Kind.TIME_TO_FIRST}, Shape.RATIO, RatioSample),
    ],
)
def test_metric__of_each_kind__has_the_sample_of_its_shape(recipe: dict[str, Any], shape: Shape, sample: type) -> None:
    sums = Sums(
        n=4,
        users=2,
        numerator=Fraction(2),
        numerator_squares=Fraction(2),
        denominator=Fraction(2),
        denominator_squares=Fraction(2),
        products=Fraction(2),
    )
    found = _measured(_stored("m", **recipe), ArmMeasured(sums=sums))
    assert found.shape is shape
    assert isinstance(found.of(1).sample, sample)
    # Nobody is in the other arm, which is no reason to take it for another kind.
    assert isinstance(found.of(2).sample, sample)


def test_metric__days_on_which_nothing_changed__are_left_out() -> None:
    days = [Sums(), Sums(n=3, users=1), Sums(n=3, users=1), Sums(n=3, users=2), Sums(n=3, users=2)]
    daily = tuple(DailySums(_FIRST.date() + number * _DAY, sums) for number, sums in enumerate(days))

    found = _measured(_stored("m", kind=Kind.CONVERSION), ArmMeasured(sums=days[-1], daily=daily)).of(1).daily

    assert [day.time for day in found] == [_FIRST + _DAY, _FIRST + 3 * _DAY]
    assert [day.sample for day in found] == [Proportion(1, 3), Proportion(2, 3)]


def test_metric__sums_beyond_what_a_double_holds__keep_their_value_alone() -> None:
    huge = Sums(n=2, users=2, numerator=Fraction(10) ** 200, numerator_squares=Fraction(10) ** 400)
    arm = _measured(_stored("m", kind=Kind.SUM), ArmMeasured(sums=huge)).of(1)
    estimate = arm.sample.estimate()
    assert (estimate.value, estimate.variance) == (Fraction(10) ** 200 / 2, None)
    assert estimate.null_reason is NullReason.OUT_OF_RANGE


def _quantile(low: float, lower: float | None, upper: float | None) -> ArmMeasured:
    counts = ClusterCounts(users=30, values=30, below=15, below_squares=15, value_squares=30, products=15)
    seen = QuantileSeen(low=low, high=low, fraction=Fraction(0), counts=counts, lower=lower, upper=upper)
    return ArmMeasured(sums=Sums(n=100), events=30, quantile=seen)


def test_metric__quantile__is_tested_by_the_length_of_its_interval() -> None:
    item = _stored("m", kind=Kind.QUANTILE, quantile=0.5)
    found = _measured(item, _quantile(5.0, 4.0, 7.0), _quantile(8.0, 6.0, 9.0))

    shown = measure(found, found.of(1), 0.95)
    compared = contrast(found, found.of(1), found.of(2), 0.95)

    assert (shown.value, shown.lower, shown.upper, found.of(1).sample.estimate().n) == (5.0, 4.0, 7.0, 100)
    assert (compared.method, compared.difference) == (Method.QUANTILE_Z, 3.0)
    assert compared.statistic == pytest.approx(3 / ((3 / 3.919928) ** 2 * 2) ** 0.5, rel=1e-6)


def test_metric__quantile_without_values_or_bounds__says_why() -> None:
    item = _stored("m", kind=Kind.QUANTILE, quantile=0.5)
    found = _measured(item, _quantile(5.0, None, 7.0), ArmMeasured(sums=Sums(n=9)))

    assert measure(found, found.of(1), 0.95).null_reason == "TOO_FEW_UNITS"
    assert measure(found, found.of(2), 0.95).null_reason == "NO_VALUES"
    assert contrast(found, found.of(1), found.of(2), 0.95).null_reason == "NO_VALUES"
    assert measure(_measured(item), _measured(item).of(1), 0.95).null_reason == "EMPTY_ARM"


def test_metric__covariates_that_are_gone__are_spoken_of() -> None:
    item = _stored("m", kind=Kind.SUM, covariate_days=7)
    question = Question(metrics=("m",))
    wanted = without_covariates(wanted_of([item], question, 1))
    seen = Observations({}, measured={"m": {1: ArmMeasured(sums=Sums(n=2))}})

    (found,) = metrics_of([item], experiment(), question, wanted, seen)

    assert found.of(1).covariate is None
    assert "given them up" in found.notes[0]


def _summed(n: int, total: int, squares: int, unit: Fraction, covariate_unit: Fraction | None = None) -> ArmMeasured:
    sums = Sums(
        n=n, numerator=Fraction(total), numerator_squares=Fraction(squares), covariate_squares=Fraction(squares)
    )
    return ArmMeasured(sums=sums, events=n, unit=unit, covariate_unit=covariate_unit)


@pytest.mark.parametrize(
    ("limit", "exponent", "reason"),
    [
        ({"cap": 300.0}, -40, None),
        ({"cap": 300.0}, -10, NullReason.PRECISION_LOST),
        ({"winsorize": 0.9}, -10, NullReason.PRECISION_LOST),
        ({}, -40, None),
        ({}, -10, NullReason.PRECISION_LOST),
    ],
)
def test_metrics_of__value_far_beyond_the_limit__is_not_told_from_rounding(
    limit: dict[str, float], exponent: int, reason: NullReason | None
) -> None:
    item = _stored("spend", kind=Kind.SUM, selections=_VIEWS, **limit)
    arm = _summed(200, 8000, 400_000, Fraction(2) ** exponent)

    found = _measured(item, arm, arm)

    assert {found.of(variant).sample.estimate().null_reason for variant in (1, 2)} == {reason}
    assert (contrast(found, found.of(1), found.of(2), 0.95).p_value is None) == (reason is not None)


def test_metrics_of__value_far_beyond_those_of_another_arm__leaves_that_arm_alone_without_a_number() -> None:
    item = _stored("spend", kind=Kind.SUM, selections=_VIEWS)
    large, hidden = _summed(200, 10**21, 10**42, Fraction(256)), _summed(200, 8000, 400_000, Fraction(256))

    found = _measured(item, large, hidden)

    assert found.of(1).sample.estimate().value == Fraction(10**21, 200)
    assert found.of(2).sample.estimate().null_reason is NullReason.PRECISION_LOST
    compared = contrast(found, found.of(1), found.of(2), 0.95)
    assert (compared.difference, compared.p_value, compared.null_reason) == (None, None, "PRECISION_LOST")


def test_metrics_of__value_far_beyond_those_of_earlier_days__leaves_these_without_a_number() -> None:
    item = _stored("spend", kind=Kind.SUM, selections=_VIEWS)
    early, late = (_summed(200, total, squares, Fraction(256)) for total, squares in ((0, 0), (10**21, 10**42)))
    days = tuple(DailySums(date(2026, 3, 1 + day), arm.sums) for day, arm in enumerate((early, late)))

    daily = _measured(item, replace(late, daily=days)).of(1).daily

    assert [day.sample.estimate().null_reason for day in daily] == [NullReason.PRECISION_LOST, None]


def test_metrics_of__totals_all_zero_by_rounding__are_told_from_those_that_are() -> None:
    item = _stored("spend", kind=Kind.SUM, selections=_VIEWS, winsorize=0.9)

    crushed = _measured(item, _summed(200, 0, 0, Fraction(2) ** 8), _summed(200, 0, 0, Fraction(2) ** 8))
    ordinary = _measured(item, _summed(200, 0, 0, Fraction(2) ** -55), _summed(200, 0, 0, Fraction(2) ** -55))

    assert crushed.of(1).sample.estimate().null_reason is NullReason.PRECISION_LOST
    assert ordinary.of(1).sample.estimate().value == 0


def test_metrics_of__value_far_beyond_before_the_exposure__leaves_the_raw_numbers() -> None:
    item = _stored("spend", kind=Kind.SUM, selections=_VIEWS, cap=300.0, covariate_days=7)
    arm = _summed(200, 8000, 400_000, Fraction(2) ** -50, Fraction(2) ** 8)

    found = _measured(item, arm, arm)

    assert found.of(1).covariate is None
    assert found.of(1).sample.estimate().value == 40
    assert any("nothing is adjusted" in note for note in found.notes)


@pytest.mark.parametrize(
    ("covariate", "unit", "reason"),
    [
        (Fraction(10) ** 602, Fraction(2) ** 900, NullReason.OUT_OF_RANGE),
        (Fraction(400_000), Fraction(2) ** 8, NullReason.PRECISION_LOST),
    ],
)
def test_metrics_of__covariate_that_cannot_be_used__takes_nothing_from_the_raw_numbers_and_says_why(
    covariate: Fraction, unit: Fraction, reason: NullReason
) -> None:
    item = _stored("spend", kind=Kind.SUM, selections=_VIEWS, covariate_days=7)
    arm = _summed(200, 8000, 400_000, Fraction(1, 2**50), unit)
    odd = replace(arm, sums=replace(arm.sums, covariate_squares=covariate))

    found = _measured(item, odd, odd)

    compared = contrast(found, found.of(1), found.of(2), 0.95)
    assert (compared.p_value, compared.null_reason) == (1.0, None)
    assert (compared.adjusted.p_value, compared.adjusted.null_reason) == (None, reason)


def test_metrics_of__arm_that_is_lost__has_no_days_either() -> None:
    item = _stored("spend", kind=Kind.SUM, selections=_VIEWS)
    large, hidden = _summed(200, 10**21, 10**42, Fraction(256)), _summed(200, 8000, 400_000, Fraction(256))
    day = (DailySums(date(2026, 3, 1), large.sums),)
    found = _measured(item, replace(large, daily=day), hidden)

    (series,) = effects_over_time(found, found.of(2), {"treatment": found.of(1)}, 0.95)

    assert (series.points, series.null_reason) == ((), NullReason.PRECISION_LOST)
