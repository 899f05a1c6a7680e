"""How two arms compare by a metric, and what could have been found. Plain functions, no I/O."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import assert_never

from app.results.answer import Method
from app.results.recipes import NO_VALUES, exact_lift, exact_value, mean_of, rate_of, ratio_of, shown
from app.results.values import ArmObservations, Metric
from app.stats.comparisons import compare
from app.stats.distributions import Alternative, Distribution
from app.stats.exact import all_finite, to_float
from app.stats.lift import Lift, LiftMethod, relative_lift
from app.stats.planning import Design
from app.stats.power_means import MeanPower, mde_means
from app.stats.power_rates import mde_proportions
from app.stats.proportions import difference_of_proportions, two_proportion_test
from app.stats.reasons import NullReason
from app.stats.samples import Proportion, Sample
from app.stats.sequential import always_valid_interval

# Counts depend on the allocation, and percentiles have no standard error here, so nothing is tested.
NO_TEST = "NO_TEST"
# The metrics whose differences are tested, and which can therefore name a winner.
TESTED = frozenset({Metric.CONVERSION_RATE, Metric.VALUE_PER_USER, Metric.AVG_VALUE})

# The convention of planning: an effect is detectable if the test finds it four times out of five.
_POWER = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """How a treatment differs from the control by one metric; `lift` is a fraction.

    `lower` and `upper` belong to this one look; the `always_` ones hold however often one looks.
    """

    method: Method
    difference: float | None = None
    lower: float | None = None
    upper: float | None = None
    lift: float | None = None
    lift_lower: float | None = None
    lift_upper: float | None = None
    statistic: float | None = None
    df: float | None = None
    p_value: float | None = None
    always_lower: float | None = None
    always_upper: float | None = None
    always_p_value: float | None = None
    # Why a value or the test is undefined, and why an interval is.
    null_reason: str | None = None
    interval_null_reason: str | None = None


def contrast(metric: Metric, control: ArmObservations, treatment: ArmObservations, confidence: float) -> Contrast:
    """Compare a treatment with the control by one metric."""
    match metric:
        case Metric.UNIQUE_USERS | Metric.EVENT_COUNT | Metric.P95_VALUE:
            return _without_test(exact_value(metric, control), exact_value(metric, treatment))
        case Metric.CONVERSION_RATE:
            return _of_rates(rate_of(control), rate_of(treatment), confidence)
        case Metric.VALUE_PER_USER:
            return _of_means(mean_of(control), mean_of(treatment), confidence, Method.WELCH_T)
        case Metric.AVG_VALUE:
            return _of_means(ratio_of(control), ratio_of(treatment), confidence, Method.DELTA_Z)
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
            found = mde_proportions(baseline=baseline, n_control=control.exposed, power=_POWER, design=design)
            return found.relative
        case Metric.VALUE_PER_USER:
            return _detectable_difference(mean_of(control), mean_of(treatment), design)
        case Metric.AVG_VALUE:
            return _detectable_difference(ratio_of(control), ratio_of(treatment), design)
        case _:
            assert_never(metric)


def _without_test(control: Fraction | None, treatment: Fraction | None) -> Contrast:
    if control is None or treatment is None:
        return Contrast(method=Method.NONE, null_reason=NO_VALUES)
    lift = shown(exact_lift(control, treatment))
    return Contrast(method=Method.NONE, difference=shown(treatment - control), lift=lift, null_reason=NO_TEST)


def _of_rates(control: Proportion, treatment: Proportion, confidence: float) -> Contrast:
    interval = difference_of_proportions(control, treatment, confidence=confidence)
    test = two_proportion_test(control, treatment)
    lift = relative_lift(control, treatment, confidence=confidence, method=LiftMethod.FIELLER_NORMAL)
    always = always_valid_interval(control, treatment, alpha=1 - confidence)
    return Contrast(
        method=Method.POOLED_Z,
        difference=interval.estimate,
        lower=interval.lower,
        upper=interval.upper,
        lift=lift.lift,
        lift_lower=lift.lower,
        lift_upper=lift.upper,
        statistic=test.statistic,
        p_value=test.p_value,
        always_lower=always.lower,
        always_upper=always.upper,
        always_p_value=always.p_value,
        null_reason=interval.null_reason or test.null_reason or _reason_without_lift(lift),
        interval_null_reason=lift.null_reason,
    )


def _of_means(control: Sample, treatment: Sample, confidence: float, method: Method) -> Contrast:
    distribution, lift_method = (
        (Distribution.WELCH_T, LiftMethod.FIELLER_WELCH_T)
        if method is Method.WELCH_T
        else (Distribution.NORMAL, LiftMethod.FIELLER_NORMAL)
    )
    test = compare(
        control, treatment, confidence=confidence, alternative=Alternative.TWO_SIDED, distribution=distribution
    )
    lift = relative_lift(control, treatment, confidence=confidence, method=lift_method)
    always = always_valid_interval(control, treatment, alpha=1 - confidence)
    return Contrast(
        method=method,
        difference=test.difference,
        lower=test.lower,
        upper=test.upper,
        lift=lift.lift,
        lift_lower=lift.lower,
        lift_upper=lift.upper,
        statistic=test.statistic,
        df=test.df,
        p_value=test.p_value,
        always_lower=always.lower,
        always_upper=always.upper,
        always_p_value=always.p_value,
        null_reason=test.null_reason or _reason_without_lift(lift),
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
