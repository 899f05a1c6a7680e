"""Whether the largest value of an answer hides the values of some arm. Plain functions, no I/O.

What is observed of values is rounded to whole multiples of a unit that suits the largest value of all arms. An arm
without such a value may have no number of its own left then, although nothing in it is out of the ordinary.
"""

from collections.abc import Iterator
from fractions import Fraction

from app.results.values import ArmObservations, Observations, ValueSums

# In so many units the root mean square value of an arm is known to more than a sum of doubles is.
_ENOUGH = 10**10
# The same where all totals are 0, by their values or by rounding: the unit of ordinary values is far below.
_ENOUGH_BESIDE_NOTHING = Fraction(1, 10**9)


def are_rough(seen: Observations) -> bool:
    """Tell whether the values of an arm, or of a segment's, are too small for the unit that they were rounded to."""
    return any(_is_rough(arm.sums) for arm in _arms(seen))


def _arms(seen: Observations) -> Iterator[ArmObservations]:
    yield from seen.arms.values()
    for segment in seen.segments:
        yield from segment.observations.arms.values()


def _is_rough(sums: ValueSums) -> bool:
    if not sums.counts:
        return False
    if not sums.total_squares:
        return sums.unit > _ENOUGH_BESIDE_NOTHING
    return sums.total_squares < sums.counts * (_ENOUGH * sums.unit) ** 2
