"""Which metrics are measured once more, of which arms and in which units, and of which arms the numbers are lost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from fractions import Fraction

import pytest

from app.measurement.plan import Plan, compiled
from app.measurement.precision import Lost, are_lost_on_a_day, lost_of, once_more, repeated
from app.measurement.values import ArmMeasured, DailySums, Measured, Sums
from app.metrics.values import Kind, Recipe, Selection, ValueSource

_BUY = (Selection(("buy",)),)
_CAPPED = Recipe(kind=Kind.SUM, selections=_BUY, cap=300.0, covariate_days=7)
_PLAIN = replace(_CAPPED, cap=None)
_RATIO = Recipe(kind=Kind.RATIO, selections=_BUY, denominator=Selection(("view",)))
_NOTHING_LOST = Lost(numbers=False, covariate=False)
# By side: by how many bits units are finer.
_Bits = Mapping[str, int]


def _plan(recipe: Recipe) -> Plan:
    return compiled({"spend": recipe})


def _seen(*arms: ArmMeasured) -> Measured:
    return Measured({"spend": dict(enumerate(arms, start=1))})


def _arm(*, squares: int, exponent: int, covariate_exponent: int = -60, n: int = 200, events: int = 200) -> ArmMeasured:
    sums = Sums(n=n, numerator_squares=Fraction(squares), covariate_squares=Fraction(squares))
    unit, covariate_unit = Fraction(2) ** exponent, Fraction(2) ** covariate_exponent
    return ArmMeasured(sums=sums, events=events, unit=unit, covariate_unit=covariate_unit)


# Of one and the same unit: totals that suit it, and such as are hidden by the values of others.
_ORDINARY = _arm(squares=400_000, exponent=-40)
_LARGE = _arm(squares=10**40, exponent=8)
_HIDDEN = _arm(squares=400_000, exponent=8)
_CRUSHED = _arm(squares=0, exponent=8)


def _again(plan: Plan, *arms: ArmMeasured) -> list[tuple[tuple[int, ...], _Bits]]:
    """Return of which arms the metric is measured once more, and by how much finer."""
    return [(again.arms, dict(again.measures[0].finer)) for again in once_more(plan, _seen(*arms))]


@pytest.mark.parametrize(
    ("recipe", "arms", "expected"),
    [
        # Ordinary values, and some that are far larger than all others.
        (_CAPPED, [_ORDINARY, _ORDINARY], []),
        (_CAPPED, [_arm(squares=400_000, exponent=-20)] * 2, [((), {"x": 60})]),
        (replace(_PLAIN, winsorize=0.9), [_HIDDEN, _HIDDEN], [((), {"x": 60})]),
        # What totals are limited at is of all arms.
        (_CAPPED, [_LARGE, _HIDDEN], [((), {"x": 60})]),
        # Without a limit a large value dominates its own arm, and hides others.
        (_PLAIN, [_LARGE, _LARGE], []),
        (_PLAIN, [_LARGE, _HIDDEN], [((2,), {})]),
        (_PLAIN, [_CRUSHED, _LARGE, _HIDDEN], [((1, 3), {})]),
        # It was taken back, so that no arm has a total of such a size.
        (_PLAIN, [_HIDDEN, _HIDDEN], [((), {"x": 60})]),
        # Where nothing was counted, nothing is hidden; numbers of events are exact.
        (_PLAIN, [_LARGE, replace(_CRUSHED, events=0)], []),
        (replace(_PLAIN, kind=Kind.COUNT), [_LARGE, _HIDDEN], []),
        (
            Recipe(
                kind=Kind.RATIO, selections=(replace(_BUY[0], source=ValueSource.ONE),), denominator=_BUY[0], cap=3.0
            ),
            [_LARGE, _HIDDEN],
            [],
        ),
    ],
)
def test_once_more__unit_beside_the_totals_of_each_arm__are_the_arms_and_units_that_need_it(
    recipe: Recipe, arms: Sequence[ArmMeasured], expected: list[tuple[tuple[int, ...], _Bits]]
) -> None:
    assert _again(_plan(recipe), *arms) == expected


def test_once_more__denominator_or_covariate_hidden__is_as_good_a_reason() -> None:
    def with_denominator(squares: int) -> ArmMeasured:
        sums = Sums(n=200, numerator_squares=Fraction(400_000), denominator_squares=Fraction(squares))
        unit = Fraction(1, 2**40)
        return ArmMeasured(sums=sums, events=200, unit=unit, denominator_unit=Fraction(256))

    before = _arm(squares=400_000, exponent=-40, covariate_exponent=8)

    assert _again(_plan(_RATIO), with_denominator(10**40), with_denominator(400_000)) == [((2,), {})]
    assert _again(_plan(_RATIO), with_denominator(400_000)) == [((), {"y": 60})]
    assert _again(_plan(_PLAIN), _ORDINARY, before) == [((2,), {})]
    assert lost_of(with_denominator(400_000)) == Lost(numbers=True, covariate=False)


def test_once_more__still_too_coarse__are_finer_once_more_side_by_side_and_then_no_more() -> None:
    once = _plan(_CAPPED).refined({(0, "x"): 60})
    both = _arm(squares=400_000, exponent=8, covariate_exponent=8)

    (twice,) = once_more(once, _seen(both))

    assert twice.measures[0].finer == {"x": 120, "z": 60}
    # The covariate alone may be refined further.
    (thrice,) = once_more(twice, _seen(both))
    assert thrice.measures[0].finer == {"x": 120, "z": 120}
    assert once_more(thrice, _seen(both)) == []


def test_once_more__some_arms_alone__are_told_apart_again_or_measured_in_finer_units() -> None:
    alone = _plan(_PLAIN).among([3, 2])

    assert alone.arms == (2, 3)
    (fewer,) = once_more(alone, Measured({"spend": {2: _LARGE, 3: _HIDDEN}}))
    assert (fewer.arms, fewer.measures[0].finer) == ((3,), {})
    (finer,) = once_more(alone, Measured({"spend": {2: _HIDDEN, 3: _HIDDEN}}))
    assert (finer.arms, finer.measures[0].finer) == ((2, 3), {"x": 60})
    # Their own largest value is another one.
    (apart,) = once_more(finer, Measured({"spend": {2: _LARGE, 3: _HIDDEN}}))
    assert (apart.arms, apart.measures[0].finer) == ((3,), {})


def test_once_more__several_metrics__share_a_plan_where_the_same_arms_are_hidden() -> None:
    plan = compiled({"a": _PLAIN, "b": _PLAIN, "c": _PLAIN, "d": _CAPPED, "e": _PLAIN})
    hidden = {1: _LARGE, 2: _HIDDEN}
    seen = Measured({"a": hidden, "b": {1: _HIDDEN, 2: _LARGE}, "c": hidden, "d": hidden, "e": {1: _LARGE, 2: _LARGE}})

    found = once_more(plan, seen)

    assert [(again.arms, [measure.key for measure in again.measures]) for again in found] == [
        ((), ["d"]),
        ((2,), ["a", "c"]),
        ((1,), ["b"]),
    ]


def test_once_more__totals_all_zero__are_measured_beside_large_values_alone() -> None:
    def needed(exponent: int) -> bool:
        return bool(once_more(_plan(_CAPPED), _seen(_arm(squares=0, exponent=exponent))))

    assert [needed(exponent) for exponent in (-50, -31, -20, 30)] == [False, False, True, True]


def test_once_more__sums_of_some_day_that_would_not_fit__stay_as_they_are() -> None:
    passing = Sums(n=200, numerator_squares=Fraction(2) ** 150)
    arm = replace(_HIDDEN, daily=(DailySums(date(2026, 3, 1), passing),))

    assert _again(_plan(_CAPPED), arm) == []
    assert _again(_plan(_PLAIN), arm) == []
    assert lost_of(arm) == Lost(numbers=True, covariate=False)


def test_repeated__what_came_of_several_looks__are_the_plans_that_it_came_of_in_their_order() -> None:
    plan = compiled({"a": _PLAIN, "b": _CAPPED, "c": _PLAIN})
    first, alone = _LARGE, replace(_ORDINARY, among=(2, 3))
    finer = replace(_ORDINARY, finer=120, covariate_finer=60)
    seen = Measured(
        {
            "a": {1: first, 2: alone, 3: replace(alone, among=(3,), finer=60)},
            "b": {1: finer, 2: finer, 3: finer},
            "c": {1: first, 2: alone, 3: alone},
        }
    )

    found = repeated(plan, seen)

    assert [(again.arms, {measure.key: measure.finer for measure in again.measures}) for again in found] == [
        ((), {"b": {"x": 120, "z": 60}}),
        ((2, 3), {"a": {}, "c": {}}),
        ((3,), {"a": {"x": 60}}),
    ]
    assert repeated(plan, Measured({"a": {1: first, 2: _HIDDEN}})) == []


def test_lost_of__units_too_coarse_for_an_arm__says_which_numbers() -> None:
    assert lost_of(_ORDINARY) == _NOTHING_LOST
    assert lost_of(_LARGE) == _NOTHING_LOST
    assert lost_of(_HIDDEN) == Lost(numbers=True, covariate=False)
    assert lost_of(_arm(squares=400_000, exponent=-40, covariate_exponent=8)) == Lost(numbers=False, covariate=True)
    assert lost_of(replace(_CRUSHED, events=0)) == _NOTHING_LOST
    assert lost_of(ArmMeasured()) == _NOTHING_LOST
    # What is worth another look need not be wrong.
    rough = _arm(squares=400_000, exponent=-26)
    assert _again(_plan(_CAPPED), rough) == [((), {"x": 60})]
    assert lost_of(rough) == _NOTHING_LOST


def test_are_lost_on_a_day__before_a_large_value__are_what_it_hides() -> None:
    def lost(squares: Fraction | int, exponent: int) -> bool:
        arm = replace(_LARGE, unit=Fraction(2) ** exponent)
        return are_lost_on_a_day(arm, Sums(n=200, numerator_squares=Fraction(squares)))

    assert [lost(10**40, 8), lost(400_000, 8), lost(0, 8)] == [False, True, True]
    # Nobody may have done anything yet.
    assert [lost(0, 0), lost(0, -20), lost(400_000, -40)] == [False, False, False]
    assert not are_lost_on_a_day(_LARGE, Sums())
