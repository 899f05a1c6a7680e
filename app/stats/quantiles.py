"""Intervals for a quantile of values that come from users, several from each.

Values of one user are alike, so an interval that takes them for independent is too short. The interval here is one of
order statistics: the quantile lies between two of the sorted values, whose ranks follow from how surely the share of
values below the quantile is known, users being the clusters. It needs counts by user alone, and no density.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from scipy import special

from app.stats.checks import check_finite, check_open_unit
from app.stats.distributions import two_sided_quantile
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, RatioSample

# The binomial distribution of the library counts up to here. With so many values the normal one has the same ranks.
_MOST_COUNTED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Ranks:
    """Ranks, from 1, of the sorted values that bound a quantile; `None` where the bound lies outside the values."""

    lower: int | None
    upper: int | None
    null_reason: NullReason | None = None


def quantile_ranks(
    level: Fraction | float,
    *,
    users: int,
    values: int,
    below: int,
    below_squares: int,
    value_squares: int,
    products: int,
    confidence: float = 0.95,
) -> Ranks:
    """Return the ranks of the values between which the quantile lies.

    The share of an arm's values that are at most its quantile is a ratio of two sums over users, `below` / `values`,
    so its variance is that of the delta method. The number of values at most the true quantile then is about normal
    around `level * values`, and its two tails, with a continuity correction, are the ranks.

    Where each user has one value, values are independent, and the ranks are those of the binomial distribution, or,
    of more than 2**31 - 1 of them, of the normal one.

    level: of the quantile, 0.95 is the 95th percentile.
    users: those who have values; `below` and `values` are sums over them of the values at most the sample's quantile,
    and of all; the others are sums of squares and of products of these two.

    Raises:
        ValueError: level or confidence is not between 0 and 1, or no real users have these sums.

    Source: Deng, Knoblich, Lu, "Applying the Delta Method in Metric Analytics" (KDD 2018, arXiv 1803.06336), section 4:
    the outer confidence interval with the correction for clusters; Woodruff, "Confidence Intervals for Medians and
    Other Position Measures" (JASA 47, 1952), of which it is a case.
    """
    check_open_unit("level", float(level))
    check_open_unit("confidence", confidence)
    if users < 2:
        return Ranks(None, None, NullReason.TOO_FEW_UNITS if users else NullReason.EMPTY_ARM)
    if values == users == value_squares and values <= _MOST_COUNTED:
        return _binomial_ranks(float(level), values, confidence)
    sample = RatioSample.from_sums(
        n=users,
        num_sum=below,
        num_sum_squares=below_squares,
        den_sum=values,
        den_sum_squares=value_squares,
        num_den_sum_products=products,
    )
    variance = sample.estimate().variance
    half = two_sided_quantile(confidence) * math.sqrt(variance or 0) * values
    middle = float(level * values)
    return _within(math.floor(middle - half + 0.5), math.ceil(middle + half + 0.5), values)


def quantile_estimate(
    value: Fraction, *, users: int, lower: float | None, upper: float | None, confidence: float = 0.95
) -> ArmEstimate:
    """Return a quantile with the variance that its interval implies, to be compared with another arm's.

    lower, upper: the ends of `quantile_ranks` at the same confidence.

    Raises:
        ValueError: an end is not finite, or confidence is not between 0 and 1, or so near to 0 that its interval has no
            length.

    Source: Deng, Knoblich, Lu (see `quantile_ranks`), section 4: the standard error is the interval's length over
    twice the normal quantile.
    """
    if lower is None or upper is None:
        return ArmEstimate(n=users, value=value, variance=None, null_reason=NullReason.TOO_FEW_UNITS)
    check_finite("lower", lower)
    check_finite("upper", upper)
    quantile = two_sided_quantile(confidence)
    if quantile <= 0.0:
        raise ValueError(f"confidence is too near to 0 for an interval, got {confidence!r}: use a larger one")
    standard_error = (Fraction(upper) - Fraction(lower)) / (2 * Fraction(quantile))
    return ArmEstimate(n=users, value=value, variance=standard_error**2)


def _binomial_ranks(level: float, values: int, confidence: float) -> Ranks:
    """Return the exact ranks for independent values.

    Source: Conover, "Practical Nonparametric Statistics" (3rd ed., 1999), section 3.2, as scipy.stats.quantile_test.
    """
    tail = (1.0 - confidence) / 2.0
    lower = _first(values, lambda count: float(special.bdtr(count, values, level)) >= tail)
    upper = _first(values, lambda count: float(special.bdtrc(count, values, level)) <= tail)
    return _within(lower, upper + 1, values)


def _first(values: int, holds: Callable[[int], bool]) -> int:
    """Return the smallest count from which on the condition holds."""
    low, high = 0, values
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _within(lower: int, upper: int, values: int) -> Ranks:
    found = lower if lower >= 1 else None, upper if upper <= values else None
    return Ranks(*found, None if None not in found else NullReason.TOO_FEW_UNITS)
