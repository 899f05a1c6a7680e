"""Where Beta distributions have given tails, also where the library's inverse is wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from app.stats.bayes_difference import bayes_rate_difference
from app.stats.bayes_rates import bayes_beta_binomial
from app.stats.beta_tails import below, lower_logits
from app.stats.samples import Proportion

_TAILS = np.array([1e-14, 1e-7, 2e-3, 0.025, 0.5, 0.975])


@given(
    st.one_of(st.floats(0.05, 1e9), st.integers(1, 10**9).map(float), st.just(1000.0)),
    st.one_of(st.floats(0.05, 1e9), st.integers(1, 10**9).map(float)),
)
def test_lower_logits__any_parameters__have_the_tails_below_them(a: float, b: float) -> None:
    logits = lower_logits(a, b, _TAILS)

    inside = np.abs(logits) < 690
    assert below(a, b, logits)[inside] == pytest.approx(_TAILS[inside], rel=1e-6)
    assert np.all(np.diff(logits) >= 0)


# At exactly 1000 the library's inverse is far off, for these numbers of failures among others.
@pytest.mark.parametrize("trials", [10_100, 21_200, 43_200, 1_409_125, 308_498_238])
def test_lower_logits__parameter_of_a_thousand__agree_with_the_neighbours(trials: int) -> None:
    middle = special.expit(lower_logits(1000.0, trials - 998.0, _TAILS))
    around = [special.expit(lower_logits(a, trials + 2.0 - a, _TAILS)) for a in (999.0, 1001.0)]

    assert np.all(around[0] < middle)
    assert np.all(middle < around[1])
    assert middle == pytest.approx((around[0] + around[1]) / 2, rel=1e-4)


def test_bayes__999_conversions__are_those_of_independent_quadrature() -> None:
    # The posteriors' quantiles were found by quadrature of the density with 40 digits.
    control, treatment = Proportion(999, 10_100), Proportion(1050, 10_100)

    by_rates, by_difference = (
        bayes_beta_binomial(control, treatment),
        bayes_rate_difference(control, treatment),
    )

    assert by_rates.control_interval == pytest.approx((0.09324248, 0.104889), abs=1e-6)
    assert by_difference.prob_treatment_better == pytest.approx(0.8826, abs=1e-4)
    assert (by_difference.lower, by_difference.upper) == pytest.approx((-0.003279, 0.013378), abs=1e-6)
    assert by_difference.prob_treatment_better == pytest.approx(by_rates.prob_treatment_better, rel=1e-9)
