"""How the effect and the exposures grew, day by day. Plain functions, no I/O."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from app.results.daily_values import EffectPoint, EffectSeries, ExposurePoint, ExposureSeries
from app.results.measured import DailyArm, Measured, MeasuredArm, Shape
from app.results.values import ArmObservations
from app.results.words import BEFORE_START_DATE, NO_DAILY_DATA, NO_TEST
from app.stats.distributions import two_sided_quantile
from app.stats.effects import Effect, Scale, effect_of, welch_df
from app.stats.exact import all_finite
from app.stats.proportions import difference_of_proportions
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, Proportion, Sample
from app.stats.sequential import always_valid_reach

_Limits: TypeAlias = tuple[float | None, float | None]
_NO_INTERVAL: _Limits = (None, None)
_NOBODY = ArmEstimate(n=0, value=None, variance=None, null_reason=NullReason.EMPTY_ARM)


def effects_over_time(
    metric: Measured, control: MeasuredArm, treatments: Mapping[str, MeasuredArm], confidence: float | None
) -> tuple[EffectSeries, ...]:
    """Return each treatment's cumulative difference at the end of every day on which an arm changed.

    treatments: by variant key. confidence: `None` leaves the intervals out.
    """
    if not metric.tested:
        return tuple(_without_points(metric, key, NO_TEST) for key in treatments)
    days = sorted({day.time for arm in (control, *treatments.values()) for day in arm.daily})
    before = _carried(control.daily, days)
    return tuple(
        _without_points(metric, key, NullReason.PRECISION_LOST)
        if _is_lost(control) or _is_lost(arm)
        else _series(metric, key, days, before, _carried(arm.daily, days), confidence)
        for key, arm in treatments.items()
    )


def exposures_over_time(variant: str, arm: ArmObservations, *, has_lump: bool) -> ExposureSeries:
    """Return the users exposed on each UTC day, days without any between the first and the last included.

    has_lump: the first day's entries are of all earlier days as well, so that the day's own are not known.
    """
    by_day: dict[datetime, int] = defaultdict(int)
    for entries in arm.entries:
        by_day[_midnight(entries.time)] += entries.users
    points: list[ExposurePoint] = []
    total, day = 0, min(by_day, default=None)
    while day is not None and day <= max(by_day):
        total += by_day.get(day, 0)
        reason = BEFORE_START_DATE if has_lump and not points else None
        users = by_day.get(day, 0) if reason is None else None
        points.append(ExposurePoint(time=day, users=users, total=total, null_reason=reason))
        day += timedelta(days=1)
    return ExposureSeries(variant=variant, points=tuple(points))


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


@dataclass(frozen=True, slots=True)
class _State:
    """An arm at the end of a day: its statistics, and what they estimate."""

    sample: Sample
    estimate: ArmEstimate


def _carried(daily: Sequence[DailyArm], days: Sequence[datetime]) -> list[_State]:
    """Return what held at the end of each of the days: an arm that did not change is as it was before."""
    found = {day.time: day.sample for day in daily}
    held: list[_State] = []
    last = _State(_NOBODY, _NOBODY)
    for day in days:
        if (sample := found.get(day)) is not None:
            last = _State(sample, sample.estimate())
        held.append(last)
    return held


def _series(
    metric: Measured,
    variant: str,
    days: Sequence[datetime],
    control: Sequence[_State],
    treatment: Sequence[_State],
    confidence: float | None,
) -> EffectSeries:
    points = tuple(
        _point(metric.shape, time, c, t, confidence) for time, c, t in zip(days, control, treatment, strict=True)
    )
    if not points:
        return _without_points(metric, variant, NO_DAILY_DATA)
    return EffectSeries(metric=metric.key, variant=variant, points=points, null_reason=None)


def _without_points(metric: Measured, variant: str, reason: str) -> EffectSeries:
    return EffectSeries(metric=metric.key, variant=variant, points=(), null_reason=reason)


def _is_lost(arm: MeasuredArm) -> bool:
    return arm.sample.estimate().null_reason is NullReason.PRECISION_LOST


def _point(shape: Shape, time: datetime, control: _State, treatment: _State, confidence: float | None) -> EffectPoint:
    c, t = control.estimate, treatment.estimate
    effect = effect_of(c, t, Scale.ABSOLUTE)
    fixed, always = _NO_INTERVAL, _NO_INTERVAL
    wanted: list[float | None] = [effect.estimate]
    if confidence is not None:
        fixed = _interval(shape, control, treatment, effect, confidence)
        if effect.variance is not None:
            always = _around(effect, always_valid_reach(c.n + t.n, alpha=1 - confidence))
        wanted += [*fixed, *always]
    return EffectPoint(
        time=time,
        difference=effect.estimate,
        ci_lower=fixed[0],
        ci_upper=fixed[1],
        always_valid_ci_lower=always[0],
        always_valid_ci_upper=always[1],
        n_variant=t.n,
        n_control=c.n,
        # What has a variance, and no interval for all that, has limits beyond every double.
        null_reason=(effect.null_reason or NullReason.OUT_OF_RANGE) if None in wanted else None,
    )


def _interval(shape: Shape, control: _State, treatment: _State, effect: Effect, confidence: float) -> _Limits:
    """Return the interval that the comparison of the same metric has."""
    if isinstance(control.sample, Proportion) and isinstance(treatment.sample, Proportion):
        rates = difference_of_proportions(control.sample, treatment.sample, confidence=confidence)
        return rates.lower, rates.upper
    df = welch_df(control.estimate, treatment.estimate) if shape is Shape.MEAN else None
    return _around(effect, two_sided_quantile(confidence, df))


def _around(effect: Effect, reach: float) -> _Limits:
    if effect.estimate is None or effect.variance is None:
        return _NO_INTERVAL
    half_width = reach * math.sqrt(effect.variance)
    lower, upper = effect.estimate - half_width, effect.estimate + half_width
    return (lower, upper) if all_finite(lower, upper) else _NO_INTERVAL
