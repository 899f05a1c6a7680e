"""What holds for any data: the statistics engine under Hypothesis."""

import dataclasses
import itertools
import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.stats.bayes_effect import NormalPrior, bayes_normal
from app.stats.bayes_rates import bayes_beta_binomial, bayes_prob_best
from app.stats.cuped import cuped_difference, cuped_estimates
from app.stats.distributions import Alternative, Distribution
from app.stats.effects import Scale
from app.stats.lift import LiftMethod, relative_lift
from app.stats.means import value_interval, welch_t_test
from app.stats.multiple import Correction, adjust_p_values
from app.stats.planning import Design
from app.stats.power_means import mde_means, power_means, sample_size_means
from app.stats.power_rates import mde_proportions, power_proportions, sample_size_proportions
from app.stats.proportions import (
    DifferenceMethod,
    RateVariance,
    difference_of_proportions,
    k_proportion_chi_square,
    two_proportion_test,
    wilson_interval,
)
from app.stats.rate_belief import BetaPrior
from app.stats.ratios import ratio_difference
from app.stats.samples import CovariateSample, MeanSample, Proportion, RatioSample, Sample
from app.stats.sequential import always_valid_interval, always_valid_lift
from app.stats.srm import srm_chi_square, srm_sequential

# The machine may be busy: how long an example takes is no property of the engine.
any_speed = settings(deadline=None)
slow_and_few = settings(deadline=None, max_examples=25)

ROUNDING = 1e-9


@st.composite
def proportions(draw: st.DrawFn, smallest: int = 0) -> Proportion:
    trials = draw(st.one_of(st.integers(smallest, 5), st.integers(smallest, 10**9)))
    ends = st.sampled_from([0, trials, trials // 2])
    return Proportion(draw(st.one_of(ends, st.integers(0, trials))), trials)


def mean_sample_of(values: list[int] | list[float]) -> MeanSample:
    if all(isinstance(value, int) for value in values):
        return MeanSample.from_sums(n=len(values), sum_values=sum(values), sum_squares=sum(v * v for v in values))
    return MeanSample.from_sums(
        n=len(values), sum_values=math.fsum(values), sum_squares=math.fsum(v * v for v in values)
    )


def ratio_sample_of(pairs: list[tuple[int, int]]) -> RatioSample:
    return RatioSample.from_sums(
        n=len(pairs),
        num_sum=sum(a for a, _ in pairs),
        num_sum_squares=sum(a * a for a, _ in pairs),
        den_sum=sum(b for _, b in pairs),
        den_sum_squares=sum(b * b for _, b in pairs),
        num_den_sum_products=sum(a * b for a, b in pairs),
    )


def covariate_sample_of(pairs: list[tuple[int, int]]) -> CovariateSample:
    return CovariateSample.from_sums(
        n=len(pairs),
        post_sum=sum(a for a, _ in pairs),
        post_sum_squares=sum(a * a for a, _ in pairs),
        pre_sum=sum(b for _, b in pairs),
        pre_sum_squares=sum(b * b for _, b in pairs),
        post_pre_sum_products=sum(a * b for a, b in pairs),
    )


small_numbers = st.integers(-9, 9)
# A mean of up to 1e18 with a spread of a few units: squares in doubles would lose the spread altogether.
offsets = st.sampled_from([0, 0, 1, -(10**6), 10**9, 10**18])
integer_values = st.builds(
    lambda values, offset: [value + offset for value in values], st.lists(small_numbers, max_size=12), offsets
)
float_values = st.lists(st.floats(-1e149, 1e149, allow_subnormal=True), max_size=12)
pairs = st.lists(st.tuples(small_numbers, st.integers(-2, 9)), max_size=12)
mean_samples = st.one_of(integer_values, float_values).map(mean_sample_of)
ratio_samples = pairs.map(ratio_sample_of)
covariate_samples = pairs.map(covariate_sample_of)
samples: st.SearchStrategy[Sample] = st.one_of(proportions(), mean_samples, ratio_samples)
priors = st.sampled_from([None, NormalPrior(mean=0.1, variance=0.5)])
confidences = st.one_of(st.sampled_from([0.5, 0.9, 0.95, 0.999]), st.floats(1e-6, 1 - 1e-9))


def numbers_in(result: Any) -> list[float]:
    """Return every number of a result, however deep."""
    if dataclasses.is_dataclass(result):
        return [n for f in dataclasses.fields(result) for n in numbers_in(getattr(result, f.name))]
    if isinstance(result, tuple):
        return [number for part in result for number in numbers_in(part)]
    return [float(result)] if isinstance(result, int | float | Fraction) else []


def assert_sound(result: Any, *, may_lack: frozenset[str] = frozenset({"df"})) -> None:
    """Check that every number is finite, and that a reason stands beside every None."""
    assert all(math.isfinite(number) for number in numbers_in(result)), result
    lacking = {
        f.name
        for f in dataclasses.fields(result)
        if getattr(result, f.name) is None and f.name not in may_lack | {"null_reason"}
    }
    assert bool(lacking) == (getattr(result, "null_reason", None) is not None), result
    p = getattr(result, "p_value", None)
    assert p is None or 0.0 <= p <= 1.0


@any_speed
@given(proportions(), confidences)
def test_wilson_interval__any_arm__is_sound_and_contains_the_rate(arm: Proportion, confidence: float) -> None:
    result = wilson_interval(arm, confidence=confidence)

    assert_sound(result)
    if result.estimate is not None:
        assert result.lower is not None
        assert result.upper is not None
        assert 0.0 <= result.lower <= result.estimate <= result.upper <= 1.0


@any_speed
@given(proportions(), confidences)
def test_wilson_interval__failures_counted_instead__is_mirrored(arm: Proportion, confidence: float) -> None:
    assume(arm.trials > 0)
    result = wilson_interval(arm, confidence=confidence)
    mirrored = wilson_interval(Proportion(arm.trials - arm.successes, arm.trials), confidence=confidence)

    assert result.lower is not None
    assert mirrored.upper is not None
    assert result.lower == pytest.approx(1.0 - mirrored.upper, abs=1e-15)


@any_speed
@given(proportions(), proportions(), confidences, st.sampled_from(DifferenceMethod))
def test_difference_of_proportions__any_arms__is_sound_and_antisymmetric(
    control: Proportion, treatment: Proportion, confidence: float, method: DifferenceMethod
) -> None:
    result = difference_of_proportions(control, treatment, confidence=confidence, method=method)
    swapped = difference_of_proportions(treatment, control, confidence=confidence, method=method)

    assert_sound(result)
    if result.estimate is None or result.lower is None or result.upper is None:
        return
    assert swapped.estimate == -result.estimate
    assert swapped.lower == pytest.approx(-result.upper, rel=ROUNDING, abs=1e-15)
    assert swapped.upper == pytest.approx(-result.lower, rel=ROUNDING, abs=1e-15)
    if method is not DifferenceMethod.AGRESTI_CAFFO:
        assert result.lower <= result.estimate <= result.upper
    if method in {DifferenceMethod.NEWCOMBE, DifferenceMethod.MIETTINEN_NURMINEN}:
        assert result.lower >= -1.0
        assert result.upper <= 1.0


@any_speed
@given(
    control=proportions(),
    treatment=proportions(),
    variance=st.sampled_from(RateVariance),
    corrected=st.booleans(),
)
def test_two_proportion_test__arms_swapped__keeps_the_p_value_and_negates_the_statistic(
    control: Proportion, treatment: Proportion, variance: RateVariance, *, corrected: bool
) -> None:
    results = [
        two_proportion_test(a, b, variance=variance, continuity_correction=corrected)
        for a, b in ((control, treatment), (treatment, control))
    ]

    assert_sound(results[0])
    if results[0].statistic is not None:
        assert results[1].statistic == pytest.approx(-results[0].statistic, rel=1e-12)
        assert results[1].p_value == pytest.approx(results[0].p_value, rel=ROUNDING)


@any_speed
@given(proportions(), proportions(), st.sampled_from(RateVariance))
def test_two_proportion_test__one_sided__the_two_sides_add_up_to_one(
    control: Proportion, treatment: Proportion, variance: RateVariance
) -> None:
    greater = two_proportion_test(control, treatment, variance=variance, alternative=Alternative.GREATER)
    less = two_proportion_test(control, treatment, variance=variance, alternative=Alternative.LESS)

    assert_sound(greater)
    assert_sound(less)
    if greater.p_value is not None and less.p_value is not None:
        assert greater.p_value + less.p_value == pytest.approx(1.0)


@any_speed
@given(st.lists(proportions(), min_size=2, max_size=5))
def test_k_proportion_chi_square__any_arms__is_sound_and_ignores_their_order(arms: list[Proportion]) -> None:
    result = k_proportion_chi_square(arms)

    assert_sound(result)
    assert k_proportion_chi_square(arms[::-1]) == result


@any_speed
@given(proportions(), proportions())
def test_k_proportion_chi_square__two_arms__is_the_square_of_the_pooled_z(
    control: Proportion, treatment: Proportion
) -> None:
    z = two_proportion_test(control, treatment)
    chi_square = k_proportion_chi_square([control, treatment])

    assert (z.statistic is None) == (chi_square.statistic is None)
    if z.statistic is not None:
        assert chi_square.statistic == pytest.approx(z.statistic**2, rel=ROUNDING)
        assert chi_square.p_value == pytest.approx(z.p_value, rel=1e-7, abs=1e-300)


@any_speed
@given(mean_samples, mean_samples, confidences, st.sampled_from(Alternative))
def test_welch_t_test__any_arms__is_sound_and_contains_the_difference(
    control: MeanSample, treatment: MeanSample, confidence: float, alternative: Alternative
) -> None:
    result = welch_t_test(control, treatment, confidence=confidence, alternative=alternative)

    assert_sound(result)
    if result.difference is not None and result.lower is not None and result.upper is not None:
        assert result.lower <= result.difference <= result.upper


@any_speed
@given(mean_samples, mean_samples, confidences)
def test_welch_t_test__arms_swapped__negates_the_difference_and_keeps_the_p_value(
    control: MeanSample, treatment: MeanSample, confidence: float
) -> None:
    result = welch_t_test(control, treatment, confidence=confidence)
    swapped = welch_t_test(treatment, control, confidence=confidence)

    assert (swapped.control, swapped.treatment) == (result.treatment, result.control)
    assert swapped.p_value == pytest.approx(result.p_value)
    if result.difference is not None:
        assert swapped.difference == -result.difference
    if result.lower is not None:
        assert swapped.upper == pytest.approx(-result.lower, rel=ROUNDING, abs=1e-300)


@any_speed
@given(st.lists(small_numbers, min_size=2), st.lists(small_numbers, min_size=2), offsets)
def test_welch_t_test__all_values_shifted__does_not_change(
    control: list[int], treatment: list[int], offset: int
) -> None:
    plain = welch_t_test(mean_sample_of(control), mean_sample_of(treatment))
    shifted = welch_t_test(
        mean_sample_of([value + offset for value in control]),
        mean_sample_of([value + offset for value in treatment]),
    )

    assert dataclasses.replace(shifted, control=None, treatment=None) == dataclasses.replace(
        plain, control=None, treatment=None
    )


@any_speed
@given(integer_values, integer_values)
def test_mean_sample__statistics_added__are_those_of_the_merged_data(one: list[int], other: list[int]) -> None:
    assert mean_sample_of(one) + mean_sample_of(other) == mean_sample_of(one + other)


@any_speed
@given(pairs, pairs)
def test_paired_samples__statistics_added__are_those_of_the_merged_data(
    one: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    assert ratio_sample_of(one) + ratio_sample_of(other) == ratio_sample_of(one + other)
    assert covariate_sample_of(one) + covariate_sample_of(other) == covariate_sample_of(one + other)


@any_speed
@given(float_values, float_values)
def test_mean_sample__sums_in_doubles_added__are_close_to_those_of_the_merged_data(
    one: list[float], other: list[float]
) -> None:
    added = mean_sample_of(one) + mean_sample_of(other)
    merged = mean_sample_of(one + other)

    assert added.n == merged.n
    assert float(added.sum_squares) == pytest.approx(float(merged.sum_squares), rel=1e-14)


@any_speed
@given(samples, confidences, st.sampled_from(Distribution))
def test_value_interval__any_arm__is_sound(arm: Sample, confidence: float, distribution: Distribution) -> None:
    assert_sound(value_interval(arm, confidence=confidence, distribution=distribution))


@any_speed
@given(ratio_samples, ratio_samples, confidences, st.sampled_from(Distribution))
def test_ratio_difference__arms_swapped__is_sound_and_negated(
    control: RatioSample, treatment: RatioSample, confidence: float, distribution: Distribution
) -> None:
    result = ratio_difference(control, treatment, confidence=confidence, distribution=distribution)
    swapped = ratio_difference(treatment, control, confidence=confidence, distribution=distribution)

    assert_sound(result)
    assert swapped.p_value == pytest.approx(result.p_value)
    if result.difference is not None:
        assert swapped.difference == -result.difference


@any_speed
@given(integer_values, integer_values)
def test_ratio_difference__denominator_of_ones__is_welchs_test(one: list[int], other: list[int]) -> None:
    ratios = [ratio_sample_of([(value, 1) for value in values]) for values in (one, other)]

    result = ratio_difference(*ratios, distribution=Distribution.WELCH_T)

    assert result == welch_t_test(mean_sample_of(one), mean_sample_of(other))


@any_speed
@given(covariate_samples, covariate_samples, confidences)
def test_cuped_difference__any_arms__is_sound_and_negated_when_swapped(
    control: CovariateSample, treatment: CovariateSample, confidence: float
) -> None:
    result = cuped_difference(control, treatment, confidence=confidence)
    swapped = cuped_difference(treatment, control, confidence=confidence)

    assert all(math.isfinite(number) for number in numbers_in(result))
    assert_sound(result.comparison)
    assert swapped.theta == result.theta
    assert swapped.comparison.p_value == pytest.approx(result.comparison.p_value)
    if result.comparison.difference is not None:
        assert swapped.comparison.difference == -result.comparison.difference


@any_speed
@given(pairs, pairs)
def test_cuped_difference__constant_covariate__is_welchs_test(
    one: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    control = covariate_sample_of([(value, 3) for value, _ in one])
    treatment = covariate_sample_of([(value, 3) for value, _ in other])

    result = cuped_difference(control, treatment)

    plain = welch_t_test(mean_sample_of([v for v, _ in one]), mean_sample_of([v for v, _ in other]))
    assert result.comparison == plain


@any_speed
@given(samples, samples, confidences, st.sampled_from(LiftMethod))
def test_relative_lift__any_arms__is_sound_and_contains_the_lift(
    control: Sample, treatment: Sample, confidence: float, method: LiftMethod
) -> None:
    result = relative_lift(control, treatment, confidence=confidence, method=method)

    no_error = {"standard_error"} if method.startswith("fieller") else set()
    assert_sound(result, may_lack=frozenset(no_error))
    if result.lift is not None and result.lower is not None and result.upper is not None:
        slack = ROUNDING * (1.0 + abs(result.lift))
        assert result.lower - slack <= result.lift <= result.upper + slack


def clearly_apart(p: float, alpha: float) -> bool:
    """Say whether p lies on one side of alpha by more than rounding."""
    return abs(p - alpha) > ROUNDING * alpha


@any_speed
@given(proportions(), proportions(), confidences)
def test_relative_lift__fieller_of_rates__leaves_out_zero_iff_the_z_test_rejects(
    control: Proportion, treatment: Proportion, confidence: float
) -> None:
    lift = relative_lift(control, treatment, confidence=confidence, method=LiftMethod.FIELLER_NORMAL)
    test = two_proportion_test(control, treatment, variance=RateVariance.UNPOOLED)
    assume(lift.lower is not None and lift.upper is not None and test.p_value is not None)
    assert lift.lower is not None
    assert lift.upper is not None
    assert test.p_value is not None

    assert lift.p_value == pytest.approx(test.p_value, rel=1e-6, abs=1e-300)
    assume(clearly_apart(test.p_value, 1.0 - confidence))
    assert (lift.lower > 0.0 or lift.upper < 0.0) == (test.p_value < 1.0 - confidence)


@any_speed
@given(integer_values, integer_values, confidences)
def test_relative_lift__fieller_of_means__leaves_out_zero_iff_welchs_test_rejects(
    one: list[int], other: list[int], confidence: float
) -> None:
    control, treatment = mean_sample_of(one), mean_sample_of(other)
    lift = relative_lift(control, treatment, confidence=confidence, method=LiftMethod.FIELLER_WELCH_T)
    test = welch_t_test(control, treatment, confidence=confidence)
    assume(lift.lower is not None and lift.upper is not None and test.p_value is not None)
    assert lift.lower is not None
    assert lift.upper is not None
    assert test.lower is not None
    assert test.upper is not None
    assert test.p_value is not None

    assume(clearly_apart(test.p_value, 1.0 - confidence))
    assert (lift.lower > 0.0 or lift.upper < 0.0) == (test.p_value < 1.0 - confidence)
    assert (test.lower > 0.0 or test.upper < 0.0) == (test.p_value < 1.0 - confidence)


@any_speed
@given(covariate_samples, covariate_samples)
def test_relative_lift__cuped_estimates__is_sound(control: CovariateSample, treatment: CovariateSample) -> None:
    result = relative_lift(*cuped_estimates(control, treatment))

    assert_sound(result, may_lack=frozenset({"standard_error"}))


@any_speed
@given(samples, samples, st.sampled_from(Scale), st.floats(1e-6, 0.9), st.integers(1, 10**9))
def test_always_valid_interval__any_arms__agrees_with_its_p_value(
    control: Sample, treatment: Sample, scale: Scale, alpha: float, tuning: int
) -> None:
    result = always_valid_interval(control, treatment, alpha=alpha, tuning_sample_size=tuning, scale=scale)

    assert_sound(result)
    if result.lower is None or result.upper is None or result.p_value is None:
        return
    if clearly_apart(result.p_value, alpha):
        assert (result.lower > 0.0 or result.upper < 0.0) == (result.p_value < alpha)


@any_speed
@given(samples, samples, st.floats(1e-6, 0.9), st.integers(1, 10**9))
def test_always_valid_lift__any_arms__agrees_with_the_difference(
    control: Sample, treatment: Sample, alpha: float, tuning: int
) -> None:
    result = always_valid_lift(control, treatment, alpha=alpha, tuning_sample_size=tuning)
    of_difference = always_valid_interval(control, treatment, alpha=alpha, tuning_sample_size=tuning)

    # The p-value is the one of the difference, which may be there where no interval of the lift is.
    assert_sound(result, may_lack=frozenset({"p_value"}))
    if result.lower is None or result.upper is None or result.p_value is None or result.estimate is None:
        return
    assert result.lower <= result.estimate <= result.upper
    assert of_difference.p_value == result.p_value
    if clearly_apart(result.p_value, alpha):
        assert (result.lower > 0.0 or result.upper < 0.0) == (result.p_value < alpha)


@any_speed
@given(proportions(), proportions(), confidences)
def test_always_valid_interval__same_data__contains_the_fixed_horizon_interval(
    control: Proportion, treatment: Proportion, confidence: float
) -> None:
    always = always_valid_interval(control, treatment, alpha=1.0 - confidence)
    fixed = difference_of_proportions(control, treatment, confidence=confidence, method=DifferenceMethod.WALD)
    assume(always.lower is not None and always.upper is not None)
    assert always.lower is not None
    assert always.upper is not None
    assert fixed.lower is not None
    assert fixed.upper is not None

    assert always.lower < fixed.lower
    assert fixed.upper < always.upper


@any_speed
@given(samples, samples, st.sampled_from(Scale), priors, confidences)
def test_bayes_normal__any_arms__is_sound(
    control: Sample, treatment: Sample, scale: Scale, prior: NormalPrior | None, credibility: float
) -> None:
    result = bayes_normal(control, treatment, scale=scale, prior=prior, credibility=credibility)

    assert_sound(result)
    if result.mean is not None:
        assert result.expected_loss_choose_control is not None
        assert result.expected_loss_choose_treatment is not None
        assert result.sd is not None
        gain = result.expected_loss_choose_control - result.expected_loss_choose_treatment
        assert gain == pytest.approx(result.mean, rel=ROUNDING, abs=ROUNDING * result.sd)


@slow_and_few
@given(proportions(), proportions(), st.sampled_from([0.05, 0.5, 1.0, 30.0]), st.sampled_from([0.5, 0.95]))
def test_bayes_beta_binomial__any_arms__is_sound_and_symmetric(
    control: Proportion, treatment: Proportion, parameter: float, credibility: float
) -> None:
    prior = BetaPrior(alpha=parameter, beta=parameter)
    result = bayes_beta_binomial(control, treatment, prior=prior, credibility=credibility)
    swapped = bayes_beta_binomial(treatment, control, prior=prior, credibility=credibility)

    assert all(math.isfinite(number) for number in numbers_in(result))
    assert result.prob_treatment_better + swapped.prob_treatment_better == pytest.approx(1.0)
    assert swapped.expected_loss_choose_control == pytest.approx(result.expected_loss_choose_treatment)
    gain = result.expected_loss_choose_control - result.expected_loss_choose_treatment
    means_apart = result.treatment_posterior_mean - result.control_posterior_mean
    assert gain == pytest.approx(means_apart, rel=1e-6, abs=1e-12)
    assert result.relative_lift_interval[0] < result.relative_lift_interval[1]


@slow_and_few
@given(st.lists(proportions(), min_size=1, max_size=4))
def test_bayes_prob_best__any_arms__sums_to_one_in_any_order(arms: list[Proportion]) -> None:
    result = bayes_prob_best(arms)

    assert sum(result) == pytest.approx(1.0)
    assert bayes_prob_best(arms[::-1]) == pytest.approx(result[::-1], abs=1e-12)


weights = st.lists(st.integers(0, 100), min_size=1, max_size=5).filter(any)


@any_speed
@given(weights, st.data(), st.integers(1, 50))
def test_srm__any_counts__is_sound_and_ignores_the_scale_of_the_weights(
    plan: list[int], data: st.DataObject, scale: int
) -> None:
    counts = st.integers(0, 10**12)
    observed = data.draw(st.lists(counts, min_size=len(plan), max_size=len(plan)))

    test = srm_chi_square(observed, plan)
    evidence = srm_sequential(observed, plan)

    assert_sound(test, may_lack=frozenset({"df"}))
    assert_sound(evidence)
    assert srm_chi_square(observed, [weight * scale for weight in plan]) == test
    assert evidence.p_value is not None
    assert evidence.p_value_now is not None
    assert evidence.p_value <= evidence.p_value_now


@any_speed
@given(weights, st.integers(1, 10**9))
def test_srm__exactly_the_plan__finds_no_mismatch(plan: list[int], scale: int) -> None:
    observed = [weight * scale for weight in plan]

    test = srm_chi_square(observed, plan)
    evidence = srm_sequential(observed, plan)

    assert test.statistic in {None, 0.0}
    assert not test.mismatch
    assert evidence.log_bayes_factor is not None
    assert evidence.log_bayes_factor <= ROUNDING


p_values = st.lists(st.one_of(st.none(), st.floats(0.0, 1.0)), max_size=8)


@any_speed
@given(p_values, st.sampled_from(Correction), st.floats(0.001, 0.5))
def test_adjust_p_values__any_tests__never_lowers_a_p_value_nor_changes_their_order(
    raw: list[float | None], method: Correction, alpha: float
) -> None:
    result = adjust_p_values(raw, method=method, alpha=alpha)

    assert [p is None for p in result.adjusted] == [p is None for p in raw]
    known = sorted((p, q) for p, q in zip(raw, result.adjusted, strict=True) if p is not None and q is not None)
    assert all(p <= q <= 1.0 for p, q in known)
    assert all(left[1] <= right[1] for left, right in itertools.pairwise(known))
    rejected_by_holm = adjust_p_values(raw, method=Correction.HOLM, alpha=alpha).rejected
    rejected_by_bh = adjust_p_values(raw, method=Correction.BENJAMINI_HOCHBERG, alpha=alpha).rejected
    assert all(bh or not holm for holm, bh in zip(rejected_by_holm, rejected_by_bh, strict=True))


designs = st.builds(
    Design,
    alpha=st.floats(1e-4, 0.2),
    alternative=st.sampled_from(Alternative),
    ratio_treatment_to_control=st.floats(0.1, 10.0),
)


@any_speed
@given(st.floats(0.0, 1.0), st.integers(1, 10**9), st.floats(0.3, 0.99), designs)
def test_mde_proportions__effect_found__has_the_asked_power(
    baseline: float, n_control: int, power: float, design: Design
) -> None:
    effect = mde_proportions(baseline=baseline, n_control=n_control, power=power, design=design)

    assert_sound(effect, may_lack=frozenset({"relative"}))
    # The last digits of a rate next to 1 are too coarse for the power.
    if effect.absolute is not None and 1e-9 < baseline < 1.0 - 1e-6:
        found = power_proportions(baseline=baseline, effect=effect.absolute, n_control=n_control, design=design)
        assert found == pytest.approx(power, abs=1e-6)


@any_speed
@given(st.floats(0.01, 0.5), st.floats(0.001, 0.4), st.floats(0.5, 0.99), designs)
def test_sample_size_proportions__size_found__has_the_asked_power(
    baseline: float, effect: float, power: float, design: Design
) -> None:
    design = dataclasses.replace(design, alternative=Alternative.GREATER)

    size = sample_size_proportions(baseline=baseline, effect=effect, power=power, design=design)

    assert size.n_control is not None
    found = power_proportions(baseline=baseline, effect=effect, n_control=size.n_control, design=design)
    assert found == pytest.approx(power)


@any_speed
@given(st.floats(1e-6, 1e6), st.integers(3, 10**7), st.floats(0.3, 0.99), designs)
def test_mde_means__effect_found__has_the_asked_power(std: float, n_control: int, power: float, design: Design) -> None:
    effect = mde_means(std=std, n_control=n_control, power=power, design=design)

    assert effect.absolute is not None
    found = power_means(std=std, difference=effect.absolute, n_control=n_control, design=design)
    assert found == pytest.approx(power, abs=1e-6)


@slow_and_few
@given(st.floats(0.5, 100.0), st.floats(0.01, 1.0), st.floats(0.3, 0.99), designs)
def test_sample_size_means__size_found__has_the_asked_power(
    std: float, difference: float, power: float, design: Design
) -> None:
    design = dataclasses.replace(design, alternative=Alternative.TWO_SIDED)

    size = sample_size_means(std=std, difference=difference, power=power, design=design)

    assert size.n_control is not None
    found = power_means(std=std, difference=difference, n_control=size.n_control, design=design)
    assert found >= power - 1e-6
