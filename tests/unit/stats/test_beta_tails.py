"""Where Beta distributions have given tails, also where the library's inverse is wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from app.stats.bayes_difference import bayes_rate_difference
from app.stats.bayes_rates import bayes_beta_binomial
from app.stats.beta_tails import below, logit_density, lower_logits
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


@pytest.mark.parametrize("precision", [9.9e4, 1.1e5, 1e7, 1e9])
@pytest.mark.parametrize("rate", [1e-6, 0.1, 0.5, 0.9])
def test_below__many_units__agrees_with_the_library_where_that_is_right(precision: float, rate: float) -> None:
    a, b = precision / (1 - rate), precision / rate
    logits = np.log(a / b) + np.linspace(-8, 8, 33) / precision**0.5

    areas = below(a, b, logits)

    small = special.expit(logits)
    wanted = special.betainc(a, b, small) if rate <= 0.5 else special.betaincc(b, a, special.expit(-logits))
    assert areas == pytest.approx(wanted, abs=1e-9)
    assert areas + below(b, a, -logits) == pytest.approx(1, abs=1e-11)


# The library's function is far off for two equal parameters of this size.
@pytest.mark.parametrize(("parameter", "tolerance"), [(5e11, 1e-9), (5e14, 1e-9), (9e18, 1e-6)])
def test_below__more_units_than_the_world_has__is_the_normal_limit(parameter: float, tolerance: float) -> None:
    scores = np.linspace(-6, 6, 25)

    areas = below(parameter, parameter, scores / (parameter / 2) ** 0.5)

    assert areas == pytest.approx(special.ndtr(scores), abs=tolerance)


@pytest.mark.parametrize(("a", "b"), [(0.05, 0.05), (0.05, 1e9), (3.0, 40.0), (1e15, 0.05), (2.0**63, 2.0**62)])
def test_logit_density__any_parameters__is_the_slope_of_the_area(a: float, b: float) -> None:
    ends = lower_logits(a, b, np.array([0.1999, 0.2, 0.2001]))

    assert logit_density(a, b, ends[1:2])[0] == pytest.approx(2e-4 / (ends[2] - ends[0]), rel=1e-3)


def test_logit_density__logits_far_out__is_finite() -> None:
    far = np.array([-700.0, -40.0, 0.0, 40.0, 700.0])

    for a, b in ((1e19, 0.05), (0.05, 1e19), (1e19, 1e19), (0.05, 0.05)):
        density = logit_density(a, b, far)
        assert np.all(np.isfinite(density))
        assert np.all(density >= 0)


def test_logit_density__few_units__agrees_with_the_library() -> None:
    rates = np.array([0.01, 0.2, 0.6, 0.99])

    found = logit_density(2.5, 7.0, special.logit(rates))

    assert found == pytest.approx(stats.beta.pdf(rates, 2.5, 7.0) * rates * (1 - rates), rel=1e-12)
