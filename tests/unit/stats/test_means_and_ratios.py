"""Means, ratios and CUPED against scipy and numpy on the raw data."""

import math
from decimal import Decimal
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from app.stats.cuped import cuped_difference, cuped_estimates
from app.stats.distributions import Alternative, Distribution
from app.stats.means import value_interval, welch_t_test
from app.stats.ratios import ratio_difference
from app.stats.reasons import NullReason
from app.stats.samples import CovariateSample, MeanSample, PairedSums, Proportion, RatioSample, Sample

_RANDOM = np.random.default_rng(20240602)

Values = npt.NDArray[np.float64]


def mean_sample_of(values: Values) -> MeanSample:
    return MeanSample.from_sums(n=len(values), sum_values=math.fsum(values), sum_squares=math.fsum(values * values))


def random_pair(n: int) -> tuple[Values, Values]:
    """Return a value per user and a correlated count of at least 1."""
    counts = np.asarray(_RANDOM.poisson(3.0, n) + 1.0, dtype=np.float64)
    return counts * 0.3 + _RANDOM.normal(0.0, 1.0, n), counts


def ratio_sample_of(numerator: Values, denominator: Values) -> RatioSample:
    return RatioSample.from_sums(
        n=len(numerator),
        num_sum=math.fsum(numerator),
        num_sum_squares=math.fsum(numerator**2),
        den_sum=math.fsum(denominator),
        den_sum_squares=math.fsum(denominator**2),
        num_den_sum_products=math.fsum(numerator * denominator),
    )


def covariate_sample_of(post: Values, pre: Values) -> CovariateSample:
    return CovariateSample.from_sums(
        n=len(post),
        post_sum=math.fsum(post),
        post_sum_squares=math.fsum(post**2),
        pre_sum=math.fsum(pre),
        pre_sum_squares=math.fsum(pre**2),
        post_pre_sum_products=math.fsum(post * pre),
    )


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize(("n_control", "n_treatment"), [(2, 2), (3, 40), (500, 700)])
def test_welch_t_test__raw_data__agrees_with_scipy(
    n_control: int, n_treatment: int, alternative: Literal["two-sided", "greater", "less"]
) -> None:
    control, treatment = _RANDOM.normal(10, 3, n_control), _RANDOM.lognormal(2, 0.5, n_treatment)

    result = welch_t_test(
        mean_sample_of(control),
        mean_sample_of(treatment),
        confidence=0.9,
        alternative=Alternative(alternative),
    )

    want = stats.ttest_ind(treatment, control, equal_var=False, alternative=alternative)
    limits = stats.ttest_ind(treatment, control, equal_var=False).confidence_interval(0.9)
    assert result.statistic == pytest.approx(want.statistic, rel=1e-9)
    assert result.df == pytest.approx(want.df, rel=1e-9)
    assert result.p_value == pytest.approx(want.pvalue, rel=1e-8)
    assert (result.lower, result.upper) == pytest.approx((limits.low, limits.high), rel=1e-8)


def test_welch_t_test__decimal_sums_of_enormous_values__loses_no_digit() -> None:
    control = MeanSample.from_sums(
        n=3, sum_values=Decimal("3000000000000000.3"), sum_squares=Decimal("3000000000000000600000000000000.05")
    )
    treatment = MeanSample.from_sums(
        n=3, sum_values=Decimal("3000000000000000.6"), sum_squares=Decimal("3000000000000001200000000000000.14")
    )
    small = welch_t_test(
        MeanSample.from_sums(n=3, sum_values=Decimal("0.3"), sum_squares=Decimal("0.05")),
        MeanSample.from_sums(n=3, sum_values=Decimal("0.6"), sum_squares=Decimal("0.14")),
    )

    result = welch_t_test(control, treatment)

    assert (result.statistic, result.df, result.p_value) == (small.statistic, small.df, small.p_value)


@pytest.mark.parametrize(
    ("control", "treatment", "reason"),
    [
        ([], [1.0, 2.0], NullReason.EMPTY_ARM),
        ([1.0, 2.0], [], NullReason.EMPTY_ARM),
        ([1.0], [1.0, 2.0], NullReason.TOO_FEW_UNITS),
        ([1.0, 1.0], [2.0, 2.0, 2.0], NullReason.ZERO_VARIANCE),
        ([0.1] * 7, [0.3] * 9, NullReason.ZERO_VARIANCE),
    ],
)
def test_welch_t_test__undefined__says_why_and_keeps_what_is_known(
    control: list[float], treatment: list[float], reason: NullReason
) -> None:
    result = welch_t_test(mean_sample_of(np.array(control)), mean_sample_of(np.array(treatment)))

    assert result.null_reason is reason
    assert result.p_value is None
    assert (result.control is None) == (not control)
    assert (result.difference is None) == (reason is NullReason.EMPTY_ARM)


def test_welch_t_test__one_arm_without_variance__has_the_other_arms_degrees_of_freedom() -> None:
    result = welch_t_test(mean_sample_of(np.array([1.0, 1.0, 1.0])), mean_sample_of(np.array([1.0, 2.0, 4.0, 5.0])))

    assert result.df == pytest.approx(3.0)


def test_value_interval__mean__agrees_with_scipy() -> None:
    values = _RANDOM.normal(5, 2, 30)

    result = value_interval(mean_sample_of(values), confidence=0.9)

    want = stats.t.interval(0.9, 29, loc=values.mean(), scale=stats.sem(values))
    assert (result.lower, result.upper) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(("n", "reason"), [(0, NullReason.EMPTY_ARM), (1, NullReason.TOO_FEW_UNITS), (2, None)])
def test_value_interval__few_units__says_why(n: int, reason: NullReason | None) -> None:
    assert value_interval(mean_sample_of(np.arange(float(n)))).null_reason is reason


@pytest.mark.parametrize("distribution", Distribution)
@pytest.mark.parametrize(
    "arm", [mean_sample_of(np.zeros(50)), mean_sample_of(np.full(7, 0.1)), Proportion(0, 50), Proportion(50, 50)]
)
def test_value_interval__units_all_alike__has_the_value_and_no_interval(
    arm: Sample, distribution: Distribution
) -> None:
    result = value_interval(arm, distribution=distribution)

    assert result.estimate is not None
    assert (result.lower, result.upper) == (None, None)
    assert result.null_reason is NullReason.ZERO_VARIANCE


def test_ratio_sample__raw_data__has_the_delta_methods_variance() -> None:
    numerator, denominator = random_pair(400)

    estimate = ratio_sample_of(numerator, denominator).estimate()

    ratio = numerator.mean() / denominator.mean()
    covariance = np.cov(numerator, denominator)
    gradient = np.array([1.0, -ratio]) / denominator.mean()
    assert estimate.value is not None
    assert estimate.variance is not None
    assert float(estimate.value) == pytest.approx(ratio, rel=1e-12)
    assert float(estimate.variance) == pytest.approx(gradient @ covariance @ gradient / 400, rel=1e-9)


def test_ratio_difference__normal_quantile__is_narrower_than_t() -> None:
    arms = [ratio_sample_of(*random_pair(20)) for _ in range(2)]

    normal = ratio_difference(*arms)
    welch = ratio_difference(*arms, distribution=Distribution.WELCH_T)

    assert normal.df is None
    assert welch.df is not None
    assert normal.lower is not None
    assert welch.lower is not None
    assert normal.lower > welch.lower
    assert normal.statistic == welch.statistic


def test_ratio_difference__no_denominator__says_so() -> None:
    nothing = RatioSample.from_sums(
        n=3, num_sum=0, num_sum_squares=0, den_sum=0, den_sum_squares=0, num_den_sum_products=0
    )

    result = ratio_difference(nothing, ratio_sample_of(*random_pair(5)))

    assert result.null_reason is NullReason.ZERO_DENOMINATOR
    assert result.treatment is not None


def test_cuped_difference__raw_data__is_welchs_test_of_the_adjusted_values() -> None:
    (post_c, pre_c), (post_t, pre_t) = random_pair(300), random_pair(200)
    post, pre = np.concatenate([post_c, post_t]), np.concatenate([pre_c, pre_t])
    theta = np.cov(post, pre)[0, 1] / pre.var(ddof=1)

    result = cuped_difference(covariate_sample_of(post_c, pre_c), covariate_sample_of(post_t, pre_t))

    want = stats.ttest_ind(
        post_t - theta * (pre_t - pre.mean()), post_c - theta * (pre_c - pre.mean()), equal_var=False
    )
    assert result.theta == pytest.approx(theta, rel=1e-9)
    assert result.comparison.statistic == pytest.approx(want.statistic, rel=1e-8)
    assert result.comparison.p_value == pytest.approx(want.pvalue, rel=1e-8)
    assert result.variance_ratio is not None
    assert result.variance_ratio < 1.0


def test_cuped_estimates__empty_arm__says_so() -> None:
    empty, filled = covariate_sample_of(np.array([]), np.array([])), covariate_sample_of(*random_pair(5))

    assert cuped_estimates(empty, filled)[0].null_reason is NullReason.EMPTY_ARM
    assert cuped_difference(empty, filled).theta is None


@pytest.mark.parametrize(
    ("n", "sum_values", "sum_squares"),
    [(0, 1, 1), (2, 10, 1), (2, math.inf, 1), (2, 1, math.nan), (2, 0, -1), (2, Decimal("NaN"), 1), (2, 10**301, 1)],
)
def test_mean_sample__impossible_sums__are_refused(n: int, sum_values: float, sum_squares: float) -> None:
    with pytest.raises(ValueError, match=r"sum|finite|real numbers|1e300"):
        MeanSample.from_sums(n=n, sum_values=sum_values, sum_squares=sum_squares)


def test_paired_sums__impossible_products__are_refused() -> None:
    one = MeanSample.from_sums(n=2, sum_values=2, sum_squares=2)

    with pytest.raises(ValueError, match="products"):
        PairedSums.of(first=one, second=one, products=3)


def test_paired_sums__different_units__are_refused() -> None:
    one = MeanSample.from_sums(n=2, sum_values=2, sum_squares=2)
    other = MeanSample.from_sums(n=3, sum_values=2, sum_squares=2)

    with pytest.raises(ValueError, match="units"):
        PairedSums.of(first=one, second=other, products=1)


def test_value_interval__rate__has_the_walds_width() -> None:
    result = value_interval(Proportion(20, 100), distribution=Distribution.NORMAL)

    assert result.upper == pytest.approx(0.2 + stats.norm.isf(0.025) * math.sqrt(0.2 * 0.8 / 100))
