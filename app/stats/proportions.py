"""Conversion rates: intervals of one rate and of a difference, the z test, and the test over all arms."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from app.stats.distributions import Alternative, chi_square_sf, p_value, two_sided_quantile
from app.stats.exact import to_float
from app.stats.intervals import Interval
from app.stats.reasons import NullReason
from app.stats.roots import crossing
from app.stats.samples import Proportion


class DifferenceMethod(StrEnum):
    """How the interval of a difference of rates is made."""

    NEWCOMBE = "newcombe"
    AGRESTI_CAFFO = "agresti_caffo"
    WALD = "wald"
    MIETTINEN_NURMINEN = "miettinen_nurminen"


class RateVariance(StrEnum):
    """Whether a z test takes one rate for both arms, as the null says, or each arm's own."""

    POOLED = "pooled"
    UNPOOLED = "unpooled"


@dataclass(frozen=True, slots=True, kw_only=True)
class HypothesisTest:
    """A statistic with its p-value, None with the reason where undefined; `df` is None for a z statistic."""

    statistic: float | None
    p_value: float | None
    df: int | None = None
    null_reason: NullReason | None = None


def wilson_interval(arm: Proportion, *, confidence: float = 0.95) -> Interval:
    """Return the rate of one arm with its Wilson score interval, inside [0, 1].

    Raises:
        ValueError: confidence is outside (0, 1).

    Source: Wilson, "Probable inference, the law of succession, and statistical inference" (JASA 22, 1927):
    the two roots p of (x/n - p)**2 = z**2 p(1 - p)/n.
    """
    z = two_sided_quantile(confidence)
    if arm.trials == 0:
        return _no_interval(NullReason.EMPTY_ARM)
    lower, upper = _wilson_limits(arm, z)
    return Interval(estimate=arm.successes / arm.trials, lower=lower, upper=upper)


def _wilson_limits(arm: Proportion, z: float) -> tuple[float, float]:
    """Return both roots; rates near 0 have all their digits, those near 1 as many as a double can hold there."""
    if arm.successes == arm.trials:
        return _wilson_lower(arm, z), 1.0
    lower = 0.0 if arm.successes == 0 else _wilson_lower(arm, z)
    # Rounding may put a limit a last digit past the rate when the interval is that narrow, and past 1 near it.
    rate = arm.successes / arm.trials
    return min(lower, rate), min(1.0, max(_wilson_larger(arm, z), rate))


def _wilson_lower(arm: Proportion, z: float) -> float:
    """Return the smaller root, from the larger one and the product of both, which loses no digits near 0."""
    return arm.successes / arm.trials * arm.successes / (arm.trials + z * z) / _wilson_larger(arm, z)


def _wilson_larger(arm: Proportion, z: float) -> float:
    root = z * math.sqrt(arm.successes / arm.trials * (arm.trials - arm.successes) + z * z / 4.0)
    return (arm.successes + z * z / 2.0 + root) / (arm.trials + z * z)


def difference_of_proportions(
    control: Proportion,
    treatment: Proportion,
    *,
    confidence: float = 0.95,
    method: DifferenceMethod = DifferenceMethod.NEWCOMBE,
) -> Interval:
    """Return the difference of the rates, treatment minus control, with its two-sided interval.

    The interval contains the observed difference, except for Agresti-Caffo, which is centred on an adjusted
    one. Wald and Agresti-Caffo may reach beyond -1 or 1.

    Raises:
        ValueError: confidence is outside (0, 1).

    Source: Newcombe, "Interval estimation for the difference between independent proportions" (Statist. Med.
    17, 1998), method 10; Agresti, Caffo, "Simple and effective confidence intervals for proportions and
    differences of proportions" (Am. Stat. 54, 2000); Miettinen, Nurminen, "Comparative analysis of two rates"
    (Statist. Med. 4, 1985), the score interval with the factor N/(N - 1).
    """
    z = two_sided_quantile(confidence)
    if control.trials == 0 or treatment.trials == 0:
        return _no_interval(NullReason.EMPTY_ARM)
    difference = _rate_difference(control, treatment)
    match method:
        case DifferenceMethod.NEWCOMBE:
            lower, upper = _newcombe(control, treatment, z)
        case DifferenceMethod.AGRESTI_CAFFO:
            one_each_way = Proportion(1, 2)
            lower, upper = _wald(control + one_each_way, treatment + one_each_way, z)
        case DifferenceMethod.WALD:
            lower, upper = _wald(control, treatment, z)
        case DifferenceMethod.MIETTINEN_NURMINEN:
            lower, upper = _miettinen_nurminen(control, treatment, z)
    return Interval(estimate=difference, lower=lower, upper=upper)


def _no_interval(reason: NullReason) -> Interval:
    return Interval(estimate=None, lower=None, upper=None, null_reason=reason)


def _rate_difference(control: Proportion, treatment: Proportion) -> float:
    difference = treatment.successes * control.trials - control.successes * treatment.trials
    return difference / (control.trials * treatment.trials)


def _newcombe(control: Proportion, treatment: Proportion, z: float) -> tuple[float, float]:
    difference = _rate_difference(control, treatment)
    down_c, up_c = _wilson_distances(control, z)
    down_t, up_t = _wilson_distances(treatment, z)
    # Each limit moves away from the difference by both arms' one-sided distances, added in quadrature.
    lower = difference - math.hypot(down_t, up_c)
    upper = difference + math.hypot(up_t, down_c)
    return max(-1.0, lower), min(1.0, upper)


def _wilson_distances(arm: Proportion, z: float) -> tuple[float, float]:
    """Return how far the limits of the rate lie below and above it."""
    if 2 * arm.successes > arm.trials:
        # Rates near 0 are exact to their last digit, rates near 1 are not: count the failures instead.
        down, up = _wilson_distances(_failures(arm), z)
        return up, down
    rate = arm.successes / arm.trials
    lower, upper = _wilson_limits(arm, z)
    return rate - lower, upper - rate


def _wald(control: Proportion, treatment: Proportion, z: float) -> tuple[float, float]:
    difference = _rate_difference(control, treatment)
    half_width = z * math.sqrt(_unpooled_variance(control, treatment))
    return difference - half_width, difference + half_width


def _unpooled_variance(control: Proportion, treatment: Proportion) -> float:
    return sum(a.successes * (a.trials - a.successes) / a.trials**3 for a in (control, treatment))


def _miettinen_nurminen(control: Proportion, treatment: Proportion, z: float) -> tuple[float, float]:
    pooled = control + treatment
    if 2 * pooled.successes > pooled.trials:
        # Rates near 0 are exact to their last digit, rates near 1 are not: count the failures instead.
        lower, upper = _miettinen_nurminen(_failures(control), _failures(treatment), z)
        return -upper, -lower
    difference = _rate_difference(control, treatment)

    def score(delta: float) -> float:
        """Say how many standard errors the observed difference lies above delta; it falls in delta."""
        if delta == difference:
            return 0.0
        rate_c, rate_t = rates_at_difference(control, treatment, delta)
        variance = rate_t * (1.0 - rate_t) / treatment.trials + rate_c * (1.0 - rate_c) / control.trials
        # The floor keeps the ratio finite where the likeliest rates are 0 and 1.
        return (difference - delta) / math.sqrt(max(variance * pooled.trials / (pooled.trials - 1), 1e-300))

    lower = crossing(lambda delta: score(delta) - z, -1.0, difference)
    upper = crossing(lambda delta: score(delta) + z, difference, 1.0)
    return lower, upper


def _failures(arm: Proportion) -> Proportion:
    return Proportion(arm.trials - arm.successes, arm.trials)


def rates_at_difference(control: Proportion, treatment: Proportion, delta: float) -> tuple[float, float]:
    """Return the likeliest rates of control and treatment among those that differ by delta.

    Source: Miettinen, Nurminen, "Comparative analysis of two rates" (Statist. Med. 4, 1985): the likelihood
    equation whose closed form, the root of a cubic, they give; that itself loses half of all digits for rates near 0.
    """
    # Each arm's rate is its floor plus a shift that both share; one floor is 0, the other the difference.
    arms = ((control, max(0.0, -delta)), (treatment, max(0.0, delta)))
    room = 1.0 - abs(delta)

    def slope(shift: float) -> float:
        """Return the derivative of the log likelihood, which falls in the shift."""
        total = 0.0
        for arm, floor in arms:
            failures = arm.trials - arm.successes
            # The floor of the divisors stands for an infinite slope at the ends.
            total += arm.successes / max(floor + shift, 1e-250) if arm.successes else 0.0
            total -= failures / max(1.0 - floor - shift, 1e-250) if failures else 0.0
        return total

    shift = crossing(slope, 0.0, room)
    return max(0.0, -delta) + shift, max(0.0, delta) + shift


def two_proportion_test(
    control: Proportion,
    treatment: Proportion,
    *,
    variance: RateVariance = RateVariance.POOLED,
    continuity_correction: bool = False,
    alternative: Alternative = Alternative.TWO_SIDED,
) -> HypothesisTest:
    """Test whether two rates are equal, by the z statistic of their difference, treatment minus control.

    The continuity correction shrinks the difference towards 0 by half a unit per arm, at most to 0. The
    p-value is for a fixed horizon: it does not allow looking repeatedly.

    Source: Fleiss, Levin, Paik, "Statistical Methods for Rates and Proportions" (3rd ed., 2003), chapter 3, on the
    fourfold table.
    """
    if control.trials == 0 or treatment.trials == 0:
        return HypothesisTest(statistic=None, p_value=None, null_reason=NullReason.EMPTY_ARM)
    if variance is RateVariance.POOLED:
        pooled = control + treatment
        spread = pooled.successes * (pooled.trials - pooled.successes)
        squared_error = spread / (pooled.trials * control.trials * treatment.trials)
    else:
        squared_error = _unpooled_variance(control, treatment)
    if squared_error == 0.0:
        return HypothesisTest(statistic=None, p_value=None, null_reason=NullReason.ZERO_VARIANCE)
    difference = _rate_difference(control, treatment)
    if continuity_correction:
        correction = 0.5 / control.trials + 0.5 / treatment.trials
        difference = math.copysign(max(0.0, abs(difference) - correction), difference)
    statistic = difference / math.sqrt(squared_error)
    return HypothesisTest(statistic=statistic, p_value=p_value(statistic, alternative))


def k_proportion_chi_square(arms: Sequence[Proportion]) -> HypothesisTest:
    """Test whether all arms have the same rate; df is the number of arms minus 1.

    arms: (k,), k >= 2.

    Raises:
        ValueError: there are fewer than two arms.

    Source: Pearson, "On the criterion that a given system of deviations..." (Phil. Mag. 50, 1900), for a 2 x
    k table.
    """
    if len(arms) < 2:
        raise ValueError(f"an omnibus test needs two arms or more, got {len(arms)}")
    df = len(arms) - 1
    successes, trials = sum(a.successes for a in arms), sum(a.trials for a in arms)
    if any(a.trials == 0 for a in arms):
        return HypothesisTest(statistic=None, p_value=None, df=df, null_reason=NullReason.EMPTY_ARM)
    if successes in {0, trials}:
        return HypothesisTest(statistic=None, p_value=None, df=df, null_reason=NullReason.ZERO_VARIANCE)
    # Observed minus expected successes, over every cell: all in whole numbers, so no digit is lost.
    cells = (Fraction((a.successes * trials - a.trials * successes) ** 2, a.trials) for a in arms)
    total = sum(cells, Fraction(0))
    statistic = to_float(total / (successes * (trials - successes)))
    return HypothesisTest(statistic=statistic, p_value=chi_square_sf(statistic, df), df=df)
