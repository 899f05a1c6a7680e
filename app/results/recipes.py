"""How each metric is made from an arm's observations. Plain functions, no I/O."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias, assert_never

from app.results.values import ArmObservations, Metric, ValueSums
from app.stats.distributions import Distribution
from app.stats.exact import all_finite, to_float
from app.stats.intervals import Interval
from app.stats.means import value_interval
from app.stats.proportions import wilson_interval
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, MeanSample, Proportion, RatioSample

# Sums that leave the range of a double come as an estimate without a variance.
MeanOrEstimate: TypeAlias = MeanSample | ArmEstimate
RatioOrEstimate: TypeAlias = RatioSample | ArmEstimate

# No event carries a value, so there is no percentile of them.
NO_VALUES = "NO_VALUES"
# Counts and percentiles have no interval here.
NO_INTERVAL = "NO_INTERVAL"

# Beyond this the statistics on sums of squares leave the range of a double.
_LARGEST_SUM = 10**300


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric's value in one arm with its interval; what is undefined is None, and `null_reason` says why."""

    value: int | float | None
    lower: float | None
    upper: float | None
    null_reason: str | None


def measure(metric: Metric, arm: ArmObservations, confidence: float) -> Measure:
    """Return the metric's value in an arm."""
    match metric:
        case Metric.UNIQUE_USERS:
            return Measure(arm.converters, None, None, NO_INTERVAL)
        case Metric.EVENT_COUNT:
            return Measure(arm.events, None, None, NO_INTERVAL)
        case Metric.P95_VALUE:
            value = shown(_percentile(arm))
            return Measure(value, None, None, NO_VALUES if value is None else NO_INTERVAL)
        case Metric.CONVERSION_RATE:
            return _measure(wilson_interval(rate_of(arm), confidence=confidence))
        case Metric.VALUE_PER_USER:
            return _measure(value_interval(mean_of(arm), confidence=confidence))
        case Metric.AVG_VALUE:
            return _measure(value_interval(ratio_of(arm), confidence=confidence, distribution=Distribution.NORMAL))
        case _:
            assert_never(metric)


def exact_value(metric: Metric, arm: ArmObservations) -> Fraction | None:
    """Return the metric's value without rounding, `None` where it is undefined."""
    match metric:
        case Metric.UNIQUE_USERS:
            return Fraction(arm.converters)
        case Metric.EVENT_COUNT:
            return Fraction(arm.events)
        case Metric.P95_VALUE:
            return _percentile(arm)
        case Metric.CONVERSION_RATE:
            return rate_of(arm).estimate().value
        case Metric.VALUE_PER_USER:
            return mean_of(arm).estimate().value
        case Metric.AVG_VALUE:
            return ratio_of(arm).estimate().value
        case _:
            assert_never(metric)


def exact_lift(control: Fraction | None, treatment: Fraction | None) -> Fraction | None:
    """Return the treatment's value over the control's, minus 1; `None` where the control's is 0 or undefined."""
    return (treatment - control) / control if control and treatment is not None else None


def lift_percent(metric: Metric, control: ArmObservations, treatment: ArmObservations) -> float | None:
    """Return the lift in percent with two decimals."""
    lift = shown(exact_lift(exact_value(metric, control), exact_value(metric, treatment)))
    percent = None if lift is None else round(lift * 100, 2)
    # Adding 0 turns a negative zero, left by rounding, into an ordinary one.
    return percent + 0.0 if percent is not None and all_finite(percent) else None


def shown(value: Fraction | None) -> float | None:
    """Return the nearest double, `None` where there is none."""
    rounded = None if value is None else to_float(value)
    return rounded if rounded is not None and all_finite(rounded) else None


def rate_of(arm: ArmObservations) -> Proportion:
    return Proportion(arm.converters, arm.exposed)


def mean_of(arm: ArmObservations) -> MeanOrEstimate:
    """Return the value per exposed user; who has none counts as 0."""
    sums = arm.sums
    if not _in_range(sums):
        return _beyond_range(arm, sums.totals / arm.exposed)
    return MeanSample.from_sums(n=arm.exposed, sum_values=sums.totals, sum_squares=sums.total_squares)


def ratio_of(arm: ArmObservations) -> RatioOrEstimate:
    """Return the value per event that carries one: a ratio of two sums over users."""
    sums = arm.sums
    if not _in_range(sums):
        return _beyond_range(arm, sums.totals / sums.counts)
    return RatioSample.from_sums(
        n=arm.exposed,
        num_sum=sums.totals,
        num_sum_squares=sums.total_squares,
        den_sum=sums.counts,
        den_sum_squares=sums.count_squares,
        num_den_sum_products=sums.products,
    )


def _in_range(sums: ValueSums) -> bool:
    return max(abs(sums.totals), sums.total_squares, abs(sums.products)) <= _LARGEST_SUM


def _beyond_range(arm: ArmObservations, value: Fraction) -> ArmEstimate:
    return ArmEstimate(n=arm.exposed, value=value, variance=None, null_reason=NullReason.OUT_OF_RANGE)


def _percentile(arm: ArmObservations) -> Fraction | None:
    if arm.p95 is None:
        return None
    low = Fraction(arm.p95.low)
    return low + (Fraction(arm.p95.high) - low) * arm.p95.fraction


def _measure(interval: Interval) -> Measure:
    return Measure(interval.estimate, interval.lower, interval.upper, interval.null_reason)
