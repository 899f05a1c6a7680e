"""How two arms compare by a metric, and what could have been found. Plain functions, no I/O."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from app.results.comparison_values import Method
from app.results.estimates import exact_lift, shown
from app.results.measured import Measured, MeasuredArm, Shape
from app.results.words import ALWAYS_VALID_UNBOUNDED, NO_COVARIATE, NO_SPREAD_AROUND_ZERO, NO_TEST, NO_VALUES
from app.stats.comparisons import Comparison, compare
from app.stats.cuped import cuped_difference
from app.stats.distributions import Alternative, Distribution
from app.stats.exact import all_finite, to_float
from app.stats.lift import Lift, LiftMethod, relative_lift
from app.stats.noninferiority import NonInferiority, noninferiority_rates, noninferiority_test
from app.stats.planning import Design
from app.stats.power_means import MeanPower, mde_means
from app.stats.power_rates import mde_proportions
from app.stats.proportions import difference_of_proportions, two_proportion_test
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, Proportion
from app.stats.sequential import always_valid_interval, always_valid_lift

# The convention of planning: an effect is detectable if the test finds it four times out of five.
_POWER = 0.8

_METHODS = {
    Shape.RATE: Method.POOLED_Z,
    Shape.MEAN: Method.WELCH_T,
    Shape.RATIO: Method.DELTA_Z,
    Shape.QUANTILE: Method.QUANTILE_Z,
    Shape.TOTAL: Method.NONE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjusted:
    """The difference after an adjustment: CUPED, whose `theta` it is, or segments as strata.

    `lift` is a fraction, `variance_ratio` the variance with the adjustment over that without.
    """

    difference: float | None = None
    lower: float | None = None
    upper: float | None = None
    lift: float | None = None
    lift_lower: float | None = None
    lift_upper: float | None = None
    statistic: float | None = None
    p_value: float | None = None
    theta: float | None = None
    variance_ratio: float | None = None
    null_reason: str | None = None
    interval_null_reason: str | None = None

    @property
    def variance_reduction_percent(self) -> float | None:
        return None if self.variance_ratio is None else 100 * (1 - self.variance_ratio)

    def without_intervals(self) -> "Adjusted":
        """Return what is left where no intervals are asked for, nor why there are none."""
        return replace(self, lower=None, upper=None, lift_lower=None, lift_upper=None, interval_null_reason=None)


WITHOUT_COVARIATE = Adjusted(null_reason=NO_COVARIATE)


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
    always_lift_lower: float | None = None
    always_lift_upper: float | None = None
    adjusted: Adjusted = WITHOUT_COVARIATE
    # Of metrics with a margin.
    noninferiority: NonInferiority | None = None
    # Why a value or the test is undefined, and why an interval is.
    null_reason: str | None = None
    interval_null_reason: str | None = None
    # Why the always-valid interval of the lift is, if for a reason of its own.
    always_null_reason: str | None = None

    def without_intervals(self) -> "Contrast":
        """Return what is left where no intervals are asked for, nor why there are none."""
        return replace(
            self,
            lower=None,
            upper=None,
            lift_lower=None,
            lift_upper=None,
            always_lower=None,
            always_upper=None,
            always_lift_lower=None,
            always_lift_upper=None,
            adjusted=self.adjusted.without_intervals(),
            interval_null_reason=None,
            always_null_reason=None,
        )


def contrast(metric: Measured, control: MeasuredArm, treatment: MeasuredArm, confidence: float) -> Contrast:
    """Compare a treatment with the control by one metric."""
    c, t = control.sample.estimate(), treatment.sample.estimate()
    if not metric.tested:
        return _without_test(c.value, t.value)
    if isinstance(control.sample, Proportion) and isinstance(treatment.sample, Proportion):
        found = _of_rates(control.sample, treatment.sample, confidence)
    else:
        found = _of_estimates(c, t, confidence, metric.shape)
    return replace(
        _with_always_valid(found, c, t, confidence),
        adjusted=_adjusted(control, treatment, confidence),
        noninferiority=_noninferiority(metric, control, treatment, confidence),
    )


@dataclass(frozen=True, slots=True)
class Detectable:
    """The smallest relative effect that the test finds with 80 % power in as many users as there are; or why none."""

    effect: float | None = None
    null_reason: str | None = None


def detectable_effect(metric: Measured, control: MeasuredArm, treatment: MeasuredArm, confidence: float) -> Detectable:
    """Return what can be detected between two arms.

    Nothing where the metric has no test, an arm is too small, or the control's value is 0 or has no variance.
    """
    c, t = control.sample.estimate(), treatment.sample.estimate()
    if not metric.tested:
        return Detectable(null_reason=NO_TEST)
    if not (c.n and t.n):
        return Detectable(null_reason=NullReason.EMPTY_ARM)
    if 1 - confidence >= _POWER:
        # Such a test finds something more often than that where there is nothing.
        return Detectable(null_reason=NullReason.NOT_ATTAINABLE)
    design = Design(alpha=1 - confidence, ratio_treatment_to_control=t.n / c.n)
    if isinstance(control.sample, Proportion):
        baseline = control.sample.successes / control.sample.trials
        found = mde_proportions(baseline=baseline, n_control=c.n, power=_POWER, design=design)
        return Detectable(found.relative, found.null_reason)
    return _detectable_difference(c, t, design)


def _without_test(control: Fraction | None, treatment: Fraction | None) -> Contrast:
    if control is None or treatment is None:
        return Contrast(method=Method.NONE, null_reason=NO_VALUES)
    lift = shown(exact_lift(control, treatment))
    return Contrast(method=Method.NONE, difference=shown(treatment - control), lift=lift, null_reason=NO_TEST)


def _of_rates(control: Proportion, treatment: Proportion, confidence: float) -> Contrast:
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
        p_value=test.p_value,
        null_reason=interval.null_reason or test.null_reason or _reason_without_lift(lift),
        interval_null_reason=_reason_without_lift_interval(lift),
    )


def _of_estimates(control: ArmEstimate, treatment: ArmEstimate, confidence: float, shape: Shape) -> Contrast:
    distribution, lift_method = _references(shape)
    test = compare(
        control, treatment, confidence=confidence, alternative=Alternative.TWO_SIDED, distribution=distribution
    )
    lift = relative_lift(control, treatment, confidence=confidence, method=lift_method)
    return Contrast(
        method=_METHODS[shape],
        difference=test.difference,
        lower=test.lower,
        upper=test.upper,
        lift=lift.lift,
        lift_lower=lift.lower,
        lift_upper=lift.upper,
        statistic=test.statistic,
        df=test.df,
        p_value=test.p_value,
        null_reason=_reason_without_values(shape, control, treatment) or test.null_reason or _reason_without_lift(lift),
        interval_null_reason=_reason_without_lift_interval(lift),
    )


def _reason_without_values(shape: Shape, *arms: ArmEstimate) -> str | None:
    """Return why a quantile does not exist in an arm that has users."""
    missing = shape is Shape.QUANTILE and all(arm.n for arm in arms) and any(arm.value is None for arm in arms)
    return NO_VALUES if missing else None


def _with_always_valid(found: Contrast, control: ArmEstimate, treatment: ArmEstimate, confidence: float) -> Contrast:
    always = always_valid_interval(control, treatment, alpha=1 - confidence)
    relative = always_valid_lift(control, treatment, alpha=1 - confidence)
    # Where the interval of one look is unbounded as well, that says it all.
    unbounded = relative.null_reason is NullReason.UNBOUNDED and found.interval_null_reason is None
    return replace(
        found,
        always_lower=always.lower,
        always_upper=always.upper,
        always_p_value=always.p_value,
        always_lift_lower=relative.lower,
        always_lift_upper=relative.upper,
        always_null_reason=ALWAYS_VALID_UNBOUNDED if unbounded else None,
    )


def _references(shape: Shape) -> tuple[Distribution, LiftMethod]:
    if shape is Shape.MEAN:
        return Distribution.WELCH_T, LiftMethod.FIELLER_WELCH_T
    return Distribution.NORMAL, LiftMethod.FIELLER_NORMAL


def _adjusted(control: MeasuredArm, treatment: MeasuredArm, confidence: float) -> Adjusted:
    """Compare the means after CUPED; a rate is the mean of its users' zeros and ones."""
    if control.covariate is None or treatment.covariate is None:
        reason = control.covariate_null_reason or treatment.covariate_null_reason
        return WITHOUT_COVARIATE if reason is None else Adjusted(null_reason=reason)
    found = cuped_difference(control.covariate, treatment.covariate, confidence=confidence)
    lift = relative_lift(*found.estimates, confidence=confidence, method=LiftMethod.FIELLER_WELCH_T)
    return replace(adjusted_by(found.comparison, lift, found.variance_ratio), theta=found.theta)


def adjusted_by(test: Comparison, lift: Lift, variance_ratio: float | None) -> Adjusted:
    """Put together what an adjustment found."""
    return Adjusted(
        difference=test.difference,
        lower=test.lower,
        upper=test.upper,
        lift=lift.lift,
        lift_lower=lift.lower,
        lift_upper=lift.upper,
        statistic=test.statistic,
        p_value=test.p_value,
        variance_ratio=variance_ratio,
        null_reason=test.null_reason or _reason_without_lift(lift),
        interval_null_reason=_reason_without_lift_interval(lift),
    )


def _noninferiority(
    metric: Measured, control: MeasuredArm, treatment: MeasuredArm, confidence: float
) -> NonInferiority | None:
    """Test the margin at the level of one side of the interval."""
    if metric.margin is None:
        return None
    alpha, lower_is_better = (1 - confidence) / 2, metric.sign < 0
    if isinstance(control.sample, Proportion) and isinstance(treatment.sample, Proportion):
        return noninferiority_rates(
            control.sample,
            treatment.sample,
            margin=metric.margin,
            lower_is_better=lower_is_better,
            alpha=alpha,
        )
    return noninferiority_test(
        control.sample.estimate(),
        treatment.sample.estimate(),
        margin=metric.margin,
        lower_is_better=lower_is_better,
        alpha=alpha,
        distribution=_references(metric.shape)[0],
    )


def _reason_without_lift(lift: Lift) -> NullReason | None:
    """Return why the lift is undefined."""
    return lift.null_reason if lift.lift is None else None


def _reason_without_lift_interval(lift: Lift) -> str | None:
    """Return why the lift has no interval, though it and the test of the difference may exist."""
    only_one_varies = lift.null_reason is NullReason.ZERO_VARIANCE and lift.p_value is not None
    return NO_SPREAD_AROUND_ZERO if only_one_varies else lift.null_reason


def _detectable_difference(c: ArmEstimate, t: ArmEstimate, design: Design) -> Detectable:
    """Solve for the difference with the arms' own variances, as the test of it has them."""
    if c.value is None or c.variance is None or t.variance is None:
        return Detectable(null_reason=c.null_reason or t.null_reason or NO_VALUES)
    if c.value == 0:
        return Detectable(null_reason=NullReason.ZERO_BASELINE)
    if c.variance + t.variance == 0:
        return Detectable(null_reason=NullReason.ZERO_VARIANCE)
    error, baseline = math.sqrt(to_float(c.variance + t.variance)), abs(to_float(c.value))
    # The standard deviation that, common to both arms, gives the difference this standard error.
    std = error * math.sqrt(c.n / (1 + 1 / design.ratio_treatment_to_control))
    if not all_finite(std, baseline) or std == 0 or baseline == 0:
        return Detectable(null_reason=NullReason.OUT_OF_RANGE)
    found = mde_means(std=std, n_control=c.n, power=_POWER, baseline=baseline, design=design, method=MeanPower.Z)
    if found.relative is None or not all_finite(found.relative):
        return Detectable(null_reason=found.null_reason or NullReason.OUT_OF_RANGE)
    return Detectable(found.relative)
