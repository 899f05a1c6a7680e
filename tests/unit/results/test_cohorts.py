"""The answer by when users came, and whether parts of the users differ."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.core.errors import Invalid
from app.results.analysis import answer
from app.results.part_values import CohortsResult, HomogeneityResult
from app.results.provenance import Provenance
from app.results.reading import PLAIN, Pair, Reading
from app.results.schemas import ResultsOut
from app.results.values import CohortWidth, Metric, Observations, Question, Segment, Source
from app.stats.effects import Scale, effect_of
from app.stats.homogeneity import cochran_q
from app.stats.reasons import NullReason
from app.stats.samples import Proportion
from tests.unit.results.arms import STARTED, arm, experiment, observed

_NOW = STARTED + timedelta(days=90)
_HERE = Provenance(Source.HOT, _NOW, _NOW)
_DAY = timedelta(days=1)
# Users and converters of control and treatment, the oldest day first.
_DAYS = (((400, 80), (410, 140)), ((390, 78), (400, 84)), ((420, 84), (405, 80)))


def _seen(days: tuple[tuple[tuple[int, int], ...], ...] = _DAYS, *, has_rest: bool = False) -> Observations:
    """Observe days, which a store gives back from the newest one; the rest, if there is one, is the oldest."""
    whole = observed(*(arm(*map(sum, zip(*own, strict=True))) for own in zip(*days, strict=True)))
    segments = [
        Segment(
            None,
            is_rest=has_rest and number == 0,
            observations=observed(*(arm(*counts) for counts in day)),
            since=None if has_rest and number == 0 else STARTED + number * _DAY,
        )
        for number, day in enumerate(days)
    ]
    return replace(whole, segments=tuple(segments[::-1]))


def _cohorts(
    seen: Observations, arms: int = 2, width: CohortWidth = CohortWidth.DAY, reading: Reading = PLAIN, **question: Any
) -> CohortsResult:
    asked = Question(cohorts=width, **question)
    found = answer(experiment(arms), asked, seen, _HERE, reading)
    assert found.breakdown is None
    assert ResultsOut.of(found).cohorts is not None
    assert found.cohorts is not None
    return found.cohorts


def _rate(found: CohortsResult) -> HomogeneityResult:
    return next(one for one in found.homogeneity if one.metric == Metric.CONVERSION_RATE)


def test_cohorts__of_days__are_in_the_order_of_time_with_their_own_users() -> None:
    found = _cohorts(_seen())

    assert [(one.since, one.until, one.is_rest) for one in found.cohorts] == [
        (STARTED + number * _DAY, STARTED + (number + 1) * _DAY, False) for number in range(3)
    ]
    assert [one.users for one in found.cohorts] == [810, 790, 825]
    assert [one.srm.observed for one in found.cohorts] == [
        {"control": control, "treatment_1": treatment} for ((control, _), (treatment, _)) in _DAYS
    ]
    assert [one.comparisons[0].difference for one in found.cohorts] == [
        pytest.approx(hits / users - own_hits / own) for ((own, own_hits), (users, hits)) in _DAYS
    ]
    assert all(variant.time_series == () for one in found.cohorts for variant in one.variants)


def test_cohorts__of_weeks_with_a_rest__begin_with_it() -> None:
    found = _cohorts(_seen(has_rest=True), width=CohortWidth.WEEK)

    rest, first, _ = found.cohorts
    assert (rest.since, rest.until, rest.is_rest) == (None, STARTED + _DAY, True)
    assert (first.since, first.until) == (STARTED + _DAY, STARTED + 8 * _DAY)


def test_cohorts__days_of_nobody__are_left_out() -> None:
    found = _cohorts(_seen((_DAYS[0], ((0, 0), (0, 0)), _DAYS[2])))

    assert [one.since for one in found.cohorts] == [STARTED, STARTED + 2 * _DAY]
    assert _cohorts(Observations({})).cohorts == ()
    assert _rate(_cohorts(Observations({}))).null_reason is NullReason.TOO_FEW_GROUPS


def test_cohorts__p_values__are_one_family_over_all_cohorts() -> None:
    found = _cohorts(_seen(), metrics=(Metric.CONVERSION_RATE, Metric.VALUE_PER_USER))

    compared = [one for cohort in found.cohorts for one in cohort.comparisons]
    assert found.family.comparisons == len(compared) == 6
    p_values = sorted(one.p_value for one in compared if one.p_value is not None)
    assert found.family.tested == len(p_values)
    smallest = min((one for one in compared if one.p_value is not None), key=lambda one: one.p_value or 0)
    assert smallest.p_value_holm == pytest.approx(min(1.0, len(p_values) * p_values[0]))


def test_homogeneity__of_cohorts__is_the_test_of_their_differences() -> None:
    found = _cohorts(_seen(), metrics=tuple(Metric))

    assert [(one.variant, one.control, one.metric) for one in found.homogeneity] == [
        ("treatment_1", "control", metric) for metric in Metric
    ]
    one = _rate(found)
    by_hand = cochran_q([effect_of(Proportion(c[1], c[0]), Proportion(t[1], t[0]), Scale.ABSOLUTE) for c, t in _DAYS])
    assert (one.parts, one.left_out, one.df) == (3, 0, 2)
    assert (one.statistic, one.p_value, one.null_reason) == (by_hand.statistic, by_hand.p_value, None)
    assert by_hand.i_squared is not None
    assert one.i_squared_percent == 100 * by_hand.i_squared
    assert one.p_value is not None
    assert one.p_value < 0.001
    total = next(one for one in found.homogeneity if one.metric == Metric.UNIQUE_USERS)
    assert (total.null_reason, total.p_value, total.parts, total.left_out) == ("NO_TEST", None, 0, 3)
    assert total.left_out_parts == (0, 1, 2)
    assert total.notes


def test_homogeneity__several_pairs__are_adjusted_together() -> None:
    days = tuple((*day, (400 + number, 100 + 10 * number)) for number, day in enumerate(_DAYS))
    reading = Reading(compare=(Pair("treatment_2", "treatment_1"),))

    found = _cohorts(_seen(days), 3, metrics=(Metric.CONVERSION_RATE,), reading=reading)

    p_values = sorted(one.p_value for one in found.homogeneity if one.p_value is not None)
    assert len(found.homogeneity) == len(p_values) == 3
    assert min(one.p_value_holm or 9 for one in found.homogeneity) == pytest.approx(min(1.0, 3 * p_values[0]))


@pytest.mark.parametrize(
    ("least", "parts", "places"), [(100, 2, (2,)), (0, 3, ()), (391, 1, (1, 2)), (401, 0, (0, 1, 2))]
)
def test_homogeneity__cohorts_below_the_least_sample__are_left_out_and_named(
    least: int, parts: int, places: tuple[int, ...]
) -> None:
    days = (_DAYS[0], _DAYS[1], ((99, 20), (120, 30)))

    one = _rate(_cohorts(_seen(days), min_sample=least))

    assert (one.parts, one.left_out, one.left_out_parts) == (parts, 3 - parts, places)
    assert (one.null_reason is None) == (parts >= 2)
    if parts < 2:
        assert one.null_reason == NullReason.TOO_FEW_GROUPS
        assert any("min_sample" in note for note in one.notes)


def test_homogeneity__cohorts_of_which_nobody_or_everybody_converted__are_left_out_and_named() -> None:
    days = (((400, 0), (400, 0)), *_DAYS[:2], ((400, 400), (400, 0)))

    one = _rate(_cohorts(_seen(days)))

    assert (one.parts, one.left_out, one.left_out_parts) == (2, 2, (0, 3))


def test_homogeneity__of_a_breakdown__names_its_segments_in_their_order() -> None:
    # Of a store's segments the largest is the first one, here the last of these days.
    seen = _seen((((99, 20), (120, 30)), *_DAYS))
    named = tuple(replace(segment, value=str(place), since=None) for place, segment in enumerate(seen.segments))

    found = answer(experiment(), Question(breakdown="country"), replace(seen, segments=named), _HERE).breakdown

    assert found is not None
    assert found.homogeneity[0].left_out_parts == (3,)
    assert found.segments[3].users == 219


def test_homogeneity__of_a_breakdown__is_the_same_test() -> None:
    seen = _seen()
    named = tuple(
        replace(segment, value=value, since=None) for segment, value in zip(seen.segments, "abc", strict=True)
    )

    found = answer(experiment(), Question(breakdown="country"), replace(seen, segments=named), _HERE).breakdown

    assert found is not None
    assert found.homogeneity == _cohorts(seen).homogeneity
    assert found.poststratified == _cohorts(seen).poststratified


def test_cohorts__allocation_changed_meanwhile__strata_undo_what_it_did() -> None:
    # The same rates on both days; most of the treatment came on the better one.
    days = (((900, 90), (100, 10)), ((100, 50), (900, 450)))

    found = _cohorts(_seen(days), metrics=(Metric.CONVERSION_RATE,))

    (one,) = found.poststratified
    assert one.difference == pytest.approx(0)
    assert _rate(found).p_value == pytest.approx(1)


def test_question__two_divisions__is_no_question() -> None:
    with pytest.raises(ValueError, match="not by both"):
        Question(breakdown="country", cohorts=CohortWidth.DAY)
    asked = Question(cohorts=CohortWidth.WEEK)
    assert asked.is_divided
    assert not asked.undivided.is_divided
    assert asked.undivided == Question()


def test_cohorts__more_comparisons_than_are_made__refused_with_the_way_out() -> None:
    days = tuple(((10, 1),) * 20 for _ in range(51))
    pairs = tuple(Pair(f"treatment_{number}", "treatment_1") for number in range(2, 19))
    reading = Reading(compare=pairs)
    with pytest.raises(Invalid, match="name fewer metrics"):
        _cohorts(_seen(days), 20, reading=reading, metrics=tuple(Metric))
