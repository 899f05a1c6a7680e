"""How each metric is made from an arm's observations, and how two arms compare by it. Plain functions, no I/O."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import assert_never

from app.results.answer import Method
from app.results.values import ArmObservations, Metric, ValueSums
from app.stats.comparisons import compare
from app.stats.distributions import Alternative, Distribution
from app.stats.exact import all_finite, to_float
from app.stats.intervals import Interval
from app.stats.lift import Lift, LiftMethod, relative_lift
from app.stats.means import value_interval
from app.stats.planning import Design
from app.stats.power_means import MeanPower, mde_means
from app.stats.power_rates import mde_proportions
from app.stats.proportions import difference_of_proportions, two_proportion_test, wilson_interval
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, MeanSample, Proportion, RatioSample, Sample

# No event carries a value, so there is no percentile of them.
NO_VALUES = "no_values"
# Counts and percentiles have no interval here.
NO_INTERVAL = "no_interval"
# Counts depend on the allocation, and percentiles have no standard error here, so nothing is tested.
NO_TEST = "no_test"

# The convention of planning: an effect is detectable if the test finds it four times out of five.
_POWER = 0.8
# Beyond this the statistics on sums of squares leave the range of a double.
_LARGEST_SUM = 10**300


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric's value in one arm with its interval; what is undefined is None, and `null_reason` says why."""

    value: int | float | None
    lower: float | None
    upper: float | None
    null_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """How a treatment differs from the control by one metric; `lift` is a fraction."""

    method: Method
    difference: float | None
    lower: float | None
    upper: float | None
    lift: float | None
    lift_lower: float | None
    lift_upper: float | None
    statistic: float | None
    df: float | None
    p_value: float | None
    # Why a value or the test is undefined, and why an interval is.
    null_reason: str | None
    interval_null_reason: str | None


def measure(metric: Metric, arm: ArmObservations, confidence: float) -> Measure:
    """Return the metric's value in an arm."""
    match metric:
        case Metric.UNIQUE_USERS:
            return Measure(arm.converters, None, None, NO_INTERVAL)
        case Metric.EVENT_COUNT:
            return Measure(arm.events, None, None, NO_INTERVAL)
        case Metric.P95_VALUE:
            value = _percentile(arm)
            return Measure(
                None if value is None else to_float(value),
                None,
                None,
                NO_VALUES if value is None else NO_INTERVAL,
            )
        case Metric.CONVERSION_RATE:
            return _measure(wilson_interval(_proportion(arm), confidence=confidence))
        case Metric.VALUE_PER_USER:
            return _measure(value_interval(_mean(arm), confidence=confidence))
        case Metric.AVG_VALUE:
            return _measure(value_interval(_ratio(arm), confidence=confidence, distribution=Distribution.NORMAL))
        case _:
            assert_never(metric)


def lift_percent(metric: Metric, control: ArmObservations, treatment: ArmObservations) -> float | None:
    """Return the treatment's value over the control's, minus 1, in percent with two decimals."""
    lift = _exact_lift(exact_value(metric, control), exact_value(metric, treatment))
    percent = None if lift is None else to_float(lift * 100)
    return None if percent is None or not all_finite(percent) else round(percent, 2)


def contrast(metric: Metric, control: ArmObservations, treatment: ArmObservations, confidence: float) -> Contrast:
    """Compare a treatment with the control by one metric."""
    match metric:
        case Metric.UNIQUE_USERS | Metric.EVENT_COUNT | Metric.P95_VALUE:
            return _contrast_without_test(exact_value(metric, control), exact_value(metric, treatment))
        case Metric.CONVERSION_RATE:
            return _contrast_of_rates(_proportion(control), _proportion(treatment), confidence)
        case Metric.VALUE_PER_USER:
            return _contrast_of_means(
                _mean(control), _mean(treatment), confidence, Method.WELCH_T, Distribution.WELCH_T
            )
        case Metric.AVG_VALUE:
            return _contrast_of_means(
                _ratio(control), _ratio(treatment), confidence, Method.DELTA_Z, Distribution.NORMAL
            )
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
            return _proportion(arm).estimate().value
        case Metric.VALUE_PER_USER:
            return _mean(arm).estimate().value
        case Metric.AVG_VALUE:
            return _ratio(arm).estimate().value
        case _:
            assert_never(metric)


def detectable_effect(
    metric: Metric, control: ArmObservations, treatment: ArmObservations, confidence: float
) -> float | None:
    """Return the smallest relative effect that the test finds with 80 % power in as many users as there are.

    `None` where the metric has no test, an arm is too small, or the control's value is 0 or has no variance.
    """
    if 1 - confidence >= _POWER or not (control.exposed and treatment.exposed):
        return None
    design = Design(alpha=1 - confidence, ratio_treatment_to_control=treatment.exposed / control.exposed)
    match metric:
        case Metric.UNIQUE_USERS | Metric.EVENT_COUNT | Metric.P95_VALUE:
            return None
        case Metric.CONVERSION_RATE:
            baseline = control.converters / control.exposed
            return mde_proportions(baseline=baseline, n_control=control.exposed, power=_POWER, design=design).relative
        case Metric.VALUE_PER_USER:
            return _detectable_difference(_mean(control), _mean(treatment), design)
        case Metric.AVG_VALUE:
            return _detectable_difference(_ratio(control), _ratio(treatment), design)
        case _:
            assert_never(metric)


def _proportion(arm: ArmObservations) -> Proportion:
    return Proportion(arm.converters, arm.exposed)


def _mean(arm: ArmObservations) -> Sample:
    sums = arm.sums
    if not _in_range(sums):
        return _beyond_range(arm, Fraction(sums.totals, arm.exposed) if arm.exposed else None)
    return MeanSample.from_sums(n=arm.exposed, sum_values=sums.totals, sum_squares=sums.total_squares)


def _ratio(arm: ArmObservations) -> Sample:
    sums = arm.sums
    if not _in_range(sums):
        return _beyond_range(arm, Fraction(sums.totals, sums.counts) if sums.counts else None)
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


def _beyond_range(arm: ArmObservations, value: Fraction | None) -> ArmEstimate:
    """Return an estimate whose value is shown if a double can hold it, and whose variance is not known."""
    return ArmEstimate(n=arm.exposed, value=value, variance=None, null_reason=NullReason.OUT_OF_RANGE)


def _percentile(arm: ArmObservations) -> Fraction | None:
    if arm.p95 is None:
        return None
    low = Fraction(arm.p95.low)
    return low + (Fraction(arm.p95.high) - low) * arm.p95.fraction


def _measure(interval: Interval) -> Measure:
    return Measure(interval.estimate, interval.lower, interval.upper, interval.null_reason)


def _exact_lift(control: Fraction | None, treatment: Fraction | None) -> Fraction | None:
    return (treatment - control) / control if control and treatment is not None else None


def _contrast_without_test(control: Fraction | None, treatment: Fraction | None) -> Contrast:
    lift = _exact_lift(control, treatment)
    difference = None if control is None or treatment is None else treatment - control
    return Contrast(
        method=Method.NONE,
        difference=_shown(difference),
        lower=None,
        upper=None,
        lift=_shown(lift),
        lift_lower=None,
        lift_upper=None,
        statistic=None,
        df=None,
        p_value=None,
        null_reason=NO_VALUES if difference is None else NO_TEST,
        interval_null_reason=None,
    )


def _shown(value: Fraction | None) -> float | None:
    shown = None if value is None else to_float(value)
    return shown if shown is not None and all_finite(shown) else None


def _contrast_of_rates(control: Proportion, treatment: Proportion, confidence: float) -> Contrast:
    interval = difference_of_proportions(control, treatment, confidence=confidence)
    test = two_proportion_test(control, treatment)
    lift = relative_lift(control, treatment, confidence=confidence, method=LiftMethod.FIELLER_NORMAL)
    return Contrast(
        method=Method.POOLED_Z,
        difference=interval.estimate,
        lower=interval.lower,
        upper=interval.upper,
        lift=lift.lift,
        lift_lower=lift.lower,
        lift_upper=lift.upper,
        statistic=test.statistic,
        df=None,
        p_value=test.p_value,
        null_reason=interval.null_reason or test.null_reason or _reason_without_lift(lift),
        interval_null_reason=lift.null_reason,
    )


def _contrast_of_means(
    control: Sample, treatment: Sample, confidence: float, method: Method, distribution: Distribution
) -> Contrast:
    difference = compare(
        control,
        treatment,
        confidence=confidence,
        alternative=Alternative.TWO_SIDED,
        distribution=distribution,
    )
    by_distribution = {
        Distribution.WELCH_T: LiftMethod.FIELLER_WELCH_T,
        Distribution.NORMAL: LiftMethod.FIELLER_NORMAL,
    }
    lift = relative_lift(control, treatment, confidence=confidence, method=by_distribution[distribution])
    return Contrast(
        method=method,
        difference=difference.difference,
        lower=difference.lower,
        upper=difference.upper,
        lift=lift.lift,
        lift_lower=lift.lower,
        lift_upper=lift.upper,
        statistic=difference.statistic,
        df=difference.df,
        p_value=difference.p_value,
        null_reason=difference.null_reason or _reason_without_lift(lift),
        interval_null_reason=lift.null_reason,
    )


def _reason_without_lift(lift: Lift) -> NullReason | None:
    return lift.null_reason if lift.lift is None else None


def _detectable_difference(control: Sample, treatment: Sample, design: Design) -> float | None:
    """Solve for the difference with the arms' own variances, as the test of it has them."""
    c, t = control.estimate(), treatment.estimate()
    if c.variance is None or t.variance is None or not c.value:
        return None
    error, baseline = math.sqrt(to_float(c.variance + t.variance)), abs(to_float(c.value))
    # The standard deviation that, common to both arms, gives the difference this standard error.
    std = error * math.sqrt(c.n / (1 + 1 / design.ratio_treatment_to_control))
    if not all_finite(std, baseline) or std == 0 or baseline == 0:
        return None
    found = mde_means(
        std=std, n_control=c.n, power=_POWER, baseline=baseline, design=design, method=MeanPower.Z
    ).relative
    return found if found is not None and all_finite(found) else None
