"""Non-inferiority: showing that a treatment is not worse than the control by more than a margin.

The null hypothesis is that it is worse by the margin or more; a small p-value rejects that. "Worse" is lower where
more is better, and higher otherwise. A relative margin of 0.02 is 2 % of the control's value.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from app.stats.checks import check_open_unit, check_positive
from app.stats.distributions import Distribution, normal_sf, upper_tail
from app.stats.effects import Scale, welch_df
from app.stats.exact import all_finite, exact, to_float
from app.stats.proportions import rates_at_difference
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, Proportion, Sample


class RateMethod(StrEnum):
    """Whose variance the test of two rates takes: the observed rates', or the likeliest ones' under the null."""

    WALD = "wald"
    FARRINGTON_MANNING = "farrington_manning"


@dataclass(frozen=True, slots=True, kw_only=True)
class NonInferiority:
    """The one-sided test; `shown` where its p-value is below alpha. What is undefined is None, with the reason."""

    statistic: float | None
    df: float | None
    p_value: float | None
    shown: bool
    null_reason: NullReason | None = None


def noninferiority_test(
    control: Sample,
    treatment: Sample,
    *,
    margin: float,
    scale: Scale = Scale.RELATIVE,
    lower_is_better: bool = False,
    alpha: float = 0.025,
    distribution: Distribution = Distribution.NORMAL,
) -> NonInferiority:
    """Test whether the treatment's value is within the margin of the control's, by Wald's statistic.

    With a relative margin that is the linear contrast treatment - (1 - margin) control, or treatment - (1 + margin)
    control where lower is better, so that no quotient is taken; it needs a control value above 0 to mean what it
    says.

    Raises:
        ValueError: margin is not a positive finite number, or alpha is outside (0, 1).

    Source: Wellek, "Testing Statistical Hypotheses of Equivalence and Noninferiority" (2nd ed., 2010), chapter 1, for
    the hypothesis; for the linear contrast in place of the ratio Hauschke, Kieser, Diletti, Burke, "Sample size
    determination for proving equivalence based on the ratio of two means for normally distributed data" (Statist. Med.
    18, 1999); the level of 0.025 is that of ICH E9, section 5.5, one side of a 95 % interval.
    """
    check_positive("margin", margin)
    check_open_unit("alpha", alpha)
    c, t = control.estimate(), treatment.estimate()
    sign = -1 if lower_is_better else 1
    allowed = exact("margin", margin)
    if scale is Scale.RELATIVE and c.value is not None and c.value <= 0:
        return _undefined(NullReason.ZERO_BASELINE if c.value == 0 else NullReason.NON_POSITIVE_VALUE)
    factor = 1 - sign * allowed if scale is Scale.RELATIVE else Fraction(1)
    offset = Fraction(0) if scale is Scale.RELATIVE else allowed
    scaled = _times(c, factor)
    if t.value is None or scaled.value is None or t.variance is None or scaled.variance is None:
        return _undefined(c.null_reason or t.null_reason or NullReason.OUT_OF_RANGE)
    variance = to_float(t.variance + scaled.variance)
    distance = to_float(sign * (t.value - scaled.value) + offset)
    if variance == 0.0:
        return _undefined(NullReason.ZERO_VARIANCE)
    statistic = distance / math.sqrt(variance) if all_finite(variance, distance) else math.inf
    if not all_finite(statistic):
        return _undefined(NullReason.OUT_OF_RANGE)
    df = welch_df(scaled, t) if distribution is Distribution.WELCH_T else None
    return _decided(statistic, df, upper_tail(statistic, df), alpha)


def noninferiority_rates(
    control: Proportion,
    treatment: Proportion,
    *,
    margin: float,
    scale: Scale = Scale.RELATIVE,
    lower_is_better: bool = False,
    alpha: float = 0.025,
    method: RateMethod = RateMethod.FARRINGTON_MANNING,
) -> NonInferiority:
    """Test whether the treatment's rate is within the margin of the control's.

    Farrington and Manning's variance is that of the likeliest rates at the margin itself, which keeps the level for
    small rates where Wald's does not.

    Raises:
        ValueError: margin is not a positive finite number, it makes a margin rate below 0, or alpha is outside
            (0, 1).

    Source: Farrington, Manning, "Test statistics and sample size formulae for comparative binomial trials with null
    hypothesis of non-zero risk difference or non-unity relative risk" (Statist. Med. 9, 1990, pp. 1447-1454): the
    score statistics of both hypotheses, that of the difference in eq. 1. The likeliest rates at a difference are those
    of rates_at_difference; at a relative risk they solve the quadratic equation of Miettinen, Nurminen, "Comparative
    analysis of two rates" (Statist. Med. 4, 1985, pp. 213-226), which is eq. 3.3 of Gart, Nam, "Approximate interval
    estimation of the ratio of binomial parameters" (Biometrics 44, 1988).
    """
    check_positive("margin", margin)
    if not lower_is_better and margin >= 1.0:
        raise ValueError(f"margin must be below 1, got {margin!r}")
    if method is RateMethod.WALD:
        return noninferiority_test(
            control, treatment, margin=margin, scale=scale, lower_is_better=lower_is_better, alpha=alpha
        )
    check_open_unit("alpha", alpha)
    if control.trials == 0 or treatment.trials == 0:
        return _undefined(NullReason.EMPTY_ARM)
    if scale is Scale.RELATIVE and control.successes == 0:
        return _undefined(NullReason.ZERO_BASELINE)
    sign = -1.0 if lower_is_better else 1.0
    rate_c, rate_t = control.successes / control.trials, treatment.successes / treatment.trials
    if scale is Scale.ABSOLUTE:
        factor, offset = 1.0, margin
        likely_c, likely_t = rates_at_difference(control, treatment, -sign * margin) if margin < 1.0 else (0.0, 1.0)
    else:
        factor, offset = 1.0 - sign * margin, 0.0
        likely_c, likely_t = _rates_at_ratio(control, treatment, factor)
    variance = likely_t * (1.0 - likely_t) / treatment.trials
    variance += factor * factor * likely_c * (1.0 - likely_c) / control.trials
    if variance <= 0.0:
        return _undefined(NullReason.ZERO_VARIANCE)
    statistic = (sign * (rate_t - factor * rate_c) + offset) / math.sqrt(variance)
    return _decided(statistic, None, normal_sf(statistic), alpha)


def _times(arm: ArmEstimate, factor: Fraction) -> ArmEstimate:
    return ArmEstimate(
        n=arm.n,
        value=None if arm.value is None else arm.value * factor,
        variance=None if arm.variance is None else arm.variance * factor**2,
        null_reason=arm.null_reason,
    )


def _rates_at_ratio(control: Proportion, treatment: Proportion, ratio: float) -> tuple[float, float]:
    """Return the likeliest rates of control and treatment among those whose quotient is the given one."""
    a = ratio * (control.trials + treatment.trials)
    b = ratio * (treatment.trials + control.successes) + treatment.successes + control.trials
    c = control.successes + treatment.successes
    # The smaller root, from the larger one and the product of both: no difference of nearly equal terms.
    root = math.sqrt(max(0.0, b * b - 4.0 * a * c))
    rate_c = 2.0 * c / (b + root)
    return min(1.0, rate_c), min(1.0, ratio * rate_c)


def _decided(statistic: float, df: float | None, p_value: float, alpha: float) -> NonInferiority:
    return NonInferiority(statistic=statistic, df=df, p_value=p_value, shown=p_value < alpha)


def _undefined(reason: NullReason) -> NonInferiority:
    return NonInferiority(statistic=None, df=None, p_value=None, shown=False, null_reason=reason)
