"""Relative lift of the treatment over the control, with its interval."""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from app.stats.checks import check_open_unit
from app.stats.comparisons import compare
from app.stats.distributions import Alternative, Distribution, p_value, two_sided_quantile
from app.stats.effects import Scale, effect_of, welch_df
from app.stats.exact import all_finite, to_float
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, Sample


class LiftMethod(StrEnum):
    """How the interval of a lift is made; the last part names the reference distribution."""

    DELTA_WELCH_T = "delta_welch_t"
    DELTA_NORMAL = "delta_normal"
    LOG_RATIO_WELCH_T = "log_ratio_welch_t"
    LOG_RATIO_NORMAL = "log_ratio_normal"
    FIELLER_WELCH_T = "fieller_welch_t"
    FIELLER_NORMAL = "fieller_normal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lift:
    """A lift as a fraction, 0.05 for +5 %, with its two-sided interval and two-sided p-value of no effect.

    `standard_error` is that of the lift by the delta method, that of the log ratio by the log-ratio methods,
    and None by Fieller's, which has none. What is undefined is None, and `null_reason` says why.
    """

    lift: float | None
    lower: float | None
    upper: float | None
    p_value: float | None
    standard_error: float | None
    null_reason: NullReason | None = None


def relative_lift(
    control: Sample,
    treatment: Sample,
    *,
    confidence: float = 0.95,
    method: LiftMethod = LiftMethod.FIELLER_NORMAL,
) -> Lift:
    """Return the treatment's value over the control's, minus 1, with its interval.

    Fieller's interval agrees with the test of the difference: where it is bounded, it leaves out 0 exactly if
    the p-value is below 1 - confidence; that p-value is the one of the difference, unpooled. It is UNBOUNDED
    where the control's value is not itself significantly away from 0.

    Raises:
        ValueError: confidence is outside (0, 1).

    Source: Fieller, "Some problems in interval estimation" (JRSS B 16, 1954); for the delta method Deng,
    Knoblich, Lu (KDD 2018), section 2; for the log ratio Katz, Baptista, Azen, Pike, "Obtaining confidence
    intervals for the risk ratio in cohort studies" (Biometrics 34, 1978).
    """
    check_open_unit("confidence", confidence)
    c, t = control.estimate(), treatment.estimate()
    effect = effect_of(c, t, Scale.RELATIVE)
    if effect.estimate is None or effect.variance is None:
        # Fieller's p-value is the one of the difference, and that may be defined where no interval of the lift is.
        of_difference = _p_of_difference(c, t, method)
        return _incomplete(effect.estimate, effect.null_reason, of_difference)
    match method:
        case LiftMethod.DELTA_WELCH_T | LiftMethod.DELTA_NORMAL:
            # The degrees of freedom are those of the difference, as for the test of the difference.
            df = welch_df(c, t) if method is LiftMethod.DELTA_WELCH_T else None
            lift = _delta(effect.estimate, math.sqrt(effect.variance), df, confidence)
        case LiftMethod.LOG_RATIO_WELCH_T | LiftMethod.LOG_RATIO_NORMAL:
            log_c, log_t = _of_logarithm(c), _of_logarithm(t)
            df = welch_df(log_c, log_t) if method is LiftMethod.LOG_RATIO_WELCH_T else None
            lift = _log_ratio(effect.estimate, effect_of(log_c, log_t, Scale.ABSOLUTE).variance, df, confidence)
        case LiftMethod.FIELLER_WELCH_T | LiftMethod.FIELLER_NORMAL:
            df = welch_df(c, t) if method is LiftMethod.FIELLER_WELCH_T else None
            over_c, over_t = over_square_of(c, c), over_square_of(t, c)
            lift = _fieller(effect.estimate, over_c, over_t, df, confidence)
    limits = [limit for limit in (lift.lower, lift.upper) if limit is not None]
    return lift if all_finite(*limits) else _incomplete(lift.lift, NullReason.OUT_OF_RANGE)


def _p_of_difference(control: ArmEstimate, treatment: ArmEstimate, method: LiftMethod) -> float | None:
    if method not in {LiftMethod.FIELLER_WELCH_T, LiftMethod.FIELLER_NORMAL}:
        return None
    distribution = Distribution.WELCH_T if method is LiftMethod.FIELLER_WELCH_T else Distribution.NORMAL
    return compare(
        control, treatment, confidence=0.95, alternative=Alternative.TWO_SIDED, distribution=distribution
    ).p_value


def _incomplete(lift: float | None, reason: NullReason | None, p: float | None = None) -> Lift:
    return Lift(lift=lift, lower=None, upper=None, p_value=p, standard_error=None, null_reason=reason)


def _of_logarithm(arm: ArmEstimate) -> ArmEstimate:
    """Return the arm with the first-order variance of its logarithm."""
    if arm.variance is None or not arm.value:
        return replace(arm, variance=None, null_reason=NullReason.NON_POSITIVE_VALUE)
    return replace(arm, variance=arm.variance / arm.value**2)


def _delta(lift: float, error: float, df: float | None, confidence: float) -> Lift:
    half_width = two_sided_quantile(confidence, df) * error
    return Lift(
        lift=lift,
        lower=lift - half_width,
        upper=lift + half_width,
        p_value=p_value(lift / error, Alternative.TWO_SIDED, df),
        standard_error=error,
    )


def _log_ratio(lift: float, variance: float | None, df: float | None, confidence: float) -> Lift:
    if lift <= -1.0:
        return _incomplete(lift, NullReason.NON_POSITIVE_VALUE)
    if variance is None:
        return _incomplete(lift, NullReason.OUT_OF_RANGE)
    error = math.sqrt(variance)
    log_ratio = math.log1p(lift)
    half_width = two_sided_quantile(confidence, df) * error
    # The exponential of a larger number is no double.
    if log_ratio + half_width > 700.0:
        return _incomplete(lift, NullReason.OUT_OF_RANGE)
    return Lift(
        lift=lift,
        lower=math.expm1(log_ratio - half_width),
        upper=math.expm1(log_ratio + half_width),
        p_value=p_value(log_ratio / error, Alternative.TWO_SIDED, df),
        standard_error=error,
    )


def _fieller(lift: float, variance_c: float, variance_t: float, df: float | None, confidence: float) -> Lift:
    p = p_value(lift / math.sqrt(variance_c + variance_t), Alternative.TWO_SIDED, df)
    limits = fieller_limits(lift, variance_c, variance_t, two_sided_quantile(confidence, df))
    if limits is None:
        return _incomplete(lift, NullReason.UNBOUNDED, p)
    return Lift(lift=lift, lower=limits[0], upper=limits[1], p_value=p, standard_error=None)


def fieller_limits(lift: float, variance_c: float, variance_t: float, reach: float) -> tuple[float, float] | None:
    """Return the lifts that a test at so many standard errors does not reject; None where they are unbounded.

    variance_c, variance_t: of the arms' values, over the square of the control's value.

    Source: Fieller (JRSS B 16, 1954): the L with (lift - L)**2 <= reach**2 (v_t + (1 + L)**2 v_c).
    """
    # Written as a L**2 - 2 b L + c <= 0 in the lift, not in the ratio 1 + L: c alone then decides, by its sign,
    # whether 0 is inside, just as the test of the difference does.
    error = math.sqrt(variance_c + variance_t)
    a = 1.0 - reach * reach * variance_c
    if a <= 0.0:
        return None
    b = lift + reach * reach * variance_c
    c = (abs(lift) - reach * error) * (abs(lift) + reach * error)
    root = reach * math.sqrt(variance_t * a + variance_c * (1.0 + lift) ** 2)
    # The limit further from 0 comes without cancellation, the other from the product c/a of both.
    far = b + math.copysign(root, b)
    lower, upper = sorted((far / a, c / far if far else 0.0))
    return min(lower, lift), max(upper, lift)


def over_square_of(arm: ArmEstimate, unit: ArmEstimate) -> float:
    """Return the arm's variance over the squared value of the unit arm; an infinity where either is undefined."""
    if arm.variance is None or not unit.value:
        return math.inf
    return to_float(arm.variance / unit.value**2)
