"""Tail areas and quantiles of the normal, t and chi-square distributions, and the direction of a test.

They come from scipy.special, not from the distribution objects of scipy.stats: the same numbers, a hundred
times faster per call, which counts where a time series has an interval per bucket.
"""

import math
from enum import StrEnum

from scipy import special

from app.stats.checks import check_open_unit


class Alternative(StrEnum):
    """The hypothesis a test looks for; GREATER means that the treatment is above the control."""

    TWO_SIDED = "two-sided"
    GREATER = "greater"
    LESS = "less"


class Distribution(StrEnum):
    """The reference distribution of a difference over its standard error."""

    NORMAL = "normal"
    WELCH_T = "welch_t"


def normal_sf(z: float) -> float:
    """P(Z > z), accurate far into the tail.

    Source: Abramowitz, Stegun, "Handbook of Mathematical Functions" (1964), 26.2.3.
    """
    return float(special.ndtr(-z))


def normal_isf(tail: float) -> float:
    """Return the z with P(Z > z) = tail, for tail in (0, 1).

    Source: the inverse of normal_sf.
    """
    return -float(special.ndtri(tail))


def normal_density(z: float) -> float:
    """Return the standard normal density at z.

    Source: Abramowitz, Stegun (1964), 26.2.1.
    """
    return math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


def chi_square_sf(statistic: float, df: int) -> float:
    """P(X > statistic) for a chi-square variable with df degrees of freedom.

    Source: Abramowitz, Stegun (1964), 26.4.2.
    """
    return float(special.chdtrc(df, statistic))


def upper_tail(statistic: float, df: float | None) -> float:
    """P(T > statistic) for Student's t, or for the normal where df is None.

    Source: Abramowitz, Stegun (1964), 26.7.1.
    """
    return normal_sf(statistic) if df is None else float(special.stdtr(df, -statistic))


def two_sided_quantile(confidence: float, df: float | None = None) -> float:
    """Return the half-width, in standard errors, of a two-sided interval (normal where df is None).

    Raises:
        ValueError: confidence is outside (0, 1).

    Source: the inverse of upper_tail.
    """
    check_open_unit("confidence", confidence)
    tail = (1.0 - confidence) / 2.0
    return normal_isf(tail) if df is None else -float(special.stdtrit(df, tail))


def p_value(statistic: float, alternative: Alternative, df: float | None = None) -> float:
    """Return the p-value of a statistic whose null is Student's t, or the normal where df is None.

    Source: upper_tail; two-sided, of both tails together.
    """
    match alternative:
        case Alternative.TWO_SIDED:
            return min(1.0, 2.0 * upper_tail(abs(statistic), df))
        case Alternative.GREATER:
            return upper_tail(statistic, df)
        case Alternative.LESS:
            return upper_tail(-statistic, df)
