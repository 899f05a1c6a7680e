"""Sample size, power and detectable effect of a test of two conversion rates."""

import math
from enum import StrEnum

from app.stats.checks import check_open_unit, check_positive, check_rate
from app.stats.distributions import Alternative, normal_isf
from app.stats.planning import (
    DEFAULT_DESIGN,
    Design,
    DetectableEffect,
    SampleSize,
    check_power,
    detectable,
    normal_power,
    sizes,
)
from app.stats.reasons import NullReason
from app.stats.roots import crossing


class RatePower(StrEnum):
    """The z test of two rates whose power is meant: pooled variance under the null, or each arm's own."""

    Z_POOLED_NULL = "z_pooled_null"
    Z_UNPOOLED = "z_unpooled"


def sample_size_proportions(
    *,
    baseline: float,
    effect: float,
    power: float = 0.8,
    design: Design = DEFAULT_DESIGN,
    method: RatePower = RatePower.Z_POOLED_NULL,
) -> SampleSize:
    """Return the units per arm that find a treatment rate of baseline + effect with the asked power.

    A one-sided test is taken to look in the direction of the effect. The far tail of a two-sided one is left
    out.

    Raises:
        ValueError: a rate is outside [0, 1], or power is outside (0, 1).

    Source: Fleiss, Levin, Paik, "Statistical Methods for Rates and Proportions" (3rd ed., 2003), chapter 4,
    without the correction for continuity: n = (z_alpha sd_null + z_power sd_alternative)**2 / effect**2.
    """
    check_open_unit("power", power)
    spread_null, spread = _rate_spreads(baseline, effect, design, method)
    reach = max(0.0, normal_isf(design.tail) * spread_null - normal_isf(power) * spread)
    # Below this the size has no double either.
    if abs(effect) < 1e-100:
        return SampleSize(n_control=None, n_treatment=None, null_reason=NullReason.NOT_ATTAINABLE)
    return sizes((reach / effect) ** 2, design)


def power_proportions(
    *,
    baseline: float,
    effect: float,
    n_control: float,
    design: Design = DEFAULT_DESIGN,
    method: RatePower = RatePower.Z_POOLED_NULL,
) -> float:
    """Return the probability of rejecting equal rates when the treatment rate is baseline + effect.

    Raises:
        ValueError: a rate is outside [0, 1], or n_control is not a positive finite number.

    Source: Fleiss, Levin, Paik (2003), chapter 4, with both tails.
    """
    check_positive("n_control", n_control)
    spread_null, spread = _rate_spreads(baseline, effect, design, method)
    return normal_power(effect, spread_null / math.sqrt(n_control), spread / math.sqrt(n_control), design)


def mde_proportions(
    *,
    baseline: float,
    n_control: float,
    power: float = 0.8,
    design: Design = DEFAULT_DESIGN,
    method: RatePower = RatePower.Z_POOLED_NULL,
) -> DetectableEffect:
    """Return the smallest change of the rate that is found with the asked power.

    NOT_ATTAINABLE where even a rate of 1 (of 0 for LESS) is not found often enough; ZERO_VARIANCE for a
    baseline of 0 or 1, next to which the normal approximation finds effects of any size.

    Raises:
        ValueError: baseline is outside [0, 1], power is not between alpha and 1, or n_control is not
        positive.

    Source: power_proportions, solved for the effect.
    """
    check_power(power, design)
    check_rate("baseline", baseline)
    if baseline in {0.0, 1.0}:
        return DetectableEffect(absolute=None, relative=None, null_reason=NullReason.ZERO_VARIANCE)
    direction = -1.0 if design.alternative is Alternative.LESS else 1.0
    room = baseline if design.alternative is Alternative.LESS else 1.0 - baseline

    def shortfall(size: float) -> float:
        # Adding a rate and its distance to 1 may pass 1 by a last digit.
        effect = min(max(baseline + direction * size, 0.0), 1.0) - baseline
        found = power_proportions(baseline=baseline, effect=effect, n_control=n_control, design=design, method=method)
        return found - power

    if shortfall(room) < 0.0:
        return DetectableEffect(absolute=None, relative=None, null_reason=NullReason.NOT_ATTAINABLE)
    return detectable(direction * crossing(shortfall, 0.0, room), baseline)


def _rate_spreads(baseline: float, effect: float, design: Design, method: RatePower) -> tuple[float, float]:
    """Return the standard errors of the difference under null and alternative, for one unit of control."""
    check_rate("baseline", baseline)
    check_rate("baseline + effect", baseline + effect)
    ratio, changed = design.ratio_treatment_to_control, baseline + effect
    spread = math.sqrt(baseline * (1.0 - baseline) + changed * (1.0 - changed) / ratio)
    if method is RatePower.Z_UNPOOLED:
        return spread, spread
    pooled = (baseline + ratio * changed) / (1.0 + ratio)
    return math.sqrt(max(0.0, pooled * (1.0 - pooled)) * (1.0 + 1.0 / ratio)), spread
