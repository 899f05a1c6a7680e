"""Conversion rates against statsmodels, scipy and the definitions themselves."""

import math
import random
from fractions import Fraction

import pytest
from scipy import optimize, stats
from statsmodels.stats import proportion as reference

from app.stats.distributions import Alternative
from app.stats.proportions import (
    DifferenceMethod,
    RateVariance,
    difference_of_proportions,
    k_proportion_chi_square,
    two_proportion_test,
    wilson_interval,
)
from app.stats.reasons import NullReason
from app.stats.samples import Proportion

_RANDOM = random.Random(20240601)


def random_arm(smallest: int = 5, largest: int = 3000) -> Proportion:
    trials = _RANDOM.randint(smallest, largest)
    return Proportion(_RANDOM.randint(1, trials - 1), trials)


ARM_PAIRS = [(random_arm(), random_arm()) for _ in range(50)]


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.999])
def test_wilson_interval__random_arms__agrees_with_statsmodels(confidence: float) -> None:
    for arm, _ in ARM_PAIRS:
        result = wilson_interval(arm, confidence=confidence)

        want = reference.proportion_confint(arm.successes, arm.trials, alpha=1 - confidence, method="wilson")
        assert (result.lower, result.upper) == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("trials", [2**53 + 1, 2**63])
def test_wilson_interval__rate_next_to_1__stays_a_rate(trials: int) -> None:
    result = wilson_interval(Proportion(trials - 1, trials), confidence=math.nextafter(1.0, 0.0))

    assert result.upper == 1.0


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (DifferenceMethod.NEWCOMBE, "newcomb"),
        (DifferenceMethod.AGRESTI_CAFFO, "agresti-caffo"),
        (DifferenceMethod.WALD, "wald"),
    ],
)
def test_difference_of_proportions__random_arms__agrees_with_statsmodels(method: DifferenceMethod, name: str) -> None:
    for control, treatment in ARM_PAIRS:
        result = difference_of_proportions(control, treatment, confidence=0.9, method=method)

        want = reference.confint_proportions_2indep(
            treatment.successes,
            treatment.trials,
            control.successes,
            control.trials,
            method=name,
            compare="diff",
            alpha=0.1,
        )
        assert (result.lower, result.upper) == pytest.approx(want, rel=1e-9)


def score_p_value(control: Proportion, treatment: Proportion, delta: float) -> float:
    """Return the score test's p-value for a difference of delta, with the likelihood maximised step by step.

    The closed form in statsmodels 0.15 does not maximise the likelihood (its issue 10269), so it is no reference.
    """

    def unlikelihood(rate: float) -> float:
        return -sum(
            arm.successes * math.log(p) + (arm.trials - arm.successes) * math.log1p(-p)
            for arm, p in ((control, rate), (treatment, rate + delta))
        )

    bounds = (max(0.0, -delta) + 1e-13, min(1.0, 1.0 - delta) - 1e-13)
    rate = optimize.minimize_scalar(unlikelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    total = control.trials + treatment.trials
    variance = rate * (1 - rate) / control.trials + (rate + delta) * (1 - rate - delta) / treatment.trials
    observed = treatment.successes / treatment.trials - control.successes / control.trials
    z = (observed - delta) / math.sqrt(variance * total / (total - 1))
    return float(2 * stats.norm.sf(abs(z)))


def test_miettinen_nurminen__random_arms__its_limits_have_the_score_tests_alpha() -> None:
    for control, treatment in ARM_PAIRS:
        result = difference_of_proportions(
            control, treatment, confidence=0.95, method=DifferenceMethod.MIETTINEN_NURMINEN
        )

        assert result.lower is not None
        assert result.upper is not None
        for limit in (result.lower, result.upper):
            assert score_p_value(control, treatment, limit) == pytest.approx(0.05, rel=1e-5)


def test_miettinen_nurminen__no_conversions_at_all__has_the_limit_of_a_single_rate() -> None:
    # With no success in either arm the likeliest control rate is 0 for delta > 0, so that the upper limit solves
    # delta**2 = z**2 delta(1 - delta)/n N/(N - 1).
    control, treatment = Proportion(0, 30), Proportion(0, 1_000_000)
    scale = stats.norm.isf(0.025) ** 2 / treatment.trials * 1_000_030 / 1_000_029

    result = difference_of_proportions(control, treatment, method=DifferenceMethod.MIETTINEN_NURMINEN)

    assert result.upper == pytest.approx(scale / (1 + scale), rel=1e-10)


@pytest.mark.parametrize("method", DifferenceMethod)
def test_difference_of_proportions__empty_arm__says_so(method: DifferenceMethod) -> None:
    result = difference_of_proportions(Proportion(0, 0), Proportion(1, 2), method=method)

    assert result.null_reason is NullReason.EMPTY_ARM
    assert result.estimate is None


def test_wilson_interval__all_or_none_converted__ends_exactly_at_one_or_zero() -> None:
    assert wilson_interval(Proportion(0, 50)).lower == 0.0
    assert wilson_interval(Proportion(50, 50)).upper == 1.0


@pytest.mark.parametrize("trials", [10**7, 10**9, 10**12])
def test_wilson_interval__nobody_of_very_many_converted__keeps_its_digits(trials: int) -> None:
    z = float(stats.norm.isf(0.025))

    result = wilson_interval(Proportion(0, trials))

    assert result.lower == 0.0
    assert result.upper == pytest.approx(z * z / (trials + z * z), rel=1e-13)


@pytest.mark.parametrize("method", [DifferenceMethod.NEWCOMBE, DifferenceMethod.MIETTINEN_NURMINEN])
def test_difference_of_proportions__nearly_all_of_very_many_converted__is_the_mirrored_one(
    method: DifferenceMethod,
) -> None:
    control, treatment = Proportion(3, 10**9), Proportion(1, 5 * 10**7)
    mirrored = Proportion(10**9 - 3, 10**9), Proportion(5 * 10**7 - 1, 5 * 10**7)

    result = difference_of_proportions(control, treatment, method=method)
    other = difference_of_proportions(*mirrored, method=method)

    assert result.lower is not None
    assert result.upper is not None
    assert (other.lower, other.upper) == pytest.approx((-result.upper, -result.lower), rel=1e-12)


def test_wilson_interval__empty_arm__says_so() -> None:
    assert wilson_interval(Proportion(0, 0)).null_reason is NullReason.EMPTY_ARM


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, 95.0, math.nan])
def test_wilson_interval__confidence_out_of_range__is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(Proportion(1, 2), confidence=confidence)


@pytest.mark.parametrize(
    ("alternative", "name"),
    [(Alternative.TWO_SIDED, "two-sided"), (Alternative.GREATER, "larger"), (Alternative.LESS, "smaller")],
)
def test_two_proportion_test__random_arms__agrees_with_statsmodels(alternative: Alternative, name: str) -> None:
    for control, treatment in ARM_PAIRS:
        counts = [treatment.successes, control.successes]
        trials = [treatment.trials, control.trials]
        pooled = two_proportion_test(control, treatment, alternative=alternative)
        unpooled = two_proportion_test(control, treatment, variance=RateVariance.UNPOOLED, alternative=alternative)

        want_pooled = reference.proportions_ztest(counts, trials, alternative=name)
        want_unpooled = reference.test_proportions_2indep(
            counts[0], trials[0], counts[1], trials[1], method="wald", compare="diff", alternative=name
        )
        assert (pooled.statistic, pooled.p_value) == pytest.approx(want_pooled, rel=1e-9)
        assert unpooled.p_value == pytest.approx(want_unpooled.pvalue, rel=1e-9)


def test_two_proportion_test__continuity_correction__is_yates() -> None:
    for control, treatment in ARM_PAIRS:
        table = [[arm.successes, arm.trials - arm.successes] for arm in (control, treatment)]

        result = two_proportion_test(control, treatment, continuity_correction=True)

        assert result.p_value == pytest.approx(stats.chi2_contingency(table, correction=True).pvalue, rel=1e-9)


@pytest.mark.parametrize("arms", [((0, 10), (0, 20)), ((10, 10), (20, 20))])
def test_two_proportion_test__same_rate_for_everybody__has_no_variance(
    arms: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    result = two_proportion_test(Proportion(*arms[0]), Proportion(*arms[1]))

    assert result.p_value is None
    assert result.null_reason is NullReason.ZERO_VARIANCE


def test_two_proportion_test__far_tail__keeps_its_digits() -> None:
    result = two_proportion_test(Proportion(1000, 10_000), Proportion(2000, 10_000))

    assert result.statistic is not None
    assert result.p_value == pytest.approx(2 * stats.norm.sf(result.statistic), rel=1e-12)
    assert 0.0 < (result.p_value or 0.0) < 1e-80


def test_k_proportion_chi_square__random_arms__agrees_with_scipy() -> None:
    arms = [random_arm() for _ in range(6)]
    table = [[arm.successes, arm.trials - arm.successes] for arm in arms]

    result = k_proportion_chi_square(arms)

    want = stats.chi2_contingency(table, correction=False)
    assert (result.statistic, result.p_value, result.df) == pytest.approx(
        (want.statistic, want.pvalue, want.dof), rel=1e-10
    )


def test_k_proportion_chi_square__one_arm__is_refused() -> None:
    with pytest.raises(ValueError, match="two arms"):
        k_proportion_chi_square([Proportion(1, 2)])


@pytest.mark.parametrize(
    ("arms", "reason"),
    [
        ([Proportion(0, 0), Proportion(1, 2)], NullReason.EMPTY_ARM),
        ([Proportion(0, 5), Proportion(0, 2)], NullReason.ZERO_VARIANCE),
    ],
)
def test_k_proportion_chi_square__nothing_to_compare__says_why(arms: list[Proportion], reason: NullReason) -> None:
    assert k_proportion_chi_square(arms).null_reason is reason


@pytest.mark.parametrize(("successes", "trials"), [(-1, 2), (3, 2), (0, 2**64)])
def test_proportion__impossible_counts__are_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=r"trials|successes"):
        Proportion(successes, trials)


def test_proportion__count_not_whole__is_refused() -> None:
    with pytest.raises(TypeError, match="int"):
        Proportion(1.5, 2)  # type: ignore[arg-type]  # What a careless caller would pass.


def test_proportion__estimate__is_exact() -> None:
    estimate = Proportion(1, 3).estimate()

    assert (estimate.value, estimate.variance) == (Fraction(1, 3), Fraction(2, 27))
