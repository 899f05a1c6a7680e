"""Non-inferiority against statsmodels, scipy and the likelihood itself."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.proportion import test_proportions_2indep as two_rates_test
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from app.stats.distributions import Distribution, normal_sf
from app.stats.effects import Scale
from app.stats.noninferiority import RateMethod, noninferiority_rates, noninferiority_test
from app.stats.reasons import NullReason
from app.stats.samples import MeanSample, Proportion

_CONTROL, _TREATMENT = Proportion(200, 1000), Proportion(290, 1500)


def _sample(values: np.ndarray) -> MeanSample:
    return MeanSample.from_sums(n=len(values), sum_values=float(values.sum()), sum_squares=float((values**2).sum()))


@pytest.mark.parametrize(("margin", "lower_is_better"), [(0.1, False), (0.02, False), (0.1, True), (1.5, True)])
def test_noninferiority_rates__relative_margin__agrees_with_statsmodels(
    margin: float, *, lower_is_better: bool
) -> None:
    found = noninferiority_rates(_CONTROL, _TREATMENT, margin=margin, lower_is_better=lower_is_better)

    ratio, alternative = (1 + margin, "smaller") if lower_is_better else (1 - margin, "larger")
    want = two_rates_test(
        290, 1500, 200, 1000, value=ratio, compare="ratio", method="score", alternative=alternative, correction=False
    )
    assert found.p_value == pytest.approx(want.pvalue, rel=1e-9)
    assert found.shown == (want.pvalue < 0.025)


@pytest.mark.parametrize("margin", [0.005, 0.03, 0.15])
def test_noninferiority_rates__absolute_margin__takes_the_likeliest_rates_at_the_margin(margin: float) -> None:
    found = noninferiority_rates(_CONTROL, _TREATMENT, margin=margin, scale=Scale.ABSOLUTE)

    def loss(rate: float) -> float:
        other = rate - margin
        return -(200 * math.log(rate) + 800 * math.log1p(-rate) + 290 * math.log(other) + 1210 * math.log1p(-other))

    likely = optimize.minimize_scalar(loss, bounds=(margin + 1e-6, 0.9), method="bounded", options={"xatol": 1e-10}).x
    variance = likely * (1 - likely) / 1000 + (likely - margin) * (1 - likely + margin) / 1500
    statistic = (290 / 1500 - 0.2 + margin) / math.sqrt(variance)
    assert found.statistic == pytest.approx(statistic, rel=1e-6)
    assert found.p_value == pytest.approx(normal_sf(statistic), rel=1e-5)


def test_noninferiority_test__means_and_an_absolute_margin__agrees_with_statsmodels() -> None:
    rng = np.random.default_rng(2)
    before, after = rng.normal(10, 3, 80), rng.normal(9.8, 4, 120)

    found = noninferiority_test(
        _sample(before), _sample(after), margin=1.0, scale=Scale.ABSOLUTE, distribution=Distribution.WELCH_T
    )

    statistic, p_value, df = CompareMeans(DescrStatsW(after), DescrStatsW(before)).ttest_ind(
        alternative="larger", usevar="unequal", value=-1.0
    )
    assert (found.statistic, found.p_value, found.df) == pytest.approx((statistic, p_value, df), rel=1e-9)


def test_noninferiority_test__means_and_a_relative_margin__is_welchs_test_of_the_scaled_control() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.normal(10, 3, 80), rng.normal(9.8, 4, 120)

    found = noninferiority_test(_sample(before), _sample(after), margin=0.05, distribution=Distribution.WELCH_T)

    want = stats.ttest_ind(after, 0.95 * before, equal_var=False, alternative="greater")
    assert (found.statistic, found.p_value) == pytest.approx((want.statistic, want.pvalue), rel=1e-9)


@given(
    successes=st.integers(1, 400),
    more=st.integers(1, 400),
    margin=st.floats(0.01, 0.9),
    lower_is_better=st.booleans(),
    method=st.sampled_from(list(RateMethod)),
)
def test_noninferiority_rates__better_treatment__is_never_harder_to_show(
    successes: int, more: int, margin: float, method: RateMethod, *, lower_is_better: bool
) -> None:
    control, treatment = Proportion(200, 1000), Proportion(successes, 1000)
    better = Proportion(max(0, successes - more) if lower_is_better else min(1000, successes + more), 1000)

    p_values = [
        noninferiority_rates(control, arm, margin=margin, lower_is_better=lower_is_better, method=method).p_value
        for arm in (treatment, better)
    ]

    assert p_values[0] is not None
    assert p_values[1] is not None
    assert p_values[1] <= p_values[0] + 1e-12


@pytest.mark.parametrize(
    ("control", "treatment", "reason"),
    [
        (Proportion(0, 0), Proportion(1, 2), NullReason.EMPTY_ARM),
        (Proportion(0, 10), Proportion(1, 2), NullReason.ZERO_BASELINE),
    ],
)
def test_noninferiority_rates__nothing_to_compare_with__says_why(
    control: Proportion, treatment: Proportion, reason: NullReason
) -> None:
    found = noninferiority_rates(control, treatment, margin=0.1)

    assert (found.p_value, found.shown, found.null_reason) == (None, False, reason)


@pytest.mark.parametrize("sign", [0, -1])
def test_noninferiority_test__control_not_above_zero__has_no_share_to_lose(sign: int) -> None:
    control = MeanSample.from_sums(n=4, sum_values=4 * sign, sum_squares=8)

    found = noninferiority_test(control, control, margin=0.1)

    assert found.null_reason is (NullReason.NON_POSITIVE_VALUE if sign else NullReason.ZERO_BASELINE)


@pytest.mark.parametrize("margin", [0.0, -0.1, math.inf, math.nan])
def test_noninferiority__margin_that_is_none__is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        noninferiority_rates(_CONTROL, _TREATMENT, margin=margin)
    with pytest.raises(ValueError, match="margin"):
        noninferiority_test(_CONTROL, _TREATMENT, margin=margin)
