"""Whether rounding hides what limits leave of the values, and which units are to be finer. Plain values, no I/O.

Values are counted in units that suit the largest one. Where totals are capped or winsorized, that one hardly counts,
and the unit may be large beside all that does. Metrics of which that is so are measured once more, in finer units.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from app.measurement.plan import PIECE_BITS, Finer, Measure, Plan
from app.measurement.values import ArmMeasured, Measured, Sums
from app.metrics.values import Recipe

# Where the users' root mean square total is not so many units, numbers that are shown are wrong.
_COARSE = 10**7
# Where it is not so many, another look is worth it; ordinary values are far from that.
_ROUGH = 10**10
# The same where all totals are 0, by their values or by rounding: the unit of ordinary values is far below.
_COARSE_BESIDE_NOTHING = Fraction(1, 10**9)
# Beyond that, totals of the largest value would not fit 256 bits: 62 bits of the value, and 38 of the number of events.
_MOST_FINER_BITS = 2 * PIECE_BITS
# Sums of squares below this many units squared fit 256 bits in units of the next piece, whatever rounding has hidden.
_MOST_SQUARES = 2**130


@dataclass(frozen=True, slots=True)
class Lost:
    """Whether the numbers, or those from before the exposure, are lost in the rounding of far larger values."""

    numerator: bool
    covariate: bool


def lost_of(recipe: Recipe, arms: Sequence[ArmMeasured]) -> Lost:
    """Tell what is lost of a metric in arms that are read together.

    Without a limit nothing is: the largest value dominates the mean and its variance then.
    """
    if recipe.cap is None and recipe.winsorize is None:
        return Lost(numerator=False, covariate=False)
    return Lost(
        numerator=_has_not(_COARSE, [_Seen.of(arm, "x") for arm in arms]),
        covariate=_has_not(_COARSE, [_Seen.of(arm, "z") for arm in arms]),
    )


def finer_units(plan: Plan, seen: Measured) -> Finer:
    """Return which of the plan's metrics are to be measured once more, and in which units; none: all is well.

    Every arm is to be right by itself, however large the totals of others are: arms may be cells of a breakdown.

    seen: what was measured by the plan, in its units.
    """
    found: dict[tuple[int, str], int] = {}
    for measure in plan.measures:
        arms = list(seen.metrics[measure.key].values())
        rough = {side for side in measure.refinable if _is_worth_it(measure, side, arms)}
        if rough:
            bits = {side: measure.finer_by(side) + (PIECE_BITS if side in rough else 0) for side in measure.refinable}
            found |= {(measure.index, side): bits[side] for side in bits if bits[side]}
    return found


@dataclass(frozen=True, slots=True)
class _Seen:
    """One side of a metric in one arm: its unit, users, and sum of squares."""

    unit: Fraction | None
    n: int
    squares: Fraction

    @classmethod
    def of(cls, arm: ArmMeasured, side: str) -> "_Seen":
        unit = arm.unit if side == "x" else arm.covariate_unit
        return cls(unit, arm.sums.n, _squares(arm.sums, side))


def _squares(sums: Sums, side: str) -> Fraction:
    return sums.numerator_squares if side == "x" else sums.covariate_squares


def _is_worth_it(measure: Measure, side: str, arms: Sequence[ArmMeasured]) -> bool:
    """Tell whether a unit is too large for some arms, and a finer one does not make sums too large for others."""
    if measure.finer_by(side) >= _MOST_FINER_BITS:
        return False
    is_rough = any(_has_not(_ROUGH, [_Seen.of(arm, side)]) for arm in arms)
    return is_rough and all(_fits(arm, side) for arm in arms)


def _fits(arm: ArmMeasured, side: str) -> bool:
    """Tell whether sums of squares, at the end of any day, fit in units of the next piece."""
    unit = _Seen.of(arm, side).unit
    every = (arm.sums, *(day.sums for day in arm.daily))
    return unit is None or max(_squares(sums, side) for sums in every) < _MOST_SQUARES * unit**2


def _has_not(units: int, arms: Sequence[_Seen]) -> bool:
    """Tell whether the root mean square total of all users is less than so many units."""
    unit = max((arm.unit for arm in arms if arm.unit is not None), default=None)
    if unit is None:
        return False
    squares = sum((arm.squares for arm in arms), Fraction(0))
    if not squares:
        return unit > _COARSE_BESIDE_NOTHING
    # squares < n (units * unit)**2, without fractions, whose products are slow.
    n = sum(arm.n for arm in arms)
    return squares.numerator * unit.denominator**2 < n * (units * unit.numerator) ** 2 * squares.denominator
