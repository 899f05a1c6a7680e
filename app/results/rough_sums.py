"""Whether the largest value of an answer hides the values of some arm. Plain functions, no I/O.

What is observed of values is rounded to whole multiples of a unit that suits the largest value of all arms. An arm
without such a value may have no number of its own left then, although nothing in it is out of the ordinary.
"""

from collections.abc import Iterator
from fractions import Fraction

from app.measurement.precision import COARSE, ROUGH, are_fewer_than
from app.results.values import ArmObservations, Observations, ValueSums

# Where all totals are 0, by their values or by rounding, what is less than this may be lost.
_NOTHING = Fraction(1, 10**6)


def are_rough(seen: Observations) -> bool:
    """Tell whether the values of an arm, or of a segment's, are worth another look in finer units."""
    return any(_has_not(ROUGH, arm.sums) for arm in _arms(seen))


def is_lost(sums: ValueSums) -> bool:
    """Tell whether an arm's values are too small for the unit that they were rounded to."""
    return _has_not(COARSE, sums)


def _arms(seen: Observations) -> Iterator[ArmObservations]:
    yield from seen.arms.values()
    for segment in seen.segments:
        yield from segment.observations.arms.values()


def _has_not(units: int, sums: ValueSums) -> bool:
    """Tell whether the root mean square of an arm's values, if it has any, is less than so many units."""
    if not sums.counts:
        return False
    if not sums.total_squares:
        return sums.unit > _NOTHING
    return are_fewer_than(units, sums.unit, sums.counts, sums.total_squares)
