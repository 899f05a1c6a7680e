"""Splitting users again and again at random, and testing halves that do not differ. Plain functions, no I/O."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol, TypeAlias

import numpy as np

from app.calibration.judging import Tested, judged
from app.calibration.values import (
    CalibrationResult,
    Column,
    Job,
)
from app.measurement.precision import Lost, lost_of
from app.measurement.values import ArmMeasured, Sums
from app.results.contrasts import contrast
from app.results.measured import Measured, MeasuredArm, Shape
from app.stats.quantiles import quantile_estimate, quantile_ranks
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, CovariateSample, MeanSample, Proportion, RatioSample, Sample

Numbers: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Indexes: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Bits: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Flags: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Progress: TypeAlias = Callable[[float], None]

# So many splits are summed together, over so many users at once: a few dozen megabytes, whatever the experiment.
_SPLITS_AT_ONCE = 32
_USERS_AT_ONCE = 65_536
_LOST = NullReason.PRECISION_LOST
# Where a ratio's sum of squares of denominators stands among its sums, and below which part of the whole one that of a
# half is little more than the rounding of the whole.
_DENOMINATOR_SQUARES = 3
_HIDDEN = 1e-9


@dataclass(frozen=True, slots=True)
class UserNumbers:
    """A metric's numerator and denominator of every user, (n,) each; shapes without a denominator have zeros.

    `covariate`: the number from before the exposure, (n,), where the metric is adjusted by one. The units are what
    values were rounded to multiples of; `None`: the numbers are exact.
    """

    numerator: Numbers
    denominator: Numbers
    covariate: Numbers | None = None
    unit: float | None = None
    denominator_unit: float | None = None
    covariate_unit: float | None = None


@dataclass(frozen=True, slots=True)
class UserValues:
    """The values that a quantile is taken of, ascending, (v,), and the user of each, (v,), counted from 0."""

    values: Numbers
    users: Indexes


@dataclass(frozen=True, slots=True)
class Users:
    """Every metric's numbers by user, and what each user is split with, (n,), counted from 0."""

    numbers: Sequence[UserNumbers | UserValues]
    units: Indexes

    @property
    def n_units(self) -> int:
        return int(self.units.max()) + 1 if len(self.units) else 0


def calibrate(job: Job, users: Users, progress: Progress = lambda _: None) -> CalibrationResult:
    """Split the users into two halves many times and test every metric each time, as results do.

    Each unit falls into a half by a fair coin of its own, as an assignment does. The same seed gives the same splits.
    """
    slots, width = _slots(job, users)
    totals = np.sum([_matrix(slots, len(users.units[some]), some).sum(axis=0) for some in _slices(users)], axis=0)
    found: list[list[Tested]] = [[] for _ in slots]
    for halves, coins in _halves(job, users, slots, width):
        for half, of_units in zip(halves, coins, strict=True):
            sides = of_units if users.n_units == len(users.units) else of_units[users.units]
            for own, slot in zip(found, slots, strict=True):
                own.append(slot.tested(half, totals, sides, 1 - job.alpha))
        progress(len(found[0]) / job.resplits)
    everybody = np.ones(len(users.units), dtype=np.uint8)
    return CalibrationResult(
        users=len(users.units),
        units=users.n_units,
        alpha=job.alpha,
        metrics=tuple(
            judged(slot.column, slot.arm(totals, everybody, 0.95).sample, own, job.alpha)
            for slot, own in zip(slots, found, strict=True)
        ),
        source=job.source,
        complete_until=job.complete_until,
    )


class _Slot(Protocol):
    """A metric, where its sums stand among those of a half, and how an arm is made from them."""

    column: Column
    width: int

    def columns(self, some: slice) -> list[Numbers]:
        """Return what is summed over some users, (users,) each."""
        ...

    def arm(self, sums: Numbers, sides: Bits, confidence: float) -> MeasuredArm:
        """Return the arm of the users with a 1 among the sides, whose sums these are."""
        ...

    def tested(self, half: Numbers, totals: Numbers, sides: Bits, confidence: float) -> Tested:
        """Test the half against the rest."""
        ...


class _Summed:
    """A metric whose test takes sums over users alone."""

    def __init__(self, column: Column, numbers: UserNumbers, start: int) -> None:
        self.column = column
        self._shape = Shape(column.shape)
        self._numbers = numbers
        self._start = start
        self.width = len(self.columns(slice(0, 0)))
        self._lost = lost_in(numbers)

    def columns(self, some: slice) -> list[Numbers]:
        x, y = self._numbers.numerator[some], self._numbers.denominator[some]
        match self._shape:
            case Shape.RATE:  # Of zeros and ones, which are their own squares.
                own = [x]
            case Shape.MEAN:
                own = [x, x * x]
            case _:
                own = [x, x * x, y, y * y, x * y]
        if self._numbers.covariate is None:
            return own
        z = self._numbers.covariate[some]
        return [*own, z, z * z, x * z]

    def arm(self, sums: Numbers, sides: Bits, confidence: float) -> MeasuredArm:
        del sides, confidence
        n = round(float(sums[0]))
        if self._lost.numbers:
            return MeasuredArm(sample=ArmEstimate(n=n, value=None, variance=None, null_reason=_LOST))
        own = [float(value) for value in sums[self._start : self._start + self.width]]
        return MeasuredArm(sample=self._sample(n, own), covariate=self._covariate(n, own))

    def tested(self, half: Numbers, totals: Numbers, sides: Bits, confidence: float) -> Tested:
        if self._lost.numbers or self._hides_denominators(half, totals):
            return Tested(null_reason=_LOST, adjusted_null_reason=_LOST)
        found = self._tested(half, totals, sides, confidence)
        return replace(found, adjusted_null_reason=_LOST) if self._lost.covariate else found

    def _hides_denominators(self, half: Numbers, totals: Numbers) -> bool:
        """Tell whether the denominators of a half are hidden by a far larger one in the other.

        A numerator that is far too large decides the difference, however little is left of the others. A denominator
        makes the ratio of its own half next to nothing, so that the other's decides.
        """
        if self._numbers.denominator_unit is None:
            return False
        squares, whole = (float(sums[self._start + _DENOMINATOR_SQUARES]) for sums in (half, totals))
        return min(squares, whole - squares) < _HIDDEN * whole

    def _tested(self, half: Numbers, totals: Numbers, sides: Bits, confidence: float) -> Tested:
        try:
            other, own = (self.arm(sums, sides, confidence) for sums in (totals - half, half))
        except ValueError:
            # A half without any value differs from the sum of all by nothing but the rounding of that.
            return Tested(null_reason=NullReason.OUT_OF_RANGE, adjusted_null_reason=NullReason.OUT_OF_RANGE)
        return _compared(self._shape, other, own, confidence)

    def _sample(self, n: int, own: Sequence[float]) -> Sample:
        match self._shape:
            case Shape.RATE:
                return Proportion(round(own[0]), n)
            case Shape.MEAN:
                return MeanSample.from_sums(n=n, sum_values=own[0], sum_squares=max(0.0, own[1]))
            case Shape.RATIO:
                return RatioSample.from_sums(
                    n=n,
                    num_sum=own[0],
                    num_sum_squares=max(0.0, own[1]),
                    den_sum=own[2],
                    den_sum_squares=max(0.0, own[3]),
                    num_den_sum_products=own[4],
                )
            case _:
                raise AssertionError(self._shape)

    def _covariate(self, n: int, own: Sequence[float]) -> CovariateSample | None:
        if self._numbers.covariate is None or self._lost.covariate:
            return None
        *_, pre, pre_squares, products = own
        return CovariateSample.from_sums(
            n=n,
            post_sum=own[0],
            post_sum_squares=own[0] if self._shape is Shape.RATE else max(0.0, own[1]),
            pre_sum=pre,
            pre_sum_squares=max(0.0, pre_squares),
            post_pre_sum_products=products,
        )


def lost_in(numbers: UserNumbers) -> Lost:
    """Tell what of a metric is lost where values were rounded beside a far larger one, of which a limit left little."""
    n = len(numbers.numerator)
    sides = [numbers.numerator, numbers.denominator, numbers.covariate]
    squares = [0.0 if side is None else float(side @ side) for side in sides]
    if not all(map(math.isfinite, squares)):
        # Values of such a size have no sums, which is said of these.
        return Lost(numbers=False, covariate=False)
    x, y, z = map(Fraction, squares)
    units = (numbers.unit, numbers.denominator_unit, numbers.covariate_unit)
    unit, denominator_unit, covariate_unit = (None if unit is None else Fraction(unit) for unit in units)
    return lost_of(
        ArmMeasured(
            sums=Sums(n=n, numerator_squares=x, denominator_squares=y, covariate_squares=z),
            # Who had none is not known; they would make the others' numbers larger.
            events=n,
            unit=unit,
            denominator_unit=denominator_unit,
            covariate_unit=covariate_unit,
        )
    )


class _Ordered:
    """A quantile, for which the values of a half have to be looked at in their order."""

    width = 0

    def __init__(self, column: Column, values: UserValues, users: int) -> None:
        self.column = column
        self._level = Fraction(*(column.quantile or (1, 2)))
        self._values = values.values
        self._owners = values.users
        self._sizes = np.bincount(values.users, minlength=users).astype(np.float64)

    def columns(self, some: slice) -> list[Numbers]:
        del some
        return []

    def arm(self, sums: Numbers, sides: Bits, confidence: float) -> MeasuredArm:
        del sums
        found = halved(self._values, self._owners, self._sizes, sides.astype(np.bool_), self._level, confidence)
        return MeasuredArm(sample=found)

    def tested(self, half: Numbers, totals: Numbers, sides: Bits, confidence: float) -> Tested:
        del totals
        other, own = (self.arm(half, kept, confidence) for kept in (1 - sides, sides))
        return _compared(Shape.QUANTILE, other, own, confidence)


def halved(
    values: Numbers, owners: Indexes, sizes: Numbers, kept: Flags, level: Fraction, confidence: float
) -> ArmEstimate:
    """Return the quantile of the values of the users that are kept, (n,), with users as clusters.

    values, owners: ascending, and the user of each. sizes: how many values every user has.
    """
    users = int(kept.sum())
    places = np.flatnonzero(kept[owners])
    count = len(places)
    if count == 0:
        reason = None if users else NullReason.EMPTY_ARM
        return ArmEstimate(n=users, value=None, variance=None, null_reason=reason)
    rank = level * (count - 1)
    first = rank.numerator // rank.denominator
    low, high = (Fraction(float(values[places[place]])) for place in (first, min(first + 1, count - 1)))
    below = places[: np.searchsorted(places, np.searchsorted(values, float(low), side="right"))]
    by_user = np.bincount(owners[below], minlength=len(sizes))
    own = sizes * kept
    ranks = quantile_ranks(
        level,
        users=int(np.count_nonzero(own)),
        values=count,
        below=len(below),
        below_squares=int(by_user @ by_user),
        value_squares=round(float(own @ own)),
        products=round(float(by_user @ own)),
        confidence=confidence,
    )
    lower, upper = (None if rank is None else float(values[places[rank - 1]]) for rank in (ranks.lower, ranks.upper))
    value = low + (high - low) * (rank - first)
    return quantile_estimate(value, users=users, lower=lower, upper=upper, confidence=confidence)


def _compared(shape: Shape, control: MeasuredArm, treatment: MeasuredArm, confidence: float) -> Tested:
    """Compare the halves by the very function that compares variants."""
    found = contrast(Measured(key="", shape=shape, arms={}), control, treatment, confidence)
    adjusted = found.adjusted
    return Tested(
        p_value=found.p_value,
        always_p_value=found.always_p_value,
        null_reason=found.null_reason,
        adjusted_p_value=adjusted.p_value,
        adjusted_null_reason=adjusted.null_reason,
        variance_ratio=adjusted.variance_ratio,
    )


def _slots(job: Job, users: Users) -> tuple[list[_Slot], int]:
    """Return the metrics, and how many sums a half has: the number of its users comes first."""
    slots: list[_Slot] = []
    start = 1
    for column, own in zip(job.columns, users.numbers, strict=True):
        slot: _Slot = (
            _Ordered(column, own, len(users.units)) if isinstance(own, UserValues) else _Summed(column, own, start)
        )
        slots.append(slot)
        start += slot.width
    return slots, start


def _slices(users: Users) -> Iterator[slice]:
    for start in range(0, len(users.units), _USERS_AT_ONCE):
        yield slice(start, start + _USERS_AT_ONCE)


def _matrix(slots: Sequence[_Slot], users: int, some: slice) -> Numbers:
    """Return what is summed over some users, (users, columns): ones first, then each metric's columns.

    Made anew each time, because for all users at once it would be most of the memory.
    """
    parts: list[Numbers] = [np.ones(users)]
    for slot in slots:
        parts += slot.columns(some)
    return np.column_stack(parts)


def _halves(job: Job, users: Users, slots: Sequence[_Slot], width: int) -> Iterator[tuple[Numbers, Bits]]:
    """Yield the sums over the users of one half, (splits, columns), and the units' sides, some splits at a time."""
    random = np.random.default_rng(job.seed)
    n_units, alone = users.n_units, users.n_units == len(users.units)
    for first in range(0, job.resplits, _SPLITS_AT_ONCE):
        splits = min(_SPLITS_AT_ONCE, job.resplits - first)
        coins = _coins(random, splits, n_units)
        sums = np.zeros((splits, width))
        for some in _slices(users):
            # Where every user is a unit, looking up which one would only take time.
            sides = coins[:, some] if alone else coins[:, users.units[some]]
            sums += sides.astype(np.float64) @ _matrix(slots, len(users.units[some]), some)
        yield sums, coins


def _coins(random: np.random.Generator, splits: int, n_units: int) -> Bits:
    width = (n_units + 7) // 8
    packed = np.frombuffer(random.bytes(splits * width), dtype=np.uint8).reshape(splits, width)
    return np.unpackbits(packed, axis=1, count=n_units)
