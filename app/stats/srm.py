"""Sample ratio mismatch: do the arms have the shares of units that the plan gives them?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from scipy import special

from app.stats.checks import check_between, check_open_unit
from app.stats.distributions import chi_square_sf
from app.stats.exact import Number, exact, to_float
from app.stats.reasons import NullReason

# A mismatch stops an experiment, so the check is strict, as is usual since Fabijan et al., "Diagnosing Sample Ratio
# Mismatch in Online Controlled Experiments" (KDD 2019).
MISMATCH_ALPHA = 0.001
# Where an arm expects fewer units, chi-square finds far too many mismatches: of 200 fair units with one in a hundred
# planned for an arm, 0.4 % instead of 0.1 %. From here on it finds 0.2 % at most.
_CHI_SQUARE_FROM = 10
# No plan means a smaller share; with one, the statistics have no doubles.
_SMALLEST_SHARE = Fraction(1, 10**12)
# Outside of these a prior is not one that anybody means, and its weights have no doubles.
_CONCENTRATIONS = (1e-6, 1e18)
# From here on the Stirling series below is good to the last digit.
_STIRLING_FROM = 16.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SrmTest:
    """The fixed-horizon check; `expected`, (k,), holds the units that the plan would give to the arms.

    `mismatch` is True where the p-value is below alpha (`srm_check`: and that can be relied on); False too where there
    is nothing to test.
    """

    expected: tuple[float, ...]
    statistic: float | None
    df: int | None
    p_value: float | None
    mismatch: bool
    null_reason: NullReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialSrm:
    """The anytime-valid check: evidence now, and over all looks so far.

    `p_value_now` is 1 over the Bayes factor of this look, at most 1; `p_value` is the smallest so far, which
    may be compared with alpha after every look.
    """

    log_bayes_factor: float | None
    largest_log_bayes_factor: float | None
    p_value_now: float | None
    p_value: float | None
    null_reason: NullReason | None = None


def srm_chi_square(
    observed: Sequence[int], expected_weights: Sequence[Number], *, alpha: float = MISMATCH_ALPHA
) -> SrmTest:
    """Test observed units per arm, (k,), against the plan's weights, (k,), which need not sum to 1.

    An arm without weight should have no units: it is left out if so, and is a certain mismatch if not
    (p-value 0, no statistic, ZERO_EXPECTED).

    Raises:
        ValueError: lengths differ, a count or weight is negative, no weight is positive, a share is below
            1e-12, or alpha is outside (0, 1).

    Source: Pearson, "On the criterion that a given system of deviations..." (Phil. Mag. 50, 1900).
    """
    check_open_unit("alpha", alpha)
    shares = _shares(observed, expected_weights)
    total = sum(observed)
    expected = tuple(to_float(share * total) for share in shares)
    df = sum(share > 0 for share in shares) - 1
    if total == 0:
        return _nothing_to_test(expected, NullReason.EMPTY_ARM)
    if any(count and not share for count, share in zip(observed, shares, strict=True)):
        return SrmTest(
            expected=expected,
            statistic=None,
            df=None,
            p_value=0.0,
            mismatch=True,
            null_reason=NullReason.ZERO_EXPECTED,
        )
    if df == 0:
        return _nothing_to_test(expected, NullReason.TOO_FEW_ARMS)
    used = [(count, share * total) for count, share in zip(observed, shares, strict=True) if share]
    statistic = to_float(sum(((count - plan) ** 2 / plan for count, plan in used), Fraction(0)))
    p = chi_square_sf(statistic, df)
    return SrmTest(expected=expected, statistic=statistic, df=df, p_value=p, mismatch=p < alpha)


def srm_check(observed: Sequence[int], expected_weights: Sequence[Number], *, alpha: float = MISMATCH_ALPHA) -> SrmTest:
    """Test as `srm_chi_square` does; where an arm expects few units, the exact test has to find the mismatch too.

    Raises:
        ValueError: as `srm_chi_square`.

    Source: Cochran, "Some methods for strengthening the common chi-square tests" (Biometrics 10, 1954), on expected
    counts that are too small for it; the sources of `srm_chi_square` and of `srm_exact`.
    """
    test = srm_chi_square(observed, expected_weights, alpha=alpha)
    few = any(0.0 < plan < _CHI_SQUARE_FROM for plan in test.expected)
    if test.mismatch and few and (srm_exact(observed, expected_weights) or 0.0) >= alpha:
        return replace(test, mismatch=False)
    return test


def srm_exact(observed: Sequence[int], expected_weights: Sequence[Number]) -> float | None:
    """Return the p-value of units per arm, (k,), against the plan's weights, (k,); `None`: there is nothing to test.

    Each arm is tested against all others together, two-sided by the doubled smaller tail of the binomial, and the
    smallest p-value is multiplied by the number of tests. With few units, or small arms, chi-square says far too
    often that something is wrong; this never does so more often than it says.

    Raises:
        ValueError: as `srm_chi_square`, but for alpha.

    Source: Clopper, Pearson, "The use of confidence or fiducial limits" (Biometrika 26, 1934), for the tails;
    Bonferroni's inequality for the arms.
    """
    shares = _shares(observed, expected_weights)
    total = sum(observed)
    if total == 0 or len(observed) < 2:
        return None
    # Of two arms, one says all.
    tested = len(observed) if len(observed) > 2 else 1
    pairs = list(zip(observed, shares, strict=True))[:tested]
    return min(1.0, tested * min(_doubled_tail(count, total, share) for count, share in pairs))


def _doubled_tail(count: int, total: int, share: Fraction) -> float:
    if share in {0, 1}:
        return 1.0 if count == share * total else 0.0
    at_most = float(special.bdtr(count, total, float(share)))
    at_least = 1.0 if count == 0 else float(special.bdtrc(count - 1, total, float(share)))
    return min(1.0, 2.0 * min(at_most, at_least))


def srm_sequential(
    observed: Sequence[int],
    expected_weights: Sequence[Number],
    *,
    dirichlet_concentration: float = 100.0,
    largest_log_bayes_factor: float = 0.0,
) -> SequentialSrm:
    """Weigh the observed units per arm, (k,), against the plan's weights, (k,), after any number of looks.

    The alternative is a Dirichlet prior centred on the plan with the given total concentration: the larger,
    the smaller the mismatches it is tuned to. Pass the largest log Bayes factor of the looks before.

    Raises:
        ValueError: lengths differ, a count or weight is negative, no weight is positive, a share is below
            1e-12, or the concentration is outside [1e-6, 1e18].

    Source: Lindon, Malek, "Anytime-Valid Inference for Multinomial Count Data" (NeurIPS 2022, arXiv
    2011.03567): the Bayes factor of the Dirichlet-multinomial against the planned multinomial; its running maximum
    exceeds 1/alpha with probability alpha at most.
    """
    check_between("dirichlet_concentration", dirichlet_concentration, *_CONCENTRATIONS)
    shares = _shares(observed, expected_weights)
    if any(count and not share for count, share in zip(observed, shares, strict=True)):
        return SequentialSrm(
            log_bayes_factor=None,
            largest_log_bayes_factor=None,
            p_value_now=0.0,
            p_value=0.0,
            null_reason=NullReason.ZERO_EXPECTED,
        )
    used = [(count, float(share)) for count, share in zip(observed, shares, strict=True) if share]
    evidence = _log_bayes_factor(used, dirichlet_concentration)
    largest = max(evidence, largest_log_bayes_factor)
    return SequentialSrm(
        log_bayes_factor=evidence,
        largest_log_bayes_factor=largest,
        p_value_now=math.exp(-max(0.0, evidence)),
        p_value=math.exp(-max(0.0, largest)),
    )


def _shares(observed: Sequence[int], weights: Sequence[Number]) -> list[Fraction]:
    if len(observed) != len(weights):
        raise ValueError(f"{len(observed)} counts for {len(weights)} weights")
    if any(count < 0 for count in observed):
        raise ValueError("counts of units are not negative")
    exact_weights = [exact("expected_weights", weight) for weight in weights]
    total = sum(exact_weights)
    if any(weight < 0 for weight in exact_weights) or total == 0:
        raise ValueError("weights are not negative, and one at least is positive")
    shares = [weight / total for weight in exact_weights]
    if any(0 < share < _SMALLEST_SHARE for share in shares):
        raise ValueError("a weight is positive, but less than 1e-12 of their sum")
    return shares


def _nothing_to_test(expected: tuple[float, ...], reason: NullReason) -> SrmTest:
    return SrmTest(expected=expected, statistic=None, df=None, p_value=None, mismatch=False, null_reason=reason)


def _log_bayes_factor(arms: Sequence[tuple[int, float]], concentration: float) -> float:
    """Return log of Gamma(k)/Gamma(k + N) prod Gamma(k p_i + n_i)/Gamma(k p_i) / prod p_i**n_i.

    Each log Gamma grows like N log N while the result stays small, so the large terms are cancelled on paper:
    with Stirling's log Gamma(x) = (x - 1/2) log x - x + log(2 pi)/2 + rest(x), what is left of them is a
    relative entropy.
    """
    total = sum(count for count, _ in arms)
    after = concentration + total
    entropy, rest = 0.0, _stirling_rest(concentration) - _stirling_rest(after)
    for count, share in arms:
        before = concentration * share
        # The arm's posterior weight over its planned one, and by how much that passes 1. The excesses,
        # weighted by the shares, sum to 0; taking them off keeps every summand small and positive.
        weight = (before + count) / (share * after)
        excess = (count - share * total) / (share * after)
        log_weight = math.log1p(excess) if abs(excess) < 0.5 else math.log(weight)
        entropy += share * after * (weight * log_weight - excess)
        rest += _stirling_rest(before + count) - _stirling_rest(before)
        rest -= 0.5 * (math.log(before + count) - math.log(before))
    return entropy + rest + 0.5 * (math.log(after) - math.log(concentration))


def _stirling_rest(x: float) -> float:
    """Return log Gamma(x) - (x - 1/2) log x + x - log(2 pi)/2.

    Source: Abramowitz, Stegun, "Handbook of Mathematical Functions" (1964), 6.1.41.
    """
    if x < _STIRLING_FROM:
        return float(special.gammaln(x)) - (x - 0.5) * math.log(x) + x - 0.5 * math.log(2.0 * math.pi)
    square = x * x
    return (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * square)) / square) / square) / x
