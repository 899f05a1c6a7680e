"""Planning and multiple testing against statsmodels."""

import math

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower, TTestIndPower
from statsmodels.stats.proportion import power_proportions_2indep, samplesize_proportions_2indep_onetail

from app.stats.distributions import Alternative
from app.stats.multiple import Correction, adjust_p_values
from app.stats.planning import Design
from app.stats.power_means import MeanPower, mde_means, power_means, sample_size_means
from app.stats.power_rates import (
    RatePower,
    mde_proportions,
    power_proportions,
    sample_size_proportions,
)
from app.stats.reasons import NullReason

_NAMES = {Alternative.TWO_SIDED: "two-sided", Alternative.GREATER: "larger", Alternative.LESS: "smaller"}


@pytest.mark.parametrize("alternative", Alternative)
@pytest.mark.parametrize("ratio", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("effect", [0.03, -0.02])
def test_power_proportions__any_design__agrees_with_statsmodels(
    alternative: Alternative, ratio: float, effect: float
) -> None:
    design = Design(alpha=0.1, alternative=alternative, ratio_treatment_to_control=ratio)

    power = power_proportions(baseline=0.2, effect=effect, n_control=900, design=design)

    # Their first sample is our treatment, with 900 * ratio units.
    want = power_proportions_2indep(
        effect, 0.2, 900 * ratio, ratio=1 / ratio, alpha=0.1, alternative=_NAMES[alternative], return_results=False
    )
    assert power == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("ratio", [0.25, 1.0, 3.0])
def test_sample_size_proportions__unequal_arms__agrees_with_statsmodels(ratio: float) -> None:
    design = Design(ratio_treatment_to_control=ratio)

    size = sample_size_proportions(baseline=0.2, effect=0.02, power=0.9, design=design)

    want = samplesize_proportions_2indep_onetail(-0.02, 0.22, 0.9, ratio=ratio)
    assert size.n_control == pytest.approx(want, rel=1e-9)
    assert size.n_treatment == pytest.approx(want * ratio, rel=1e-9)


def test_sample_size__rounded_up__gives_whole_units_for_both_arms() -> None:
    design = Design(ratio_treatment_to_control=0.5)

    size = sample_size_proportions(baseline=0.2, effect=0.02, design=design)

    assert size.n_control is not None
    assert size.n_treatment is not None
    assert size.rounded_up() == (int(size.n_control) + 1, int(size.n_treatment) + 1)


@pytest.mark.parametrize("effect", [0.0, 1e-200])
def test_sample_size_proportions__no_effect__is_not_attainable(effect: float) -> None:
    size = sample_size_proportions(baseline=0.2, effect=effect)

    assert size.null_reason is NullReason.NOT_ATTAINABLE
    assert size.rounded_up() is None


def test_sample_size_proportions__unpooled__is_the_textbook_formula() -> None:
    size = sample_size_proportions(baseline=0.1, effect=0.02, method=RatePower.Z_UNPOOLED)

    want = (1.959963984540054 + 0.8416212335729143) ** 2 * (0.1 * 0.9 + 0.12 * 0.88) / 0.02**2
    assert size.n_control == pytest.approx(want)


def test_mde_proportions__one_sided_downward__is_negative() -> None:
    effect = mde_proportions(baseline=0.15, n_control=8000, design=Design(alternative=Alternative.LESS, alpha=0.025))

    assert effect.absolute is not None
    assert effect.relative == pytest.approx(effect.absolute / 0.15)
    assert -0.02 < effect.absolute < -0.01


@pytest.mark.parametrize(
    ("baseline", "n_control", "reason"),
    [
        (0.5, 2, NullReason.NOT_ATTAINABLE),
        (0.0, 100, NullReason.ZERO_VARIANCE),
        (1.0, 100, NullReason.ZERO_VARIANCE),
    ],
)
def test_mde_proportions__nothing_to_find__says_why(baseline: float, n_control: float, reason: NullReason) -> None:
    assert mde_proportions(baseline=baseline, n_control=n_control).null_reason is reason


@pytest.mark.parametrize("alternative", Alternative)
@pytest.mark.parametrize("ratio", [0.25, 1.0, 3.0])
@pytest.mark.parametrize(
    ("method", "reference"), [(MeanPower.NONCENTRAL_T, TTestIndPower), (MeanPower.Z, NormalIndPower)]
)
def test_power_means__any_design__agrees_with_statsmodels(
    alternative: Alternative,
    ratio: float,
    method: MeanPower,
    reference: type[TTestIndPower] | type[NormalIndPower],
) -> None:
    design = Design(alternative=alternative, ratio_treatment_to_control=ratio)

    power = power_means(std=4.0, difference=1.0, n_control=70, design=design, method=method)

    want = reference().power(0.25, 70, 0.05, ratio=ratio, alternative=_NAMES[alternative])
    assert power == pytest.approx(float(want), rel=1e-7)


@pytest.mark.parametrize("alternative", [Alternative.TWO_SIDED, Alternative.GREATER])
def test_sample_size_means__solved__agrees_with_statsmodels(alternative: Alternative) -> None:
    design = Design(alternative=alternative, ratio_treatment_to_control=2.0)

    size = sample_size_means(std=8.0, difference=0.5, power=0.9, design=design)

    want = TTestIndPower().solve_power(
        effect_size=0.0625, power=0.9, alpha=0.05, ratio=2.0, alternative=_NAMES[alternative]
    )
    assert size.n_control == pytest.approx(float(np.squeeze(want)), rel=1e-6)


def test_sample_size_means__downward_test__looks_in_the_direction_of_the_difference() -> None:
    downward = Design(alternative=Alternative.LESS)
    upward = Design(alternative=Alternative.GREATER)

    sizes = [
        sample_size_means(std=8.0, difference=difference, design=design)
        for difference, design in ((-1.0, downward), (1.0, upward))
    ]

    assert sizes[0] == sizes[1]


def test_sample_size_means__no_difference__is_not_attainable() -> None:
    assert sample_size_means(std=1.0, difference=0.0).null_reason is NullReason.NOT_ATTAINABLE


def test_mde_means__with_baseline__is_also_a_lift() -> None:
    effect = mde_means(std=10.0, n_control=1500, baseline=50.0)

    assert effect.absolute is not None
    assert effect.relative == pytest.approx(effect.absolute / 50.0)
    assert power_means(std=10.0, difference=effect.absolute, n_control=1500) == pytest.approx(0.8)


def test_mde_means__hardly_any_degrees_of_freedom__is_an_answer_without_a_warning() -> None:
    design = Design(alpha=1e-3, ratio_treatment_to_control=0.1)

    result = mde_means(std=1.0, n_control=2, power=0.99, design=design)

    assert (result.absolute is None) == (result.null_reason is NullReason.NOT_ATTAINABLE)


@pytest.mark.parametrize("power", [0.05, 0.0, 1.0])
def test_mde__power_out_of_range__is_refused(power: float) -> None:
    with pytest.raises(ValueError, match="power"):
        mde_means(std=1.0, n_control=100, power=power)
    with pytest.raises(ValueError, match="power"):
        mde_proportions(baseline=0.1, n_control=100, power=power)


def test_power_proportions__rate_above_one__is_refused() -> None:
    with pytest.raises(ValueError, match="baseline"):
        power_proportions(baseline=0.9, effect=0.2, n_control=10)


def test_power_means__no_degrees_of_freedom__is_refused() -> None:
    with pytest.raises(ValueError, match="degrees of freedom"):
        power_means(std=1.0, difference=1.0, n_control=1)


@pytest.mark.parametrize(("method", "name"), [(Correction.HOLM, "holm"), (Correction.BENJAMINI_HOCHBERG, "fdr_bh")])
def test_adjust_p_values__random_tests__agrees_with_statsmodels(method: Correction, name: str) -> None:
    p_values = np.random.default_rng(20240605).beta(0.3, 1.0, 40)

    result = adjust_p_values(p_values.tolist(), method=method)

    rejected, adjusted, *_ = multipletests(p_values, method=name)
    assert result.adjusted == pytest.approx(adjusted)
    assert result.rejected == tuple(rejected.tolist())


def test_adjust_p_values__undefined_test__does_not_count() -> None:
    result = adjust_p_values([0.02, None, 0.03])

    assert result.adjusted == pytest.approx((0.04, None, 0.04))
    assert result.rejected == (True, False, True)


def test_adjust_p_values__exactly_at_the_threshold__rejects() -> None:
    # 0.05/3 is no double: three times it may pass 0.05 by a last digit.
    assert adjust_p_values([0.05 / 3, 0.5, 0.6]).rejected == (True, False, False)


def test_adjust_p_values__none__gives_none() -> None:
    assert adjust_p_values([]).adjusted == ()


@pytest.mark.parametrize("p_value", [-0.1, 1.1, float("nan")])
def test_adjust_p_values__no_p_value__is_refused(p_value: float) -> None:
    with pytest.raises(ValueError, match="p-values"):
        adjust_p_values([p_value])


@pytest.mark.parametrize("alternative", Alternative)
def test_sample_size_proportions__smallest_level_there_is__is_finite(alternative: Alternative) -> None:
    design = Design(alpha=math.ulp(0.0), alternative=alternative)

    size = sample_size_proportions(baseline=0.5, effect=0.01, power=0.5, design=design)

    # The quantile of the smallest double is 38.5.
    assert size.n_control == pytest.approx(0.5 * (38.47 / 0.01) ** 2, rel=0.01)


@pytest.mark.parametrize("ratio", [1e-100, 1e100])
def test_sample_size_proportions__ends_of_all_ranges__is_finite(ratio: float) -> None:
    design = Design(alpha=math.ulp(0.0), ratio_treatment_to_control=ratio)

    size = sample_size_proportions(baseline=0.5, effect=1e-100, power=1 - 1e-16, design=design)

    assert size.n_control is not None
    assert size.n_treatment is not None
    assert 0.0 < size.n_control < math.inf
    assert 0.0 < size.n_treatment < math.inf


@pytest.mark.parametrize("method", MeanPower)
def test_power_means__smallest_level_there_is__is_no_power(method: MeanPower) -> None:
    design = Design(alpha=math.ulp(0.0))

    assert power_means(std=1.0, difference=0.1, n_control=50, design=design, method=method) == pytest.approx(0.0)


@pytest.mark.parametrize("ratio", [0.0, math.ulp(0.0), math.inf, math.nan])
def test_design__ratio_that_no_arms_have__is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio_treatment_to_control must lie between"):
        Design(ratio_treatment_to_control=ratio)
