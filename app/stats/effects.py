"""The effect of a treatment, as a difference or as a lift, with its first-order variance."""

from dataclasses import dataclass
from enum import StrEnum

from app.stats.exact import all_finite, rounded_quotient, rounded_sum, to_float
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, Sample


class Scale(StrEnum):
    """Whether an effect is a difference of values or that difference over the control's value, a lift."""

    ABSOLUTE = "absolute"
    RELATIVE = "relative"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """An effect with its variance, above 0; either is None, with the reason, where it is undefined."""

    estimate: float | None
    variance: float | None
    null_reason: NullReason | None = None


def effect_of(control: Sample, treatment: Sample, scale: Scale) -> Effect:
    """Return the effect of the treatment over the control on the given scale.

    A lift is a fraction, 0.05 for +5 %, and takes the sign of the difference over that of the control's
    value.

    Source: Deng, Knoblich, Lu, "Applying the Delta Method in Metric Analytics" (KDD 2018), section 2:
    variance of the percent change, var_t/m_c**2 + var_c m_t**2/m_c**4 with the variances of the arms' means.
    """
    c, t = control.estimate(), treatment.estimate()
    if c.value is None or t.value is None:
        empty = next(arm for arm in (c, t) if arm.value is None)
        return Effect(estimate=None, variance=None, null_reason=empty.null_reason)
    if scale is Scale.RELATIVE and c.value == 0:
        return Effect(estimate=None, variance=None, null_reason=NullReason.ZERO_BASELINE)
    absolute = scale is Scale.ABSOLUTE
    estimate = rounded_sum(t.value, -c.value) if absolute else to_float((t.value - c.value) / c.value)
    if not all_finite(estimate):
        return Effect(estimate=None, variance=None, null_reason=NullReason.OUT_OF_RANGE)
    if c.variance is None or t.variance is None:
        return Effect(estimate=estimate, variance=None, null_reason=c.null_reason or t.null_reason)
    if absolute:
        return _with_usable_variance(estimate, rounded_sum(t.variance, c.variance))
    variance = to_float((t.variance + c.variance * (t.value / c.value) ** 2) / c.value**2)
    return _with_usable_variance(estimate, variance)


def _with_usable_variance(estimate: float, variance: float) -> Effect:
    """Return the effect, without a variance where the estimate cannot be divided by it."""
    if variance == 0.0:
        return Effect(estimate=estimate, variance=None, null_reason=NullReason.ZERO_VARIANCE)
    if not all_finite(variance, estimate * estimate / variance):
        return Effect(estimate=estimate, variance=None, null_reason=NullReason.OUT_OF_RANGE)
    return Effect(estimate=estimate, variance=variance)


def welch_df(control: ArmEstimate, treatment: ArmEstimate) -> float | None:
    """Return the degrees of freedom of the difference, None where a variance is unknown or both are 0.

    Source: Welch, "The generalization of 'Student's' problem when several different population variances are
    involved" (Biometrika 34, 1947): (v_c + v_t)**2 / (v_c**2/(n_c - 1) + v_t**2/(n_t - 1)), v the variances
    of the arms' means.
    """
    if control.variance is None or treatment.variance is None:
        return None
    total = control.variance + treatment.variance
    if total == 0:
        return None
    # By each arm's share of the variance, which no scale of the data can overflow; an arm without variance
    # has none.
    arms = [arm for arm in (control, treatment) if arm.variance]
    return 1.0 / sum(rounded_quotient(arm.variance, total) ** 2 / (arm.n - 1) for arm in arms if arm.variance)
