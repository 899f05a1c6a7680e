"""Group-sequential bounds against published tables and simulated paths."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, stats

from app.stats.distributions import Alternative, normal_isf
from app.stats.group_sequential import Spending, sequential_bounds, spent

_FIVE = (0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.mark.parametrize(
    ("spending", "published"),
    [
        # gsDesign's defaults for five looks, 0.025 in each tail: sfLDOF and sfLDPocock.
        (Spending.OBRIEN_FLEMING, (4.877, 3.357, 2.680, 2.290, 2.031)),
        (Spending.POCOCK, (2.438, 2.427, 2.410, 2.397, 2.386)),
    ],
)
def test_sequential_bounds__five_even_looks__are_the_published_ones(
    spending: Spending, published: tuple[float, ...]
) -> None:
    looks = sequential_bounds(_FIVE, spending=spending)

    assert [look.bound for look in looks] == pytest.approx(published, abs=5e-4)
    assert looks[-1].spent == pytest.approx(0.05, rel=1e-12)


@pytest.mark.parametrize("alternative", Alternative)
@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.2])
def test_sequential_bounds__one_look_at_the_end__is_the_fixed_test(alternative: Alternative, alpha: float) -> None:
    (look,) = sequential_bounds([1.0], alpha=alpha, alternative=alternative)

    tail = alpha / 2 if alternative is Alternative.TWO_SIDED else alpha
    assert look.bound == pytest.approx(normal_isf(tail), abs=1e-9)
    assert look.nominal_p == pytest.approx(alpha, rel=1e-9)


@pytest.mark.parametrize("spending", Spending)
@pytest.mark.parametrize("alternative", [Alternative.TWO_SIDED, Alternative.GREATER])
def test_sequential_bounds__simulated_null_paths__cross_as_often_as_is_spent(
    spending: Spending, alternative: Alternative
) -> None:
    times = np.array([0.1, 0.15, 0.5, 0.9, 1.0])
    looks = sequential_bounds(list(times), alpha=0.1, spending=spending, alternative=alternative)
    steps = np.sqrt(np.diff(times, prepend=0.0))
    scores = np.cumsum(np.random.default_rng(5).normal(size=(400_000, 5)) * steps, axis=1) / np.sqrt(times)
    reached = np.abs(scores) if alternative is Alternative.TWO_SIDED else scores

    crossed = np.maximum.accumulate(reached >= [look.bound for look in looks], axis=1).mean(axis=0)

    # Four standard errors of 400,000 draws.
    assert crossed == pytest.approx([look.spent for look in looks], abs=4 * np.sqrt(0.1 * 0.9 / 400_000))


def test_sequential_bounds__fewer_looks_so_far__have_the_same_bounds() -> None:
    assert sequential_bounds(_FIVE[:3]) == sequential_bounds(_FIVE)[:3]


@pytest.mark.parametrize("spending", Spending)
@pytest.mark.parametrize("times", [(0.9, 0.901), (0.5, 0.501), (0.5, 0.505), (0.3, 0.9)])
def test_sequential_bounds__second_look_however_close__spends_what_is_allowed(
    spending: Spending, times: tuple[float, float]
) -> None:
    first, second = sequential_bounds(times, spending=spending)

    limits = [look.bound * math.sqrt(look.information) for look in (first, second)]
    step = math.sqrt(times[1] - times[0])

    def crossing(place: float) -> float:
        return float(stats.norm.pdf(place, scale=math.sqrt(times[0])) * stats.norm.sf((limits[1] - place) / step))

    # Farther from the first limit than ten steps, nothing reaches the second one.
    ends = [max(-limits[0], limits[0] - steps * step) for steps in (10, 6, 4, 2, 1, 0)]
    crossed = sum(integrate.quad(crossing, low, high, epsabs=0, epsrel=1e-11)[0] for low, high in pairwise(ends))
    assert crossed == pytest.approx((second.spent - first.spent) / 2, rel=1e-8)


def test_sequential_bounds__fractions_that_rise_by_a_last_digit_less_than_the_least__are_taken() -> None:
    times = [0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.009, 1.0]

    assert min(np.diff(times)) < 0.001
    assert [look.information for look in sequential_bounds(times)] == times


def test_sequential_bounds__looks_closer_than_a_thousandth__are_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"0\.001 each .* got 0\.9001 after 0\.9: leave out looks"):
        sequential_bounds([0.9, 0.9001])


def test_sequential_bounds__looks_close_together_and_many__stay_finite_and_ordered() -> None:
    looks = sequential_bounds([0.3, 0.301, 0.302, 1.0], spending=Spending.POCOCK)

    assert all(np.isfinite(look.bound) for look in looks)
    assert [look.spent for look in looks] == sorted(look.spent for look in looks)


@pytest.mark.parametrize("times", [[], [0.5, 0.5], [0.0, 1.0], [0.5, 1.1], [0.6, 0.5], [float("nan")]])
def test_sequential_bounds__fractions_that_make_no_sense__are_refused(times: list[float]) -> None:
    with pytest.raises(ValueError, match=r"looks|information"):
        sequential_bounds(times)


@pytest.mark.parametrize("spending", Spending)
def test_spent__whole_information__is_alpha_and_never_more(spending: Spending) -> None:
    amounts = [spent(share, alpha=0.05, spending=spending) for share in np.linspace(0.01, 1.5, 50)]

    assert amounts == sorted(amounts)
    assert amounts[-1] == pytest.approx(0.05)
