"""Sample size, power and detectable effect of a test of two means."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

from scipy import special, stats

from app.stats.checks import check_finite, check_positive
from app.stats.distributions import Alternative
from app.stats.planning import (
    DEFAULT_DESIGN,
    Design,
    DetectableEffect,
    SampleSize,
    check_power,
    detectable,
    normal_power,
    rejection_chance,
    sizes,
)
from app.stats.reasons import NullReason
from app.stats.roots import crossing

# No experiment has more units per arm; a search that gets here ends.
_LARGEST_ARM = 1e12
# The smallest degrees of freedom at which the search for a sample size of a t test starts.
_SMALLEST_DF = 0.1
_FEW_DF = 2.0


class MeanPower(StrEnum):
    """The test of two means whose power is meant: t with an estimated deviation, or z with a known one."""

    NONCENTRAL_T = "noncentral_t"
    Z = "z"


def sample_size_means(
    *,
    std: float,
    difference: float,
    power: float = 0.8,
    design: Design = DEFAULT_DESIGN,
    method: MeanPower = MeanPower.NONCENTRAL_T,
) -> SampleSize:
    """Return the units per arm that find a difference of means with the asked power.

    A one-sided test is taken to look in the direction of the difference.

    Raises:
        ValueError: std is not a positive finite number, difference is not finite, or power is not between
            alpha and 1.

    Source: power_means, solved for the number of units.
    """
    check_power(power, design)
    upward = _looking_up(design)

    def shortfall(n_control: float) -> float:
        found = power_means(std=std, difference=abs(difference), n_control=n_control, design=upward, method=method)
        return found - power

    smallest = (2.0 + _SMALLEST_DF) / (1.0 + design.ratio_treatment_to_control)
    if shortfall(smallest) >= 0.0:
        return sizes(smallest, design)
    if shortfall(_LARGEST_ARM) < 0.0:
        return SampleSize(n_control=None, n_treatment=None, null_reason=NullReason.NOT_ATTAINABLE)
    enough = _doubled_until_enough(shortfall, smallest)
    return sizes(crossing(shortfall, smallest, _LARGEST_ARM if enough is None else enough), design)


def power_means(
    *,
    std: float,
    difference: float,
    n_control: float,
    design: Design = DEFAULT_DESIGN,
    method: MeanPower = MeanPower.NONCENTRAL_T,
) -> float:
    """Return the probability of rejecting equal means when the treatment's is larger by difference.

    std: standard deviation of one unit, the same in both arms.

    Raises:
        ValueError: std or n_control is not a positive finite number, difference is not finite, or the t test
            has no degrees of freedom.

    Source: Cohen, "Statistical Power Analysis for the Behavioral Sciences" (2nd ed., 1988), chapter 2:
    noncentral t with n_c + n_t - 2 degrees of freedom and noncentrality difference / (std sqrt(1/n_c +
    1/n_t)).
    """
    check_positive("std", std)
    check_positive("n_control", n_control)
    check_finite("difference", difference)
    ratio = design.ratio_treatment_to_control
    error = std * math.sqrt((1.0 + 1.0 / ratio) / n_control)
    if method is MeanPower.Z:
        return normal_power(difference, error, error, design)
    df = n_control * (1.0 + ratio) - 2.0
    check_positive("degrees of freedom", df)
    critical = -float(special.stdtrit(df, design.tail))
    if not math.isfinite(critical):
        # The level is so small that no double is far enough out to reach it.
        return 0.0
    upper = _noncentral_t_sf(critical, df, difference / error)
    lower = _noncentral_t_sf(critical, df, -difference / error)
    return rejection_chance(upper, lower, design)


def mde_means(
    *,
    std: float,
    n_control: float,
    power: float = 0.8,
    baseline: float | None = None,
    design: Design = DEFAULT_DESIGN,
    method: MeanPower = MeanPower.NONCENTRAL_T,
) -> DetectableEffect:
    """Return the smallest difference of means that is found with the asked power; NOT_ATTAINABLE where none is.

    Raises:
        ValueError: std or n_control is not a positive finite number, power is not between alpha and 1, or the
            t test has no degrees of freedom.

    Source: power_means, solved for the difference.
    """
    check_power(power, design)
    upward = _looking_up(design)

    def shortfall(size: float) -> float:
        found = power_means(std=std, difference=size, n_control=n_control, design=upward, method=method)
        return found - power

    enough = _doubled_until_enough(shortfall, std * 1e-9)
    if enough is None:
        return DetectableEffect(absolute=None, relative=None, null_reason=NullReason.NOT_ATTAINABLE)
    size = crossing(shortfall, 0.0, enough)
    return detectable(-size if design.alternative is Alternative.LESS else size, baseline)


def _looking_up(design: Design) -> Design:
    """Return the design for a positive difference: a one-sided test looks upward."""
    one_sided = design.alternative is Alternative.LESS
    return replace(design, alternative=Alternative.GREATER) if one_sided else design


def _noncentral_t_sf(value: float, df: float, noncentrality: float) -> float:
    with warnings.catch_warnings():
        if df < _FEW_DF:
            # With hardly any degrees of freedom the library's series may end before the last digits, and says so.
            warnings.simplefilter("ignore", RuntimeWarning)
        tail = float(stats.nct.sf(value, df, noncentrality))
    # The library answers NaN where the tail is too small to be computed, which is only far below the value.
    return tail if math.isfinite(tail) else 0.0


def _doubled_until_enough(shortfall: Callable[[float], float], start: float) -> float | None:
    """Return a value that is enough, None where none that a double can hold is."""
    value = start
    while math.isfinite(value):
        if shortfall(value) >= 0.0:
            return value
        value *= 2.0
    return None
