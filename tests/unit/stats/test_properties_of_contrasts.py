"""What holds for every way of comparing two arms, whatever the data: swaps, units of measure, and agreement."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.stats.bayes_effect import bayes_normal
from app.stats.cuped import cuped_difference, cuped_estimates
from app.stats.distributions import normal_isf
from app.stats.lift import LiftMethod, relative_lift
from app.stats.means import value_interval, welch_t_test
from app.stats.proportions import (
    DifferenceMethod,
    RateVariance,
    difference_of_proportions,
    two_proportion_test,
    wilson_interval,
)
from app.stats.ratios import ratio_difference
from app.stats.samples import Proportion, Sample
from app.stats.sequential import always_valid_interval
from tests.unit.stats.units import Pair, adjustable_of, mean_of, rate_of, ratio_of

any_speed = settings(deadline=None)
CLOSE = 1e-9

Units = Sequence[Pair]
Kind = Callable[[Units], Sample]


@dataclass(frozen=True)
class Answer:
    """What every contrast says: a difference, its interval and its p-value, all None where undefined."""

    difference: float | None
    lower: float | None
    upper: float | None
    p_value: float | None

    def negated(self) -> "Answer":
        return Answer(_minus(self.difference), _minus(self.upper), _minus(self.lower), self.p_value)

    def times(self, factor: float) -> "Answer":
        scaled = [None if v is None else v * factor for v in (self.difference, self.lower, self.upper)]
        return Answer(scaled[0], scaled[1], scaled[2], self.p_value)


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def welch(control: Units, treatment: Units, confidence: float) -> Answer:
    found = welch_t_test(mean_of(values(control)), mean_of(values(treatment)), confidence=confidence)
    return Answer(found.difference, found.lower, found.upper, found.p_value)


def ratio(control: Units, treatment: Units, confidence: float) -> Answer:
    found = ratio_difference(ratio_of(control), ratio_of(treatment), confidence=confidence)
    return Answer(found.difference, found.lower, found.upper, found.p_value)


def cuped(control: Units, treatment: Units, confidence: float) -> Answer:
    found = cuped_difference(adjustable_of(control), adjustable_of(treatment), confidence=confidence).comparison
    return Answer(found.difference, found.lower, found.upper, found.p_value)


def always_valid(control: Units, treatment: Units, confidence: float) -> Answer:
    found = always_valid_interval(mean_of(values(control)), mean_of(values(treatment)), alpha=1.0 - confidence)
    return Answer(found.estimate, found.lower, found.upper, found.p_value)


def always_valid_ratio(control: Units, treatment: Units, confidence: float) -> Answer:
    found = always_valid_interval(ratio_of(control), ratio_of(treatment), alpha=1.0 - confidence)
    return Answer(found.estimate, found.lower, found.upper, found.p_value)


Contrast = Callable[[Units, Units, float], Answer]
CONTRASTS: list[Contrast] = [welch, ratio, cuped, always_valid, always_valid_ratio]
OF_VALUES: list[Contrast] = [welch, cuped, always_valid]


def values(units: Units) -> list[Fraction]:
    return [value for value, _ in units]


def same(one: Answer, other: Answer, size: float = 1.0) -> bool:
    """Say whether both are the same up to rounding; `size`: of the numbers that go into the intervals."""
    pairs = zip(
        (one.difference, one.lower, one.upper, one.p_value),
        (other.difference, other.lower, other.upper, other.p_value),
        strict=True,
    )
    return all(
        (a is None) == (b is None)
        and (a is None or b is None or math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE * size))
        for a, b in pairs
    )


numbers = st.integers(-50, 50).map(lambda i: Fraction(i, 4))
counts = st.integers(0, 9).map(Fraction)
units = st.lists(st.tuples(numbers, counts), min_size=2, max_size=10)
levels = st.sampled_from([0.5, 0.8, 0.95, 0.999])
factors = st.sampled_from([Fraction(1, 3), Fraction(7), Fraction(10**6), Fraction(1, 10**6)])


@pytest.mark.parametrize("contrast", CONTRASTS)
@any_speed
@given(control=units, treatment=units, level=levels)
def test_contrast__arms_swapped__is_negated_with_its_interval_mirrored(
    contrast: Contrast, control: list[Pair], treatment: list[Pair], level: float
) -> None:
    assert same(contrast(treatment, control, level), contrast(control, treatment, level).negated())


@pytest.mark.parametrize("contrast", CONTRASTS)
@any_speed
@given(control=units, treatment=units, level=levels, factor=factors)
def test_contrast__values_scaled__scales_with_them_and_keeps_the_p_value(
    contrast: Contrast, control: list[Pair], treatment: list[Pair], level: float, factor: Fraction
) -> None:
    scaled = [[(value * factor, other) for value, other in arm] for arm in (control, treatment)]

    plain = contrast(control, treatment, level)

    assert same(contrast(scaled[0], scaled[1], level), plain.times(float(factor)), float(factor))


@pytest.mark.parametrize("contrast", OF_VALUES)
@any_speed
@given(control=units, treatment=units, level=levels, added=st.sampled_from([-7, 10**6, 10**15]))
def test_contrast__constant_added_to_all_values__does_not_change(
    contrast: Contrast, control: list[Pair], treatment: list[Pair], level: float, added: int
) -> None:
    moved = [[(value + added, other) for value, other in arm] for arm in (control, treatment)]

    assert same(contrast(moved[0], moved[1], level), contrast(control, treatment, level))


@any_speed
@given(control=units, treatment=units, level=levels, factor=factors, added=st.integers(-(10**9), 10**9))
def test_cuped__covariate_in_another_unit_and_moved__does_not_change(
    control: list[Pair], treatment: list[Pair], level: float, factor: Fraction, added: int
) -> None:
    changed = [[(value, factor * other + added) for value, other in arm] for arm in (control, treatment)]

    assert same(cuped(changed[0], changed[1], level), cuped(control, treatment, level))


@pytest.mark.parametrize("contrast", CONTRASTS)
@any_speed
@given(control=units, treatment=units, level=levels)
def test_contrast__p_value_below_alpha__exactly_where_the_interval_leaves_out_zero(
    contrast: Contrast, control: list[Pair], treatment: list[Pair], level: float
) -> None:
    answer = contrast(control, treatment, level)
    assume(answer.p_value is not None and abs(answer.p_value - (1.0 - level)) > CLOSE)
    assert answer.lower is not None
    assert answer.upper is not None
    assert answer.p_value is not None

    assert (answer.lower > 0.0 or answer.upper < 0.0) == (answer.p_value < 1.0 - level)


@pytest.mark.parametrize("contrast", CONTRASTS)
@any_speed
@given(control=units, treatment=units, pair=st.sampled_from([(0.5, 0.8), (0.8, 0.95), (0.95, 0.999)]))
def test_contrast__higher_confidence__has_an_interval_around_the_lower_one(
    contrast: Contrast, control: list[Pair], treatment: list[Pair], pair: tuple[float, float]
) -> None:
    narrow, wide = (contrast(control, treatment, level) for level in pair)
    assume(narrow.lower is not None)
    assert narrow.lower is not None
    assert narrow.upper is not None
    assert wide.lower is not None
    assert wide.upper is not None

    assert wide.lower < narrow.lower <= narrow.upper < wide.upper


def arm_kinds() -> list[Kind]:
    return [lambda arm: mean_of(values(arm)), ratio_of, lambda arm: rate_of([value > 0 for value in values(arm)])]


@pytest.mark.parametrize("kind", arm_kinds(), ids=["mean", "ratio", "rate"])
@any_speed
@given(control=units, treatment=units, method=st.sampled_from(LiftMethod))
def test_relative_lift__control_above_zero__has_the_sign_of_the_difference(
    kind: Kind, control: list[Pair], treatment: list[Pair], method: LiftMethod
) -> None:
    arms = kind(control), kind(treatment)
    before, after = arms[0].estimate().value, arms[1].estimate().value
    assume(before is not None and after is not None and before > 0)
    assert before is not None
    assert after is not None

    lift = relative_lift(*arms, method=method).lift

    assert lift is not None
    assert (lift > 0) == (after > before)
    assert (lift < 0) == (after < before)


@pytest.mark.parametrize("method", [LiftMethod.FIELLER_NORMAL, LiftMethod.FIELLER_WELCH_T, LiftMethod.LOG_RATIO_NORMAL])
@any_speed
@given(control=units, treatment=units)
def test_relative_lift__arms_swapped__is_that_of_the_inverse_ratio(
    method: LiftMethod, control: list[Pair], treatment: list[Pair]
) -> None:
    arms = [mean_of([abs(value) + 1 for value in values(arm)]) for arm in (control, treatment)]
    there, back = relative_lift(arms[0], arms[1], method=method), relative_lift(arms[1], arms[0], method=method)
    assume(there.lower is not None and back.lower is not None)
    assert there.lower is not None
    assert there.upper is not None
    assert there.lift is not None
    assert back.lower is not None
    assert back.upper is not None
    assert back.lift is not None

    assert (1.0 + there.lift) * (1.0 + back.lift) == pytest.approx(1.0)
    assert (1.0 + there.lower) * (1.0 + back.upper) == pytest.approx(1.0, rel=1e-6)
    assert (1.0 + there.upper) * (1.0 + back.lower) == pytest.approx(1.0, rel=1e-6)
    assert there.p_value == pytest.approx(back.p_value)


@any_speed
@given(control=units, treatment=units, factor=factors, method=st.sampled_from(LiftMethod))
def test_relative_lift__all_values_scaled__does_not_change(
    control: list[Pair], treatment: list[Pair], factor: Fraction, method: LiftMethod
) -> None:
    plain = relative_lift(mean_of(values(control)), mean_of(values(treatment)), method=method)
    scaled = relative_lift(
        mean_of([value * factor for value in values(control)]),
        mean_of([value * factor for value in values(treatment)]),
        method=method,
    )

    assert scaled == plain


@any_speed
@given(control=units, treatment=units)
def test_relative_lift__fieller__has_the_p_value_of_the_difference(control: list[Pair], treatment: list[Pair]) -> None:
    arms = cuped_estimates(adjustable_of(control), adjustable_of(treatment))
    lift = relative_lift(*arms, method=LiftMethod.FIELLER_WELCH_T)
    assume(lift.p_value is not None)

    difference = cuped(control, treatment, 0.95)

    assert lift.p_value == pytest.approx(difference.p_value, rel=1e-6, abs=1e-300)


@any_speed
@given(control=units, treatment=units)
def test_bayes_normal__arms_swapped__is_negated_with_the_losses_exchanged(
    control: list[Pair], treatment: list[Pair]
) -> None:
    arms = mean_of(values(control)), mean_of(values(treatment))
    there, back = bayes_normal(arms[0], arms[1]), bayes_normal(arms[1], arms[0])

    assert there.null_reason == back.null_reason
    if there.mean is None or there.lower is None or there.prob_treatment_better is None:
        return
    assert back.mean == -there.mean
    assert back.upper == pytest.approx(-there.lower)
    assert back.prob_treatment_better == pytest.approx(1.0 - there.prob_treatment_better)
    assert back.expected_loss_choose_control == pytest.approx(there.expected_loss_choose_treatment)


trials = st.integers(2, 10**6)
rates = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0))
arms_of_rates = st.builds(lambda n, rate: Proportion(round(n * rate), n), trials, rates)


@any_speed
@given(control=arms_of_rates, treatment=arms_of_rates, level=levels)
def test_miettinen_nurminen__zero_outside__exactly_where_the_pooled_z_with_its_factor_is_beyond(
    control: Proportion, treatment: Proportion, level: float
) -> None:
    test = two_proportion_test(control, treatment)
    assume(test.statistic is not None)
    assert test.statistic is not None
    total = control.trials + treatment.trials
    # The score interval takes the pooled variance times N/(N - 1).
    score, limit = abs(test.statistic) * math.sqrt((total - 1) / total), normal_isf((1.0 - level) / 2.0)
    assume(abs(score - limit) > 1e-6)

    interval = difference_of_proportions(
        control, treatment, confidence=level, method=DifferenceMethod.MIETTINEN_NURMINEN
    )

    assert interval.lower is not None
    assert interval.upper is not None
    assert (interval.lower > 0.0 or interval.upper < 0.0) == (score > limit)


@any_speed
@given(control=arms_of_rates, treatment=arms_of_rates, level=levels)
def test_wald__zero_outside__exactly_where_the_unpooled_z_test_rejects(
    control: Proportion, treatment: Proportion, level: float
) -> None:
    test = two_proportion_test(control, treatment, variance=RateVariance.UNPOOLED)
    assume(test.p_value is not None and abs(test.p_value - (1.0 - level)) > CLOSE)
    assert test.p_value is not None

    interval = difference_of_proportions(control, treatment, confidence=level, method=DifferenceMethod.WALD)

    assert interval.lower is not None
    assert interval.upper is not None
    assert (interval.lower > 0.0 or interval.upper < 0.0) == (test.p_value < 1.0 - level)


@any_speed
@given(control=arms_of_rates, treatment=arms_of_rates, method=st.sampled_from(DifferenceMethod))
def test_difference_of_proportions__failures_counted_instead__is_negated(
    control: Proportion, treatment: Proportion, method: DifferenceMethod
) -> None:
    counted = difference_of_proportions(control, treatment, method=method)
    failures = [Proportion(arm.trials - arm.successes, arm.trials) for arm in (control, treatment)]
    mirrored = difference_of_proportions(failures[0], failures[1], method=method)

    assert counted.estimate is not None
    assert counted.lower is not None
    assert mirrored.estimate == pytest.approx(-counted.estimate, abs=1e-15)
    assert mirrored.upper == pytest.approx(-counted.lower, rel=CLOSE, abs=1e-14)


@any_speed
@given(arm=arms_of_rates, copies=st.integers(2, 50))
def test_intervals__every_unit_copied__lie_inside_those_of_the_single_units(arm: Proportion, copies: int) -> None:
    more = Proportion(arm.successes * copies, arm.trials * copies)
    single, copied = wilson_interval(arm), wilson_interval(more)
    assert single.lower is not None
    assert single.upper is not None
    assert copied.lower is not None
    assert copied.upper is not None

    assert single.lower - 1e-15 <= copied.lower <= copied.upper <= single.upper + 1e-15


@any_speed
@given(arm=units, copies=st.integers(2, 5))
def test_value_interval__every_unit_copied__keeps_the_value_and_narrows(arm: list[Pair], copies: int) -> None:
    single, copied = value_interval(mean_of(values(arm))), value_interval(mean_of(values(arm * copies)))

    assert copied.estimate == single.estimate
    assert copied.null_reason is single.null_reason
    if single.lower is None or copied.lower is None:
        assert len(set(values(arm))) == 1
    else:
        assert copied.lower >= single.lower
