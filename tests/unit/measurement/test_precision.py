"""Which metrics are measured once more in finer units, and of which the numbers are lost."""

from dataclasses import replace
from datetime import date
from fractions import Fraction

import pytest

from app.measurement.plan import Plan, compiled
from app.measurement.precision import Lost, finer_units, lost_of
from app.measurement.values import ArmMeasured, DailySums, Measured, Sums
from app.metrics.values import Kind, Recipe, Selection, ValueSource

_BUY = (Selection(("buy",)),)
_CAPPED = Recipe(kind=Kind.SUM, selections=_BUY, cap=300.0, covariate_days=7)


def _plan(recipe: Recipe) -> Plan:
    return compiled({"spend": recipe})


def _seen(*arms: ArmMeasured) -> Measured:
    return Measured({"spend": dict(enumerate(arms, start=1))})


def _arm(*, squares: int, exponent: int, covariate_exponent: int = -60, n: int = 200) -> ArmMeasured:
    sums = Sums(n=n, numerator_squares=Fraction(squares), covariate_squares=Fraction(squares))
    return ArmMeasured(sums=sums, unit=Fraction(2) ** exponent, covariate_unit=Fraction(2) ** covariate_exponent)


@pytest.mark.parametrize(
    ("recipe", "exponent", "finer"),
    [
        # Ordinary values, and some that are far larger than all others.
        (_CAPPED, -40, {}),
        (_CAPPED, -20, {(0, "x"): 60}),
        (replace(_CAPPED, cap=None, winsorize=0.9), 8, {(0, "x"): 60}),
        # Without a limit the large ones dominate; numbers of events are exact.
        (replace(_CAPPED, cap=None), 8, {}),
        (replace(_CAPPED, kind=Kind.COUNT), 8, {}),
        (
            Recipe(kind=Kind.RATIO, selections=(Selection((), source=ValueSource.ONE),), denominator=_BUY[0], cap=3.0),
            8,
            {},
        ),
    ],
)
def test_finer_units__unit_beside_the_totals_of_a_recipe__is_finer_where_a_limit_needs_it(
    recipe: Recipe, exponent: int, finer: dict[tuple[int, str], int]
) -> None:
    arm = _arm(squares=400_000, exponent=exponent)

    assert finer_units(_plan(recipe), _seen(arm, arm)) == finer


def test_finer_units__still_too_coarse__are_finer_once_more_side_by_side_and_then_no_more() -> None:
    once = _plan(_CAPPED).refined({(0, "x"): 60})
    both = _arm(squares=400_000, exponent=8, covariate_exponent=8)

    twice = finer_units(once, _seen(both))

    assert twice == {(0, "x"): 120, (0, "z"): 60}
    # The covariate alone may be refined further.
    thrice = finer_units(once.refined(twice), _seen(both))
    assert thrice == {(0, "x"): 120, (0, "z"): 120}
    assert finer_units(once.refined(thrice), _seen(both)) == {}


def test_finer_units__totals_all_zero__are_finer_beside_large_values_alone() -> None:
    def needed(exponent: int) -> bool:
        return bool(finer_units(_plan(_CAPPED), _seen(_arm(squares=0, exponent=exponent))))

    assert [needed(exponent) for exponent in (-50, -31, -20, 30)] == [False, False, True, True]


def test_finer_units__arm_of_small_totals_beside_a_large_one__is_judged_by_itself() -> None:
    large, small = _arm(squares=10**26, exponent=-10), _arm(squares=10, exponent=-10)

    assert finer_units(_plan(_CAPPED), _seen(large, large)) == {}
    assert finer_units(_plan(_CAPPED), _seen(large, small)) == {(0, "x"): 60}
    assert lost_of(_CAPPED, [large, small]) == Lost(numerator=False, covariate=False)


def test_finer_units__sums_of_some_day_that_would_not_fit__stay_as_they_are() -> None:
    arm = _arm(squares=400_000, exponent=8)
    passing = Sums(n=200, numerator_squares=Fraction(2) ** 150)

    found = finer_units(_plan(_CAPPED), _seen(replace(arm, daily=(DailySums(date(2026, 3, 1), passing),))))

    assert found == {}


def test_lost_of__units_too_coarse_for_a_limit__says_which_numbers() -> None:
    fine, coarse = _arm(squares=400_000, exponent=-40), _arm(squares=400_000, exponent=-40, covariate_exponent=8)

    assert lost_of(_CAPPED, [fine, fine]) == Lost(numerator=False, covariate=False)
    assert lost_of(_CAPPED, [fine, coarse]) == Lost(numerator=False, covariate=True)
    assert lost_of(replace(_CAPPED, cap=None), [coarse]) == Lost(numerator=False, covariate=False)
    # What is worth another look need not be wrong.
    rough = _arm(squares=400_000, exponent=-20)
    assert finer_units(_plan(_CAPPED), _seen(rough))
    assert lost_of(_CAPPED, [rough]) == Lost(numerator=False, covariate=False)
