"""Intervals of quantiles: against scipy where values are independent, against simulation where users cluster them."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from app.stats.quantiles import Ranks, quantile_estimate, quantile_ranks
from app.stats.reasons import NullReason


def _counts(users: list[Any], level: Fraction) -> dict[str, int]:
    ordered = sorted(value for values in users for value in values)
    rank = level * (len(ordered) - 1)
    low = ordered[rank.numerator // rank.denominator]
    below = [sum(value <= low for value in values) for values in users]
    sizes = [len(values) for values in users]
    return {
        "users": len(users),
        "values": sum(sizes),
        "below": int(sum(below)),
        "below_squares": int(sum(n * n for n in below)),
        "value_squares": sum(n * n for n in sizes),
        "products": int(sum(n * m for n, m in zip(below, sizes, strict=True))),
    }


def _one_each(number: int) -> dict[str, int]:
    return _counts([[value] for value in range(number)], Fraction(1, 2))


@pytest.mark.parametrize("level", [0.05, 0.25, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("number", [2, 10, 59, 60, 500])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_quantile_ranks__one_value_per_user__are_those_of_scipy(level: float, number: int, confidence: float) -> None:
    ordered = np.arange(1.0, number + 1)
    expected: Any = stats.quantile_test(ordered, p=level).confidence_interval(confidence)

    found = quantile_ranks(level, **_one_each(number), confidence=confidence)

    assert found.lower == (None if np.isnan(expected.low) else expected.low)
    assert found.upper == (None if np.isnan(expected.high) else expected.high)
    assert (found.null_reason is None) == (None not in (found.lower, found.upper))


def test_quantile_ranks__hundreds_of_thousands_of_values__are_near_the_normal_ones() -> None:
    number, level = 400_000, 0.9

    found = quantile_ranks(level, **_one_each(number))

    half = 1.959964 * (number * level * (1 - level)) ** 0.5
    assert found.lower == pytest.approx(number * level - half, abs=2)
    assert found.upper == pytest.approx(number * level + half, abs=2)


@pytest.mark.parametrize("level", [Fraction(1, 2), Fraction(9, 10), Fraction(95, 100)])
def test_quantile_ranks__values_alike_within_users__cover_the_true_quantile_as_promised(level: Fraction) -> None:
    """A user's level moves all of the user's values; the naive interval covers far less."""
    generator = np.random.default_rng(7)
    rounds, users = 400, 300
    # Of the sum of two independent normal values with variances 1 and 1/4.
    true = float(stats.norm(scale=np.sqrt(1.25)).ppf(float(level)))
    covered = naive = 0
    for _ in range(rounds):
        sizes = generator.poisson(4, users) + 1
        own = np.split(
            np.repeat(generator.normal(size=users), sizes) + generator.normal(scale=0.5, size=sizes.sum()),
            np.cumsum(sizes)[:-1],
        )
        ordered = np.sort(np.concatenate(own))
        found = quantile_ranks(level, **_array_counts(own, ordered, level))
        assert found.lower is not None
        assert found.upper is not None
        covered += ordered[found.lower - 1] <= true <= ordered[found.upper - 1]
        short = quantile_ranks(level, **_one_each_of(len(ordered)))
        assert short.lower is not None
        assert short.upper is not None
        naive += ordered[short.lower - 1] <= true <= ordered[short.upper - 1]
    # Five standard errors of a binomial share around what is promised.
    assert 0.95 * rounds - 5 * (rounds * 0.95 * 0.05) ** 0.5 <= covered
    assert naive < 0.85 * rounds


def _array_counts(own: list[Any], ordered: Any, level: Fraction) -> dict[str, int]:
    rank = level * (len(ordered) - 1)
    low = ordered[rank.numerator // rank.denominator]
    below = np.array([(values <= low).sum() for values in own])
    sizes = np.array([len(values) for values in own])
    return {
        "users": len(own),
        "values": int(sizes.sum()),
        "below": int(below.sum()),
        "below_squares": int((below**2).sum()),
        "value_squares": int((sizes**2).sum()),
        "products": int((below * sizes).sum()),
    }


def _one_each_of(number: int) -> dict[str, int]:
    half = number // 2
    return {
        "users": number,
        "values": number,
        "below": half,
        "below_squares": half,
        "value_squares": number,
        "products": half,
    }


@given(
    users=st.lists(st.lists(st.integers(-5, 5), min_size=1, max_size=5), min_size=2, max_size=30),
    level=st.sampled_from([Fraction(1, 20), Fraction(1, 2), Fraction(9, 10)]),
)
@settings(deadline=None, max_examples=200)
def test_quantile_ranks__any_users__lie_on_both_sides_and_widen_with_confidence(
    users: list[list[int]], level: Fraction
) -> None:
    counts = _counts(users, level)

    narrow, wide = (quantile_ranks(level, **counts, confidence=confidence) for confidence in (0.8, 0.99))

    for found in (narrow, wide):
        assert found.lower is None or 1 <= found.lower <= level * counts["values"] + 1
        assert found.upper is None or level * counts["values"] <= found.upper <= counts["values"]
    assert (wide.lower or 0) <= (narrow.lower or 0)
    assert (wide.upper or counts["values"] + 1) >= (narrow.upper or counts["values"] + 1)


def test_quantile_ranks__users_of_equal_size_given_twice__widen_by_the_root_of_two() -> None:
    """Each user's values twice say nothing new: the ranks double, and so does their distance."""
    users = [[float(value)] * 2 for value in range(1000)]

    found = quantile_ranks(0.5, **_counts(users, Fraction(1, 2)))
    single = quantile_ranks(0.5, **_one_each(1000))

    assert found.lower is not None
    assert found.upper is not None
    assert single.lower is not None
    assert single.upper is not None
    assert found.upper - found.lower == pytest.approx(2 * (single.upper - single.lower), rel=0.02)


@pytest.mark.parametrize(("users", "reason"), [(0, NullReason.EMPTY_ARM), (1, NullReason.TOO_FEW_UNITS)])
def test_quantile_ranks__fewer_than_two_users__are_none_with_the_reason(users: int, reason: NullReason) -> None:
    counts = dict.fromkeys(("values", "below", "below_squares", "value_squares", "products"), users)

    assert quantile_ranks(0.5, users=users, **counts) == Ranks(None, None, reason)


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0])
def test_quantile_ranks__no_level__refused(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        quantile_ranks(level, **_one_each(10))


def test_quantile_estimate__bounds__give_back_the_standard_error() -> None:
    found = quantile_estimate(Fraction(10), users=50, lower=10 - 1.959963984540054, upper=10 + 1.959963984540054)

    assert found.value == 10
    assert float(found.variance or 0) == pytest.approx(1.0)


def test_quantile_estimate__bound_outside_the_values__has_no_variance() -> None:
    found = quantile_estimate(Fraction(10), users=50, lower=9.0, upper=None)

    assert (found.variance, found.null_reason) == (None, NullReason.TOO_FEW_UNITS)


@pytest.mark.parametrize("number", [2**31 - 1, 2**31, 10**12, 2**63, 2**64 - 1])
def test_quantile_ranks__very_many_single_values__are_around_the_quantile(number: int) -> None:
    below = number // 20 * 19

    found = quantile_ranks(
        Fraction(95, 100),
        users=number,
        values=number,
        below=below,
        below_squares=below,
        value_squares=number,
        products=below,
    )

    half = 1.96 * math.sqrt(number * 0.95 * 0.05)
    assert found.lower == pytest.approx(number * 0.95 - half, rel=1e-9)
    assert found.upper == pytest.approx(number * 0.95 + half, rel=1e-9)


def test_quantile_estimate__confidence_without_an_interval__is_refused() -> None:
    with pytest.raises(ValueError, match="confidence is too near to 0"):
        quantile_estimate(Fraction(1), users=9, lower=0.0, upper=2.0, confidence=math.ulp(0.0))


@pytest.mark.parametrize("end", [math.inf, math.nan])
def test_quantile_estimate__end_that_is_no_number__is_refused(end: float) -> None:
    with pytest.raises(ValueError, match="upper must be finite"):
        quantile_estimate(Fraction(1), users=9, lower=0.0, upper=end)
