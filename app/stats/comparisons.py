"""The fixed-horizon test and interval of a difference, shared by means, ratios and CUPED."""

import math
from dataclasses import dataclass

from app.stats.checks import check_open_unit
from app.stats.distributions import (
    Alternative,
    Distribution,
    p_value,
    two_sided_quantile,
)
from app.stats.effects import Scale, effect_of, welch_df
from app.stats.exact import all_finite, to_float
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two arms' values, their difference (treatment minus control), its interval, and the test that it is 0.

    The interval is two-sided, whatever the alternative. `df` is None for a normal reference. What is
    undefined is None, and `null_reason` says why; a difference can be there without an interval.
    """

    control: float | None
    treatment: float | None
    difference: float | None
    lower: float | None
    upper: float | None
    statistic: float | None
    df: float | None
    p_value: float | None
    null_reason: NullReason | None = None


def compare(
    control: Sample,
    treatment: Sample,
    *,
    confidence: float,
    alternative: Alternative,
    distribution: Distribution,
) -> Comparison:
    """Compare two arms by the difference of their values over its standard error.

    Raises:
        ValueError: confidence is outside (0, 1).

    Source: Welch (Biometrika 34, 1947), see welch_df; with NORMAL the same statistic against the standard
    normal.
    """
    check_open_unit("confidence", confidence)
    c, t = control.estimate(), treatment.estimate()
    effect = effect_of(c, t, Scale.ABSOLUTE)
    if effect.estimate is None or effect.variance is None:
        return _incomplete(c, t, effect.estimate, effect.null_reason)
    error = math.sqrt(effect.variance)
    df = welch_df(c, t) if distribution is Distribution.WELCH_T else None
    half_width = two_sided_quantile(confidence, df) * error
    statistic = effect.estimate / error
    lower, upper = effect.estimate - half_width, effect.estimate + half_width
    if not all_finite(statistic, lower, upper):
        return _incomplete(c, t, effect.estimate, NullReason.OUT_OF_RANGE)
    return Comparison(
        control=_value(c),
        treatment=_value(t),
        difference=effect.estimate,
        lower=lower,
        upper=upper,
        statistic=statistic,
        df=df,
        p_value=p_value(statistic, alternative, df),
    )


def _value(arm: ArmEstimate) -> float | None:
    value = None if arm.value is None else to_float(arm.value)
    return value if value is not None and all_finite(value) else None


def _incomplete(
    control: ArmEstimate, treatment: ArmEstimate, difference: float | None, reason: NullReason | None
) -> Comparison:
    return Comparison(
        control=_value(control),
        treatment=_value(treatment),
        difference=difference,
        lower=None,
        upper=None,
        statistic=None,
        df=None,
        p_value=None,
        null_reason=reason,
    )
