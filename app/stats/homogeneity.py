"""Whether an effect is the same in several groups of units: by country, by the day on which they came."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.stats.distributions import chi_square_sf
from app.stats.effects import Effect
from app.stats.exact import all_finite
from app.stats.reasons import NullReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Homogeneity:
    """The test that the effects of `groups` groups are one and the same.

    `left_out` groups more have no effect, or no variance of it. `i_squared`, from 0 to 1, is the share of the variation
    between the groups' effects that chance does not explain. What is undefined is None, and `null_reason` says why.
    """

    groups: int
    left_out: int
    statistic: float | None
    df: int | None
    p_value: float | None
    i_squared: float | None
    null_reason: NullReason | None = None


def cochran_q(effects: Sequence[Effect]) -> Homogeneity:
    """Test whether groups that have no unit in common have the same effect.

    The variances are taken as known: with few units in a group the test finds too much (rates in 50 groups of 20 units
    in each arm: 16 % instead of 5), with few conversions too little. From about 100 units in each arm on it is near its
    level.

    Source: Cochran, "The combination of estimates from different experiments" (Biometrics 10, 1954, pp. 101-129):
    Q = sum_i w_i (d_i - d)**2 with w_i = 1/v_i and d = sum_i w_i d_i / sum_i w_i, chi-square with k - 1 degrees of
    freedom. Higgins, Thompson, "Quantifying heterogeneity in a meta-analysis" (Statistics in Medicine 21, 2002,
    pp. 1539-1558): I**2 = (Q - df)/Q, or 0 where that is negative.
    """
    known = [(one.estimate, one.variance) for one in effects if one.estimate is not None and one.variance is not None]
    left_out = len(effects) - len(known)
    if len(known) < 2:
        return _undefined(len(known), left_out, NullReason.TOO_FEW_GROUPS)
    statistic = _statistic(known)
    if not all_finite(statistic):
        return _undefined(len(known), left_out, NullReason.OUT_OF_RANGE)
    df = len(known) - 1
    return Homogeneity(
        groups=len(known),
        left_out=left_out,
        statistic=statistic,
        df=df,
        p_value=chi_square_sf(statistic, df),
        i_squared=max(0.0, (statistic - df) / statistic) if statistic else 0.0,
    )


def _statistic(known: Sequence[tuple[float, float]]) -> float:
    # By shares of the largest weight, which no scale of the data can overflow, and by distances from the effect that is
    # known best: equal effects are equal, and one that is far off, with the variance that goes with it, takes no digits
    # from the others.
    smallest, base = min((variance, estimate) for estimate, variance in known)
    total = math.fsum(smallest / variance for _, variance in known)
    weights = [smallest / variance / total for _, variance in known]
    distances = [estimate - base for estimate, _ in known]
    if not all_finite(*distances):
        return math.inf
    middle = math.fsum(weight * distance for weight, distance in zip(weights, distances, strict=True))
    errors = [
        (distance - middle) / math.sqrt(variance) for distance, (_, variance) in zip(distances, known, strict=True)
    ]
    # In order of size, so that the order of the groups is of no effect; unlike `fsum`, this may overflow.
    return sum(sorted(error * error for error in errors))


def _undefined(groups: int, left_out: int, reason: NullReason) -> Homogeneity:
    return Homogeneity(
        groups=groups, left_out=left_out, statistic=None, df=None, p_value=None, i_squared=None, null_reason=reason
    )
