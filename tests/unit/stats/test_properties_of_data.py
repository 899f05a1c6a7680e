"""What holds for any data: merged, reordered, extreme, empty, or all alike."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import reduce
from operator import add
from typing import Any, TypeVar

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.stats.bayes_effect import NormalPrior, bayes_normal
from app.stats.cuped import cuped_difference, cuped_estimates
from app.stats.distributions import Distribution
from app.stats.effects import Scale
from app.stats.lift import LiftMethod, relative_lift
from app.stats.means import value_interval, welch_t_test
from app.stats.multiple import Correction, adjust_p_values
from app.stats.proportions import (
    DifferenceMethod,
    difference_of_proportions,
    k_proportion_chi_square,
    two_proportion_test,
    wilson_interval,
)
from app.stats.ratios import ratio_difference
from app.stats.samples import CovariateSample, MeanSample, Proportion, RatioSample, Sample
from app.stats.sequential import always_valid_interval
from app.stats.srm import srm_chi_square, srm_sequential
from tests.unit.stats.units import Pair, adjustable_of, mean_of, rate_of, ratio_of

any_speed = settings(deadline=None)

Arm = TypeVar("Arm", Proportion, MeanSample, RatioSample, CovariateSample)

fractions = st.integers(-(10**9), 10**9).map(lambda i: Fraction(i, 1000))
units = st.lists(st.tuples(fractions, fractions), max_size=12)
BUILDERS: list[Callable[[Sequence[Pair]], Any]] = [
    lambda pairs: rate_of([value > 0 for value, _ in pairs]),
    lambda pairs: mean_of([value for value, _ in pairs]),
    ratio_of,
    adjustable_of,
]
KINDS = ["rate", "mean", "ratio", "covariate"]


@pytest.mark.parametrize("build", BUILDERS, ids=KINDS)
@any_speed
@given(data=st.data(), pairs=units)
def test_statistics__parts_added_in_any_order__are_those_of_the_whole(
    build: Callable[[Sequence[Pair]], Any], data: st.DataObject, pairs: list[Pair]
) -> None:
    """A unit may lie in any store, day or block; parts without units count too."""
    homes = data.draw(st.lists(st.integers(0, 3), min_size=len(pairs), max_size=len(pairs)))
    parts = [[pair for pair, home in zip(pairs, homes, strict=True) if home == part] for part in range(4)]

    merged = reduce(add, [build(part) for part in data.draw(st.permutations(parts))])

    assert merged == build(data.draw(st.permutations(pairs)))


@any_speed
@given(data=st.data(), control=units, treatment=units)
def test_answers__units_reordered_and_split__do_not_change_in_any_digit(
    data: st.DataObject, control: list[Pair], treatment: list[Pair]
) -> None:
    def split(pairs: list[Pair]) -> CovariateSample:
        shuffled = data.draw(st.permutations(pairs))
        cut = data.draw(st.integers(0, len(pairs)))
        return adjustable_of(shuffled[:cut]) + adjustable_of(shuffled[cut:])

    arms, whole = (split(control), split(treatment)), (adjustable_of(control), adjustable_of(treatment))

    assert cuped_difference(*arms) == cuped_difference(*whole)
    assert relative_lift(*cuped_estimates(*arms)) == relative_lift(*cuped_estimates(*whole))
    assert welch_t_test(arms[0].sums.first, arms[1].sums.first) == welch_t_test(
        whole[0].sums.first, whole[1].sums.first
    )


@any_speed
@given(blocks=st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6), min_size=1, max_size=4))
def test_mean_sample__blocks_summed_in_doubles__agree_with_the_exact_sums(blocks: list[list[float]]) -> None:
    """What a store rounds per block is lost, and nothing more."""
    rounded = reduce(
        add,
        [
            MeanSample.from_sums(
                n=len(block), sum_values=math.fsum(block), sum_squares=math.fsum(value * value for value in block)
            )
            for block in blocks
        ],
    )
    exact = mean_of([Fraction(value) for block in blocks for value in block])

    found, wanted = value_interval(rounded), value_interval(exact)

    size = max(abs(value) for block in blocks for value in block)
    assert found.estimate == pytest.approx(wanted.estimate, rel=1e-12, abs=1e-13 * size)
    if wanted.lower is not None and found.lower is not None:
        # The square root of what rounding may leave of a sum of squares.
        assert found.lower == pytest.approx(wanted.lower, rel=1e-6, abs=1e-6 * size)


# The largest whose square is still taken, the smallest that a double holds in full, and what lies between.
EXTREME = [Fraction(Decimal(text)) for text in ("1e-300", "-1e-300", "1e-160", "1e-9", "0", "1", "-1", "1e9", "1e150")]
extreme_values = st.lists(st.sampled_from(EXTREME), max_size=4)
extreme_pairs = st.lists(st.tuples(st.sampled_from(EXTREME), st.sampled_from(EXTREME)), max_size=4)
alike = st.builds(lambda value, n: [value] * n, st.sampled_from(EXTREME), st.integers(0, 3))


def taken(build: Callable[[], Arm]) -> Arm:
    """Return the arm, or drop the example where its sums are beyond what the engine takes."""
    try:
        return build()
    except ValueError as refusal:
        assert "beyond 1e300" in str(refusal)  # noqa: PT017 - any other refusal of real numbers is a fault.
        assume(False)
        raise


@st.composite
def extreme_arms(draw: st.DrawFn) -> Sample:
    kind = draw(st.integers(0, 4))
    if kind == 0:
        n = draw(st.sampled_from([0, 1, 2, 2**53, 2**64 - 1]))
        return Proportion(draw(st.sampled_from(sorted({0, min(1, n), n // 2, n}))), n)
    if kind == 1:
        chosen = draw(st.one_of(extreme_values, alike))
        return taken(lambda: mean_of(chosen))
    if kind == 2:
        # One value for a great many users: sums from a store, not from values in memory.
        n, value = draw(st.sampled_from([1, 2, 10**18])), draw(st.sampled_from(EXTREME))
        return taken(lambda: MeanSample.from_sums(n=n, sum_values=n * value, sum_squares=n * value * value))
    pairs = draw(extreme_pairs)
    if kind == 3:
        return taken(lambda: ratio_of(pairs))
    # In doubles, with all that underflows and overflows on the way.
    floats = [float(value) for value, _ in pairs]
    squares = math.fsum(value * value for value in floats)
    return taken(lambda: MeanSample.from_sums(n=len(floats), sum_values=math.fsum(floats), sum_squares=squares))


def numbers_in(result: Any) -> list[float]:
    if dataclasses.is_dataclass(result):
        return [n for f in dataclasses.fields(result) for n in numbers_in(getattr(result, f.name))]
    if isinstance(result, tuple):
        return [number for part in result for number in numbers_in(part)]
    return [float(result)] if isinstance(result, int | float) else []


def assert_finite(result: Any) -> None:
    assert all(math.isfinite(number) for number in numbers_in(result)), result


priors = st.sampled_from([None, NormalPrior(mean=0.0, variance=1e-300), NormalPrior(mean=-1e300, variance=1e300)])
levels = st.sampled_from([1e-6, 0.5, 0.95, 1.0 - 1e-12])


@any_speed
@given(control=extreme_arms(), treatment=extreme_arms(), level=levels, scale=st.sampled_from(Scale), prior=priors)
def test_effects__extreme_arms__are_finite_or_null_with_a_reason(
    control: Sample, treatment: Sample, level: float, scale: Scale, prior: NormalPrior | None
) -> None:
    results: list[Any] = [
        value_interval(control, confidence=level),
        value_interval(treatment, confidence=level, distribution=Distribution.NORMAL),
        always_valid_interval(control, treatment, alpha=1.0 - level, scale=scale),
        bayes_normal(control, treatment, scale=scale, prior=prior, credibility=level),
        *(relative_lift(control, treatment, confidence=level, method=method) for method in LiftMethod),
    ]

    for result in results:
        assert_finite(result)
        undefined = [f.name for f in dataclasses.fields(result) if getattr(result, f.name) is None]
        if set(undefined) & {"lower", "upper", "mean"}:
            assert result.null_reason is not None


@any_speed
@given(one=extreme_values, other=st.one_of(extreme_values, alike), level=levels)
def test_welch_t_test__extreme_values__is_finite_or_null_with_a_reason(
    one: list[Fraction], other: list[Fraction], level: float
) -> None:
    result = welch_t_test(taken(lambda: mean_of(one)), taken(lambda: mean_of(other)), confidence=level)

    assert_finite(result)
    assert (result.p_value is None) == (result.null_reason is not None)


@any_speed
@given(one=extreme_pairs, other=extreme_pairs)
def test_paired_statistics__extreme_values__are_finite_or_null_with_a_reason(
    one: list[Pair], other: list[Pair]
) -> None:
    adjusted = cuped_difference(taken(lambda: adjustable_of(one)), taken(lambda: adjustable_of(other)))
    ratios = ratio_difference(taken(lambda: ratio_of(one)), taken(lambda: ratio_of(other)))

    assert_finite(adjusted)
    assert_finite(ratios)
    for comparison in (adjusted.comparison, ratios):
        assert (comparison.p_value is None) == (comparison.null_reason is not None)


# Both arms together, as all statistics, count up to 64 bits.
counts = st.sampled_from([0, 1, 2, 3, 10**6, 2**53 + 1, 2**62])


@st.composite
def extreme_rates(draw: st.DrawFn) -> Proportion:
    trials = draw(counts)
    return Proportion(draw(st.sampled_from(sorted({0, min(1, trials), trials // 2, trials}))), trials)


@any_speed
@given(control=extreme_rates(), treatment=extreme_rates(), level=levels)
def test_rates__extreme_counts__are_finite_or_null_with_a_reason(
    control: Proportion, treatment: Proportion, level: float
) -> None:
    intervals = [wilson_interval(control, confidence=level)]
    intervals += [
        difference_of_proportions(control, treatment, confidence=level, method=method) for method in DifferenceMethod
    ]
    for interval in intervals:
        assert_finite(interval)
        assert (interval.lower is None) == (interval.null_reason is not None)
    for test in (two_proportion_test(control, treatment), k_proportion_chi_square([control, treatment, control])):
        assert_finite(test)
        assert (test.p_value is None) == (test.null_reason is not None)


@any_speed
@given(observed=st.lists(st.integers(0, 2**40), min_size=2, max_size=5), data=st.data())
def test_srm__arms_in_another_order__keeps_the_p_values(observed: list[int], data: st.DataObject) -> None:
    plan = data.draw(st.lists(st.integers(1, 100), min_size=len(observed), max_size=len(observed)))
    order = data.draw(st.permutations(range(len(observed))))
    shuffled = [observed[arm] for arm in order], [plan[arm] for arm in order]

    fixed, ever = srm_chi_square(observed, plan), srm_sequential(observed, plan)

    assert srm_chi_square(*shuffled).p_value == fixed.p_value
    assert srm_sequential(*shuffled).p_value == pytest.approx(ever.p_value, rel=1e-6, abs=1e-300)


@any_speed
@given(looks=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=20))
def test_srm_sequential__look_after_look__never_takes_evidence_back(looks: list[tuple[int, int]]) -> None:
    largest, smallest_p, total = 0.0, 1.0, (0, 0)
    for arrived in looks:
        total = total[0] + arrived[0], total[1] + arrived[1]
        found = srm_sequential(total, [1, 1], largest_log_bayes_factor=largest)
        assert found.p_value is not None
        assert found.largest_log_bayes_factor is not None
        assert found.p_value <= smallest_p
        largest, smallest_p = found.largest_log_bayes_factor, found.p_value


@any_speed
@given(raw=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8), method=st.sampled_from(Correction), data=st.data())
def test_adjust_p_values__tests_in_another_order_or_undefined_ones_added__changes_no_other(
    raw: list[float], method: Correction, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(raw))))
    plain = adjust_p_values(raw, method=method)

    shuffled = adjust_p_values([raw[place] for place in order], method=method)
    with_gap = adjust_p_values([None, *raw, None], method=method)

    assert [shuffled.adjusted[order.index(place)] for place in range(len(raw))] == list(plain.adjusted)
    assert with_gap.adjusted == (None, *plain.adjusted, None)
