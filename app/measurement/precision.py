"""Whether rounding hides an arm's numbers, and how these are measured once more. Plain values, no I/O.

Values are counted in units that suit the largest one of all arms. An arm without such a value may have little of its
own left then; so may every arm where totals are capped or winsorized, because the largest value hardly counts there.
Arms of the first kind are measured once more without the others, in units that suit their own largest value. Where that
is no help, because totals are limited or a large value was taken back, units are finer than the largest value lets them
be.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from app.measurement.plan import PIECE_BITS, Finer, Measure, Plan
from app.measurement.values import ArmMeasured, Measured, Sums

# Where an arm's root mean square total is not so many units, numbers that are shown are wrong: each event is rounded by
# up to half a unit. Beyond it they are right to about a part in 10**9.
COARSE = 10**9
# Where it is not so many, another look is worth it; ordinary values are far from that.
ROUGH = 10**10
# The same where all totals are 0, by their values or by rounding: the unit of ordinary values is far below.
_COARSE_BESIDE_NOTHING = Fraction(1, 10**9)
# On a day of a series nobody may have done anything yet, and its units are not made finer: what rounds to 0 there has
# to be as large as values commonly are.
_COARSE_ON_A_DAY_OF_NOTHING = Fraction(1)
# Beyond that, totals of the largest value would not fit 256 bits: 62 bits of the value, and 38 of the number of events.
_MOST_FINER_BITS = 2 * PIECE_BITS
# Sums of squares below this many units squared fit 256 bits in units of the next piece, whatever rounding has hidden,
# with a limit or without one. Of at most 2**38 events each is rounded by half a unit at most, so that the root of the
# users' squares, which is a length, is 2**37 units longer than it was seen to be at most: (2**65 + 2**37)**2 units
# squared are less than 2**131, and less than 2**251 of the next piece's. A sum of products is at most the root of two
# such sums, multiplied. What a day adds is the difference of two sums that fit; those in between may wrap around,
# because what is added to them brings them back. Units that suit the largest value need no such bound: its square has
# 124 bits, and 2**38 events make that 200 at most, wherever they are.
_MOST_SQUARES = 2**130
# How often a metric is measured once more because of what came of the last time: with fewer arms, or twice in finer
# units. Arms of four sizes that hide each other are more than come of mistakes; those beyond are without a number.
MOST_LOOKS = 5


@dataclass(frozen=True, slots=True)
class Lost:
    """Whether an arm's numbers, or those from before the exposure, are lost in the rounding of far larger values."""

    numbers: bool
    covariate: bool


def lost_of(arm: ArmMeasured) -> Lost:
    """Tell what of a metric is lost in an arm, however often it was measured."""
    x, y, z = (_Seen.of(arm, side).has_not(COARSE, _COARSE_BESIDE_NOTHING) for side in "xyz")
    return Lost(numbers=x or y, covariate=z)


def are_lost_on_a_day(arm: ArmMeasured, sums: Sums) -> bool:
    """Tell whether an arm's numbers at the end of a day are lost beside those that came later.

    sums: those of the day.
    """
    return any(_Seen.on(arm, sums, side).has_not(COARSE, _COARSE_ON_A_DAY_OF_NOTHING) for side in "xy")


def once_more(plan: Plan, seen: Measured) -> Sequence[Plan]:
    """Return the plans by which metrics are measured once more, all of their arms or some; none: all is well.

    Every arm is to be right by itself, however large the totals of others are: arms may be cells of a breakdown.

    seen: what was measured by the plan, in its units.
    """
    finer: dict[tuple[int, str], int] = {}
    apart: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for measure in plan.measures:
        arms = seen.metrics[measure.key]
        rough = [variant_id for variant_id, arm in arms.items() if _rough_sides(measure, [arm])]
        if measure.is_limited or len(rough) == len(arms):
            # What totals are cut at is of all arms, and others would not be measured otherwise without each other.
            finer |= _finer(measure, list(arms.values()))
        elif rough:
            apart[tuple(sorted(rough))].append(measure.index)
    refined = [plan.refined(finer)] if finer else []
    return refined + [plan.only(indexes).among(arms) for arms, indexes in apart.items()]


def repeated(plan: Plan, seen: Measured) -> Sequence[Plan]:
    """Return the plans besides this one by which metrics were measured, each after those that it takes the place of.

    Of metrics that one without arms of its own is about, all arms were measured once more.

    seen: what came of all of them.
    """
    found: dict[tuple[int, ...], dict[int, Mapping[str, int]]] = defaultdict(dict)
    for measure in plan.measures:
        for arm in seen.metrics.get(measure.key, {}).values():
            finer = {side: bits for side in "xyz" if (bits := _finer_by(arm, side))}
            if finer or arm.among:
                found[arm.among][measure.index] = finer
    # Whom a plan is about are some of those whom an earlier one was about; none stands for all.
    ordered = sorted(found.items(), key=lambda one: -len(one[0]) if one[0] else -float("inf"))
    return [
        plan.only(metrics)
        .among(arms)
        .with_units({(index, side): bits for index, finer in metrics.items() for side, bits in finer.items()})
        for arms, metrics in ordered
    ]


def units_of(plan: Plan, seen: Measured) -> Finer:
    """Return the units, by how much finer they are, in which metrics came to be measured that no arm was taken out of.

    seen: what came of the plan, and of those by which metrics were measured once more.
    """
    return {
        (measure.index, side): bits
        for again in repeated(plan, seen)
        for measure in again.measures
        for side, bits in measure.finer.items()
    }


def are_fewer_than(units: int, unit: Fraction, n: int, squares: Fraction) -> bool:
    """Tell whether the root mean square of `n` numbers, whose sum of squares is given, is less than so many units."""
    # squares < n (units * unit)**2, without fractions, whose products are slow.
    return squares.numerator * unit.denominator**2 < n * (units * unit.numerator) ** 2 * squares.denominator


@dataclass(frozen=True, slots=True)
class _Seen:
    """One side of a metric in one arm: its unit, users who may have a number other than 0, and sum of squares."""

    unit: Fraction | None
    n: int
    squares: Fraction

    @classmethod
    def of(cls, arm: ArmMeasured, side: str) -> "_Seen":
        seen = cls.on(arm, arm.sums, side)
        # Of the others nothing is rounded.
        return replace(seen, n=min(seen.n, arm.events)) if side == "x" else seen

    @classmethod
    def on(cls, arm: ArmMeasured, sums: Sums, side: str) -> "_Seen":
        """Return what was seen at the end of a day, whose sums are given."""
        units = {"x": arm.unit, "y": arm.denominator_unit, "z": arm.covariate_unit}
        return cls(units[side], sums.n, _squares(sums, side))

    def has_not(self, units: int, beside_nothing: Fraction) -> bool:
        """Tell whether the root mean square total is less than so many units; where it is 0, whether one is large."""
        if self.unit is None or not self.n:
            return False
        if not self.squares:
            return self.unit > beside_nothing
        return are_fewer_than(units, self.unit, self.n, self.squares)


def _squares(sums: Sums, side: str) -> Fraction:
    return {"x": sums.numerator_squares, "y": sums.denominator_squares, "z": sums.covariate_squares}[side]


def _finer_by(arm: ArmMeasured, side: str) -> int:
    return {"x": arm.finer, "y": arm.denominator_finer, "z": arm.covariate_finer}[side]


def _rough_sides(measure: Measure, arms: Sequence[ArmMeasured]) -> Sequence[str]:
    """Return the sides whose unit is too large for some of the arms."""
    return [
        side
        for side in measure.refinable
        if any(_Seen.of(arm, side).has_not(ROUGH, _COARSE_BESIDE_NOTHING) for arm in arms)
    ]


def _finer(measure: Measure, arms: Sequence[ArmMeasured]) -> Finer:
    """Return by how much finer the metric's units are to be than they are; nothing where they are to stay."""
    finer = [
        side
        for side in _rough_sides(measure, arms)
        if measure.finer_by(side) < _MOST_FINER_BITS and all(_fits(arm, side) for arm in arms)
    ]
    if not finer:
        return {}
    bits = {side: measure.finer_by(side) + (PIECE_BITS if side in finer else 0) for side in measure.refinable}
    return {(measure.index, side): bits[side] for side in bits if bits[side]}


def _fits(arm: ArmMeasured, side: str) -> bool:
    """Tell whether sums of squares, at the end of any day, fit in units of the next piece."""
    every = (arm.sums, *(day.sums for day in arm.daily))
    unit = _Seen.on(arm, arm.sums, side).unit
    return unit is None or max(_squares(sums, side) for sums in every) < _MOST_SQUARES * unit**2
