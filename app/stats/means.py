"""Means per unit: the interval of one arm's value, and Welch's t test."""

import math

from app.stats.comparisons import Comparison, compare
from app.stats.distributions import Alternative, Distribution, two_sided_quantile
from app.stats.exact import all_finite, to_float
from app.stats.intervals import Interval
from app.stats.reasons import NullReason
from app.stats.samples import MeanSample, Sample


def value_interval(
    arm: Sample, *, confidence: float = 0.95, distribution: Distribution = Distribution.WELCH_T
) -> Interval:
    """Return the value of one arm with its two-sided interval, by its standard error.

    With WELCH_T the quantile is that of Student's t with n - 1 degrees of freedom. For rates see
    wilson_interval. An arm whose units all have the same value has no interval: ZERO_VARIANCE.

    Raises:
        ValueError: confidence is outside (0, 1).

    Source: Student, "The probable error of a mean" (Biometrika 6, 1908).
    """
    estimate = arm.estimate()
    student = distribution is Distribution.WELCH_T and estimate.n > 1
    quantile = two_sided_quantile(confidence, estimate.n - 1 if student else None)
    if estimate.value is None:
        return Interval(estimate=None, lower=None, upper=None, null_reason=estimate.null_reason)
    value = to_float(estimate.value)
    if not all_finite(value):
        return Interval(estimate=None, lower=None, upper=None, null_reason=NullReason.OUT_OF_RANGE)
    if estimate.variance is None:
        return Interval(estimate=value, lower=None, upper=None, null_reason=estimate.null_reason)
    variance = to_float(estimate.variance)
    if variance == 0.0:
        # A deviation of 0 is what these units happen to have, not what is known: the interval would be a point.
        return Interval(estimate=value, lower=None, upper=None, null_reason=NullReason.ZERO_VARIANCE)
    half_width = quantile * math.sqrt(variance)
    if not all_finite(value - half_width, value + half_width):
        return Interval(estimate=value, lower=None, upper=None, null_reason=NullReason.OUT_OF_RANGE)
    return Interval(estimate=value, lower=value - half_width, upper=value + half_width)


def welch_t_test(
    control: MeanSample,
    treatment: MeanSample,
    *,
    confidence: float = 0.95,
    alternative: Alternative = Alternative.TWO_SIDED,
) -> Comparison:
    """Compare two means without assuming equal variances; each arm needs two units.

    Raises:
        ValueError: confidence is outside (0, 1).

    Source: Welch, "The generalization of 'Student's' problem when several different population variances are
    involved" (Biometrika 34, 1947).
    """
    return compare(
        control,
        treatment,
        confidence=confidence,
        alternative=alternative,
        distribution=Distribution.WELCH_T,
    )
