"""When the largest value of an answer hides the values of some arm."""

from fractions import Fraction

import pytest

from app.results.rough_sums import are_rough, is_lost
from app.results.values import ArmObservations, Observations, Segment, ValueSums


def _arm(*values: int, unit: Fraction) -> ArmObservations:
    """Return an arm of users with one value each."""
    squares = Fraction(sum(value * value for value in values))
    return ArmObservations(
        exposed=10,
        sums=ValueSums(totals=Fraction(sum(values)), total_squares=squares, counts=len(values), unit=unit),
    )


_FINE, _COARSE, _COARSER = Fraction(1, 2**52), Fraction(1, 2**20), Fraction(1, 2**10)


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        ([_arm(50, 60, unit=_FINE), _arm(7, unit=_FINE)], False),
        ([_arm(2**41, unit=_COARSE), _arm(50, 60, unit=_COARSE)], True),
        ([_arm(2**41, 50, unit=_COARSE), _arm(2**40, unit=_COARSE)], False),
        # Nobody has a value there, so that none is hidden.
        ([_arm(2**41, unit=_COARSE), _arm(unit=_COARSE)], False),
        # All are 0, or were rounded to it.
        ([_arm(2**51, unit=_COARSER), _arm(0, 0, unit=_COARSER)], True),
        ([_arm(50, unit=_FINE), _arm(0, 0, unit=_FINE)], False),
    ],
)
def test_are_rough__beside_the_largest_value__by_each_arm_s_own(arms: list[ArmObservations], *, expected: bool) -> None:
    assert are_rough(Observations(arms=dict(enumerate(arms)))) is expected


def test_are_rough__values_of_a_segment__are_looked_at() -> None:
    large, small = _arm(2**41, unit=_COARSE), _arm(50, unit=_COARSE)
    segments = tuple(Segment(name, False, Observations(arms={0: arm})) for name, arm in (("a", large), ("b", small)))
    assert are_rough(Observations(arms={0: large}, segments=segments))


@pytest.mark.parametrize(("value", "expected"), [(900, True), (1100, False)])
def test_is_lost__values_of_some_thousand_million_units__decide(value: int, *, expected: bool) -> None:
    assert is_lost(_arm(value, value, unit=Fraction(1, 10**6)).sums) is expected
