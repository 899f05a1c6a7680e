"""Sample ratio mismatch and always-valid inference against scipy, closed forms and simulation."""

import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from app.stats.effects import Scale
from app.stats.reasons import NullReason
from app.stats.samples import MeanSample, Proportion
from app.stats.sequential import always_valid_interval, always_valid_lift, always_valid_reach
from app.stats.srm import srm_check, srm_chi_square, srm_exact, srm_sequential


def test_srm_chi_square__several_arms__agrees_with_scipy() -> None:
    observed, weights = [5050, 2411, 2539], [50, 25, 25]

    result = srm_chi_square(observed, weights)

    want = stats.chisquare(observed, [5000, 2500, 2500])
    assert (result.statistic, result.p_value) == pytest.approx((want.statistic, want.pvalue))
    assert result.expected == (5000.0, 2500.0, 2500.0)
    assert result.df == 2


def test_srm_chi_square__split_of_260_to_185__is_a_mismatch_for_equal_shares_only() -> None:
    assert srm_chi_square([260, 185], [0.5, 0.5]).mismatch
    assert not srm_chi_square([260, 185], [260, 185]).mismatch


@pytest.mark.parametrize(
    ("observed", "weights", "reason"),
    [
        ([0, 0], [1, 1], NullReason.EMPTY_ARM),
        ([7], [1], NullReason.TOO_FEW_ARMS),
        ([7, 0], [1, 0], NullReason.TOO_FEW_ARMS),
    ],
)
def test_srm_chi_square__nothing_to_test__says_why_and_finds_no_mismatch(
    observed: list[int], weights: list[float], reason: NullReason
) -> None:
    result = srm_chi_square(observed, weights)

    assert result.null_reason is reason
    assert not result.mismatch


def test_srm__units_in_an_arm_without_weight__are_a_certain_mismatch() -> None:
    test = srm_chi_square([100, 1, 100], [1, 0, 1])
    evidence = srm_sequential([100, 1, 100], [1, 0, 1])

    assert test.mismatch
    assert test.p_value == 0.0
    assert test.null_reason is NullReason.ZERO_EXPECTED
    assert evidence.p_value == 0.0


def test_srm_chi_square__arm_without_weight_and_units__is_left_out() -> None:
    assert srm_chi_square([100, 0, 120], [1, 0, 1]).statistic == srm_chi_square([100, 120], [1, 1]).statistic


@pytest.mark.parametrize("weights", [[1], [0, 0], [1, -1], [1, 1e-14], [1, math.nan]])
def test_srm_chi_square__impossible_plan__is_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        srm_chi_square([1, 1], weights)


def test_srm_chi_square__negative_count__is_refused() -> None:
    with pytest.raises(ValueError, match="counts"):
        srm_chi_square([-1, 1], [1, 1])


@pytest.mark.parametrize(("users", "expected"), [((0, 10), 2 / 2**10), ((5, 5), 1.0), ((0, 0), None)])
def test_srm_exact__two_halves__is_the_doubled_tail(users: tuple[int, int], expected: float | None) -> None:
    assert srm_exact(users, (50, 50)) == (None if expected is None else pytest.approx(expected))


def test_srm_exact__fair_divisions_of_few_units_among_uneven_arms__keeps_its_level() -> None:
    dice = np.random.default_rng(20260331)

    ps = [
        srm_exact(dice.multinomial(dice.integers(1, 61), (0.9, 0.09, 0.01)).tolist(), (90, 9, 1)) for _ in range(2000)
    ]

    assert sum(p is not None and p < 0.05 for p in ps) / len(ps) <= 0.05


def test_srm_check__first_unit_in_an_arm_of_one_percent__is_no_mismatch() -> None:
    first = srm_check((0, 1), (99, 1))

    assert first.p_value == pytest.approx(2.5e-23, rel=0.05)
    assert not first.mismatch
    assert srm_check((95, 5), (99, 1)).mismatch is False
    assert srm_check((60, 40), (99, 1)).mismatch is True


@pytest.mark.parametrize("expected", [1, 2, 5, 9.9, 10, 15, 20, 50])
def test_srm_check__arm_of_one_percent__finds_no_more_mismatches_than_two_in_a_thousand(expected: float) -> None:
    total, share = round(expected * 100), 0.01
    counts = np.arange(min(total, 200) + 1)

    found = [srm_check((total - int(count), int(count)), (99, 1)).mismatch for count in counts]

    assert stats.binom.pmf(counts, total, share)[found].sum() <= 0.002


def test_srm_check__many_units_or_an_arm_without_weight__is_chi_square() -> None:
    for observed, weights in (((5200, 4800), (1, 1)), ((335, 270, 395), (1, 1, 1)), ((100, 1, 100), (1, 0, 1))):
        assert srm_check(observed, weights) == srm_chi_square(observed, weights)


@pytest.mark.parametrize("concentration", [0.5, 30.0, 1000.0])
def test_srm_sequential__small_counts__is_the_ratio_of_gamma_functions(concentration: float) -> None:
    observed, shares = np.array([30, 51, 0, 9]), np.array([0.4, 0.4, 0.1, 0.1])
    prior = concentration * shares
    marginal = special.gammaln(concentration) - special.gammaln(concentration + observed.sum())
    marginal += (special.gammaln(prior + observed) - special.gammaln(prior)).sum()

    result = srm_sequential(observed.tolist(), shares.tolist(), dirichlet_concentration=concentration)

    assert result.log_bayes_factor == pytest.approx(marginal - (observed * np.log(shares)).sum(), abs=1e-9)


def test_srm_sequential__billions_of_units__keeps_its_digits() -> None:
    # After a perfect split of N units the evidence for the plan grows like log(N)/2, and here N grows 100-fold.
    results = [srm_sequential([n, n], [1, 1]).log_bayes_factor for n in (10**12, 10**14)]

    assert results[0] is not None
    assert results[1] is not None
    assert results[0] - results[1] == pytest.approx(math.log(10.0), abs=1e-6)


def test_srm_sequential__evidence_seen_before__is_remembered() -> None:
    first = srm_sequential([700, 500], [1, 1])
    assert first.largest_log_bayes_factor is not None

    later = srm_sequential([5000, 5000], [1, 1], largest_log_bayes_factor=first.largest_log_bayes_factor)

    assert later.p_value == first.p_value
    assert later.p_value_now == 1.0


def test_srm_sequential__planned_split_looked_at_often__rarely_rejects() -> None:
    random = np.random.default_rng(20240603)
    rejections = 0
    for _ in range(200):
        to_treatment = random.binomial(1, 0.3, 2000).cumsum()
        looks = [
            srm_sequential([n - int(to_treatment[n - 1]), int(to_treatment[n - 1])], [0.7, 0.3])
            for n in range(50, 2001, 50)
        ]
        rejections += any((look.p_value_now or 0.0) < 0.05 for look in looks)

    assert rejections <= 20


def test_always_valid_interval__no_effect_looked_at_often__rarely_leaves_out_zero() -> None:
    random = np.random.default_rng(20240604)
    errors = 0
    for _ in range(200):
        values = random.exponential(1.0, (2, 2000)).cumsum(axis=1)
        squares = (np.diff(values, prepend=0.0, axis=1) ** 2).cumsum(axis=1)
        for n in range(200, 2001, 100):
            arms = [
                MeanSample.from_sums(n=n, sum_values=float(v[n - 1]), sum_squares=float(s[n - 1]))
                for v, s in zip(values, squares, strict=True)
            ]
            result = always_valid_interval(arms[0], arms[1], tuning_sample_size=2000)
            assert result.p_value is not None
            if result.p_value < 0.05:
                errors += 1
                break

    assert errors <= 20


@pytest.mark.parametrize(
    ("control", "scale", "reason"),
    [
        (Proportion(0, 0), Scale.ABSOLUTE, NullReason.EMPTY_ARM),
        (Proportion(0, 9), Scale.RELATIVE, NullReason.ZERO_BASELINE),
        (Proportion(9, 9), Scale.ABSOLUTE, NullReason.ZERO_VARIANCE),
    ],
)
def test_always_valid_interval__undefined__says_why(control: Proportion, scale: Scale, reason: NullReason) -> None:
    result = always_valid_interval(control, Proportion(9, 9), scale=scale)

    assert result.null_reason is reason
    assert result.p_value is None
    assert result.rho_squared > 0.0


def test_always_valid_interval__tuning_size_not_positive__is_refused() -> None:
    with pytest.raises(ValueError, match="tuning_sample_size"):
        always_valid_interval(Proportion(1, 9), Proportion(1, 9), tuning_sample_size=0)


def test_always_valid_lift__its_limits__are_where_the_contrast_is_no_longer_told_from_0() -> None:
    control, treatment = Proportion(400, 5000), Proportion(520, 5100)

    result = always_valid_lift(control, treatment, alpha=0.1, tuning_sample_size=2000)

    rate_c, rate_t = 400 / 5000, 520 / 5100
    var_c, var_t = rate_c * (1 - rate_c) / 5000, rate_t * (1 - rate_t) / 5100
    reach = always_valid_reach(10_100, alpha=0.1, tuning_sample_size=2000)

    def scores_above(lift: float) -> float:
        return abs(rate_t - (1 + lift) * rate_c) / math.sqrt(var_t + (1 + lift) ** 2 * var_c) - reach

    assert result.estimate == pytest.approx(rate_t / rate_c - 1)
    assert result.lower == pytest.approx(optimize.brentq(scores_above, -0.9, rate_t / rate_c - 1))
    assert result.upper == pytest.approx(optimize.brentq(scores_above, rate_t / rate_c - 1, 3.0))
    of_difference = always_valid_interval(control, treatment, alpha=0.1, tuning_sample_size=2000)
    assert (result.p_value, result.rho_squared) == (of_difference.p_value, of_difference.rho_squared)


def test_always_valid_lift__effect_and_few_conversions_looked_at_often__is_rarely_missed() -> None:
    """The interval of the delta method misses in a fifth of such experiments."""
    rng = np.random.default_rng(3)
    rate, lift, step, missed = 0.01, 0.2, 20, 0
    for _ in range(100):
        arms = np.cumsum([rng.binomial(step, p, 60) for p in (rate, rate * (1 + lift))], axis=1).tolist()
        for look, (c, t) in enumerate(zip(*arms, strict=True), start=1):
            found = always_valid_lift(Proportion(c, step * look), Proportion(t, step * look))
            if found.lower is not None and found.upper is not None and not found.lower <= lift <= found.upper:
                missed += 1
                break

    assert missed <= 10


def test_always_valid_lift__control_not_clear_of_0__is_unbounded_with_the_p_value() -> None:
    result = always_valid_lift(Proportion(4, 1000), Proportion(90, 1000))

    assert (result.lower, result.upper, result.null_reason) == (None, None, NullReason.UNBOUNDED)
    assert result.estimate == pytest.approx(21.5)
    assert result.p_value is not None
    assert result.p_value < 0.05


@pytest.mark.parametrize(
    ("control", "reason"), [(Proportion(0, 0), NullReason.EMPTY_ARM), (Proportion(0, 9), NullReason.ZERO_BASELINE)]
)
def test_always_valid_lift__undefined__says_why(control: Proportion, reason: NullReason) -> None:
    result = always_valid_lift(control, Proportion(5, 9))

    assert (result.estimate, result.lower, result.null_reason) == (None, None, reason)


@pytest.mark.parametrize("size", [1e-308, 1e308, math.nan])
def test_always_valid__tuning_size_that_has_no_doubles__is_refused(size: float) -> None:
    arm = Proportion(1, 9)

    with pytest.raises(ValueError, match="tuning_sample_size must lie between"):
        always_valid_reach(10, alpha=0.95, tuning_sample_size=size)
    with pytest.raises(ValueError, match="tuning_sample_size must lie between"):
        always_valid_interval(arm, arm, alpha=0.95, tuning_sample_size=size)
    with pytest.raises(ValueError, match="tuning_sample_size must lie between"):
        always_valid_lift(arm, arm, alpha=0.95, tuning_sample_size=size)


@pytest.mark.parametrize("size", [0.001, 1e18])
@pytest.mark.parametrize("alpha", [math.ulp(0.0), 0.05, math.nextafter(1.0, 0.0)])
@pytest.mark.parametrize("units", [1, 2**65])
def test_always_valid_reach__ends_of_the_range__is_finite(size: float, alpha: float, units: int) -> None:
    assert math.isfinite(always_valid_reach(units, alpha=alpha, tuning_sample_size=size))


@pytest.mark.parametrize("concentration", [math.ulp(0.0), 1e300, math.nan])
def test_srm_sequential__concentration_that_has_no_doubles__is_refused(concentration: float) -> None:
    with pytest.raises(ValueError, match="dirichlet_concentration must lie between"):
        srm_sequential([5, 6], [1, 1], dirichlet_concentration=concentration)


@pytest.mark.parametrize("concentration", [1e-6, 1e18])
@pytest.mark.parametrize("observed", [[0, 0], [1, 2**63], [2**63, 2**63]])
def test_srm_sequential__ends_of_the_range__is_finite(concentration: float, observed: list[int]) -> None:
    result = srm_sequential(observed, [1, 2e-12], dirichlet_concentration=concentration)

    assert result.log_bayes_factor is not None
    assert math.isfinite(result.log_bayes_factor)
