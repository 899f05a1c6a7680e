"""Effects and exposures day by day: what is null on a day has its reason there."""

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

import pytest

from app.results.daily_values import EffectPoint
from app.results.measured import DailyArm, Measured, MeasuredArm, Shape
from app.results.over_time import effects_over_time, exposures_over_time
from app.results.values import Entries
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, MeanSample, Proportion, RatioSample, Sample
from tests.unit.results.arms import STARTED, arm

_DAY = timedelta(days=1)
_LOST = ArmEstimate(n=3, value=None, variance=None, null_reason=NullReason.PRECISION_LOST)


def _mean(*values: int) -> MeanSample:
    return MeanSample.from_sums(n=len(values), sum_values=sum(values), sum_squares=sum(value**2 for value in values))


def _ratio(*pairs: tuple[int, int]) -> RatioSample:
    return RatioSample.from_sums(
        n=len(pairs),
        num_sum=sum(over for over, _ in pairs),
        num_sum_squares=sum(over**2 for over, _ in pairs),
        den_sum=sum(under for _, under in pairs),
        den_sum_squares=sum(under**2 for _, under in pairs),
        num_den_sum_products=sum(over * under for over, under in pairs),
    )


def _arm(days: list[Sample | None]) -> MeasuredArm:
    """Return an arm by its days; `None` is a day on which nothing changed."""
    daily = tuple(
        DailyArm(time=STARTED + number * _DAY, sample=sample)
        for number, sample in enumerate(days)
        if sample is not None
    )
    return MeasuredArm(sample=daily[-1].sample, daily=daily)


def _points(
    shape: Shape, control: list[Sample | None], treatment: list[Sample | None], confidence: float | None = 0.95
) -> tuple[EffectPoint, ...]:
    metric = Measured(key="m", shape=shape, arms={})
    (series,) = effects_over_time(metric, _arm(control), {"treatment": _arm(treatment)}, confidence)
    assert series.null_reason is None
    return series.points


def _numbers(point: EffectPoint) -> list[float | None]:
    return [
        point.difference,
        point.ci_lower,
        point.ci_upper,
        point.always_valid_ci_lower,
        point.always_valid_ci_upper,
    ]


_KNOWN = _mean(1, 2, 4)
_SERIES: list[tuple[Shape, list[Sample | None], list[Sample | None], list[NullReason | None]]] = [
    (
        Shape.RATE,
        [Proportion(0, 5), Proportion(0, 9), Proportion(2, 9)],
        [None, Proportion(0, 3), Proportion(1, 4)],
        [NullReason.EMPTY_ARM, NullReason.ZERO_VARIANCE, None],
    ),
    (
        Shape.MEAN,
        [_mean(3), _mean(3, 3), _mean(3, 3, 4), None, _mean(3, 3, 4, 5)],
        [_mean(3, 3), None, _mean(3, 3, 9), _LOST, _KNOWN],
        [NullReason.TOO_FEW_UNITS, NullReason.ZERO_VARIANCE, None, NullReason.PRECISION_LOST, None],
    ),
    (
        Shape.RATIO,
        [_ratio((1, 2), (2, 3)), None],
        [_ratio((0, 0), (0, 0)), _ratio((1, 1), (3, 2))],
        [NullReason.ZERO_DENOMINATOR, None],
    ),
    (
        Shape.MEAN,
        [_KNOWN],
        [ArmEstimate(n=2, value=Fraction(10**200), variance=None, null_reason=NullReason.OUT_OF_RANGE)],
        [NullReason.OUT_OF_RANGE],
    ),
]


@pytest.mark.parametrize(("shape", "control", "treatment", "reasons"), _SERIES)
def test_effects__day_with_a_null__says_why_and_no_other_day_does(
    shape: Shape, control: list[Sample | None], treatment: list[Sample | None], reasons: list[NullReason | None]
) -> None:
    points = _points(shape, control, treatment)

    assert [point.null_reason for point in points] == reasons
    assert [None in _numbers(point) for point in points] == [reason is not None for reason in reasons]


@pytest.mark.parametrize(("shape", "control", "treatment", "reasons"), _SERIES)
def test_effects__intervals_not_asked_for__are_no_reason(
    shape: Shape, control: list[Sample | None], treatment: list[Sample | None], reasons: list[NullReason | None]
) -> None:
    points = _points(shape, control, treatment, confidence=None)

    assert all(_numbers(point)[1:] == [None] * 4 for point in points)
    assert [point.null_reason for point in points] == [
        reason if point.difference is None else None for point, reason in zip(points, reasons, strict=True)
    ]


def test_effects__nobody_converted_yet__has_the_interval_of_one_look_beside_the_reason() -> None:
    (point,) = _points(Shape.RATE, [Proportion(0, 50)], [Proportion(0, 60)])

    assert point.difference == 0
    assert point.ci_lower is not None
    assert (point.always_valid_ci_lower, point.null_reason) == (None, NullReason.ZERO_VARIANCE)


def test_exposures__day_that_holds_earlier_users__says_so() -> None:
    seen = replace(arm(12), entries=tuple(Entries(STARTED + number * _DAY, 10 - 8 * number) for number in (0, 1)))

    with_lump = exposures_over_time("control", seen, has_lump=True).points
    without = exposures_over_time("control", seen, has_lump=False).points

    assert [(point.users, point.total, point.null_reason) for point in with_lump] == [
        (None, 10, "BEFORE_START_DATE"),
        (2, 12, None),
    ]
    assert [(point.users, point.total, point.null_reason) for point in without] == [(10, 10, None), (2, 12, None)]
