"""Splitting users again and again at random, and testing halves that do not differ. Plain functions, no I/O."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol, TypeAlias, TypeVar

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
from app.stats.exact import Number, exact, is_rounded
from app.stats.quantiles import quantile_estimate, quantile_ranks
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, CovariateSample, MeanSample, PairedSums, Proportion, RatioSample, Sample

Numbers: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Indexes: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Bits: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Flags: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Progress: TypeAlias = Callable[[float], None]

# So many splits are summed together, over so many users at once: a few dozen megabytes, whatever the experiment.
_SPLITS_AT_ONCE = 32
_USERS_AT_ONCE = 65_536
_LOST = NullReason.PRECISION_LOST
_BEYOND = NullReason.OUT_OF_RANGE
# Where a ratio's sums of denominators, and of their squares, stand among its sums.
_DENOMINATORS, _DENOMINATOR_SQUARES = 2, 3
# So many of a metric's users at most are summed apart, exactly, if a number of theirs is so many times the root of the
# sum of squares of all others'. Of smaller ones doubles leave the others' squares 9 digits.
_MOST_APART = 32
_FAR_LARGER = 1000.0

_Term = TypeVar("_Term", Numbers, Fraction)


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
    # The square of a value may be beyond doubles, and nothing times infinity is no number: such sums are not finite,
    # which is told of each of them.
    with np.errstate(over="ignore", invalid="ignore"):
        return _calibrated(job, users, progress)


def _calibrated(job: Job, users: Users, progress: Progress) -> CalibrationResult:
    slots, width = _slots(job, users)
    totals = np.sum([_matrix(slots, len(users.units[some]), some).sum(axis=0) for some in _slices(users)], axis=0)
    found: list[list[Tested]] = [[] for _ in slots]
    for halves, others, coins in _halves(job, users, slots, width):
        for half, other, of_units in zip(halves, others, coins, strict=True):
            sides = of_units if users.n_units == len(users.units) else of_units[users.units]
            for own, slot in zip(found, slots, strict=True):
                own.append(slot.tested(half, other, sides, 1 - job.alpha))
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

    def tested(self, half: Numbers, other: Numbers, sides: Bits, confidence: float) -> Tested:
        """Test the half, whose users have a 1 among the sides, against the other one."""
        ...


class _Summed:
    """A metric whose test takes sums over users alone."""

    def __init__(self, column: Column, numbers: UserNumbers, start: int) -> None:
        self.column = column
        self._shape = Shape(column.shape)
        self._numbers = numbers
        self._start = start
        self._lost = lost_in(numbers)
        self._apart = far_larger(numbers)
        self._exact = [self._exact_terms(user) for user in self._apart]
        self.width = len(self.columns(slice(0, 0)))

    def columns(self, some: slice) -> list[Numbers]:
        numbers, first = self._numbers, some.start
        x, y, z = numbers.numerator[some], numbers.denominator[some], numbers.covariate
        z = None if z is None else z[some]
        apart = self._apart[(self._apart >= first) & (self._apart < first + len(x))] - first
        if len(apart):
            x, y, z = _without(x, apart), _without(y, apart), None if z is None else _without(z, apart)
        return _terms(self._shape, x, y, z)

    def _exact_terms(self, user: int) -> list[Fraction]:
        x, y, z = self._numbers.numerator, self._numbers.denominator, self._numbers.covariate
        covariate = None if z is None else Fraction(float(z[user]))
        return _terms(self._shape, Fraction(float(x[user])), Fraction(float(y[user])), covariate)

    def arm(self, sums: Numbers, sides: Bits, confidence: float) -> MeasuredArm:
        del confidence
        return self._arm(sums, sides[self._apart])

    def _arm(self, sums: Numbers, kept: Bits) -> MeasuredArm:
        """Return the arm; kept: a 1 for each of the users apart who is in it."""
        n = round(float(sums[0]))
        if self._lost.numbers:
            return MeasuredArm(sample=ArmEstimate(n=n, value=None, variance=None, null_reason=_LOST))
        own = self._own(sums, kept)
        return MeasuredArm(sample=self._sample_or_reason(n, own), covariate=self._covariate(n, own))

    def _own(self, sums: Numbers, kept: Bits) -> list[Number]:
        """Return the metric's sums; as fractions where some of the users apart are among those summed."""
        own: list[Number] = [float(value) for value in sums[self._start : self._start + self.width]]
        for terms, is_kept in zip(self._exact, kept, strict=True):
            if is_kept:
                own = [
                    value if _is_beyond(value) else Fraction(value) + term
                    for value, term in zip(own, terms, strict=True)
                ]
        return own

    def tested(self, half: Numbers, other: Numbers, sides: Bits, confidence: float) -> Tested:
        kept = sides[self._apart]
        arms = (other, 1 - kept), (half, kept)
        if self._lost.numbers or any(self._hides_denominators(*one) for one in arms):
            return Tested(null_reason=_LOST, adjusted_null_reason=_LOST)
        control, treatment = (self._arm(*one) for one in arms)
        found = _compared(self._shape, control, treatment, confidence)
        if self._lost.covariate:
            return replace(found, adjusted_null_reason=_LOST)
        is_adjusted = control.covariate is not None and treatment.covariate is not None
        return found if is_adjusted or self._numbers.covariate is None else replace(found, adjusted_null_reason=_BEYOND)

    def _hides_denominators(self, sums: Numbers, kept: Bits) -> bool:
        """Tell whether the denominators of a half are lost in the rounding beside a far larger one in the other.

        A numerator that is far too large decides the difference, however little is left of the others. A denominator
        makes the ratio of its own half next to nothing, so that the other's decides.
        """
        unit = self._numbers.denominator_unit
        if unit is None or self._shape is not Shape.RATIO:
            return False
        squares = self._own(sums, kept)[_DENOMINATOR_SQUARES]
        if _is_beyond(squares):
            return False
        own = Sums(n=round(float(sums[0])), denominator_squares=Fraction(squares))
        return lost_of(ArmMeasured(sums=own, denominator_unit=Fraction(unit))).numbers

    def _sample_or_reason(self, n: int, own: Sequence[Number]) -> Sample:
        """Return the half's sample; where its sums are too large for one, its value alone, and the reason."""
        try:
            return self._sample(n, own)
        except ValueError:
            per = own[_DENOMINATORS] if self._shape is Shape.RATIO else n
            known = per != 0 and not _is_beyond(own[0]) and not _is_beyond(per)
            value = Fraction(own[0]) / Fraction(per) if known else None
            return ArmEstimate(n=n, value=value, variance=None, null_reason=_BEYOND)

    def _sample(self, n: int, own: Sequence[Number]) -> Sample:
        match self._shape:
            case Shape.RATE:
                return Proportion(round(own[0]), n)
            case Shape.MEAN:
                return _moments(n, own[0], own[1])
            case Shape.RATIO:
                return RatioSample(_paired(_moments(n, own[0], own[1]), _moments(n, own[2], own[3]), own[4]))
            case _:
                raise AssertionError(self._shape)

    def _covariate(self, n: int, own: Sequence[Number]) -> CovariateSample | None:
        if self._numbers.covariate is None or self._lost.covariate:
            return None
        *_, pre, pre_squares, products = own
        # Zeros and ones are their own squares.
        post_squares = own[0] if self._shape is Shape.RATE else own[1]
        try:
            return CovariateSample(_paired(_moments(n, own[0], post_squares), _moments(n, pre, pre_squares), products))
        except ValueError:
            # What was before the exposure may be too large for sums; the metric itself is not touched by that.
            return None


def _terms(shape: Shape, x: _Term, y: _Term, z: _Term | None) -> list[_Term]:
    """Return what of a numerator, a denominator and a covariate is summed over users."""
    own: list[_Term]
    match shape:
        case Shape.RATE:  # Of zeros and ones, which are their own squares.
            own = [x]
        case Shape.MEAN:
            own = [x, x * x]
        case _:
            own = [x, x * x, y, y * y, x * y]
    if z is not None:
        own += [z, z * z, x * z]
    return own


def _moments(n: int, total: Number, squares: Number) -> MeanSample:
    """Return a half's sample, whose sums have been rounded but for what users apart added to them."""
    found = MeanSample.from_sums(n=n, sum_values=total, sum_squares=squares)
    return found if found.rounded else replace(found, rounded=is_rounded(float(total)) or is_rounded(float(squares)))


def _paired(first: MeanSample, second: MeanSample, products: Number) -> PairedSums:
    """Join the moments of two values.

    A user of whom both are far larger may hide all others before an adjustment, and be next to nothing after it. With
    such a user's part in them exact, what is left of the sums is no noise, however small it is beside them.
    """
    is_exact = isinstance(products, Fraction)
    is_noisy = not is_exact and (first.rounded or second.rounded or is_rounded(products))
    return PairedSums(first=first, second=second, products=exact("products", products), rounded=is_noisy)


def far_larger(numbers: UserNumbers) -> Indexes:
    """Return the few users, ascending, of whom some number is so much larger than others' that doubles lose these."""
    sides = [side for side in (numbers.numerator, numbers.denominator, numbers.covariate) if side is not None]
    if not all(np.isfinite(side).all() for side in sides):
        # What is no number has no exact sum either.
        return np.zeros(0, dtype=np.int64)
    return np.unique(np.concatenate([_far_larger(side) for side in sides]))


def _far_larger(side: Numbers) -> Indexes:
    sizes = np.abs(side)
    largest = np.argpartition(sizes, -_MOST_APART)[-_MOST_APART:] if len(sizes) > _MOST_APART else np.arange(len(sizes))
    largest = largest[np.argsort(-sizes[largest])]
    found = sizes[largest]
    sizes[largest] = 0.0
    # The squares of all numbers that are smaller than each.
    below = float(sizes @ sizes) + np.append(np.cumsum(found[:0:-1] ** 2)[::-1], 0.0)
    (places,) = np.nonzero((below > 0) & (found > _FAR_LARGER * np.sqrt(below)))
    return largest[: places[-1] + 1 if len(places) else 0]


def _without(side: Numbers, users: Indexes) -> Numbers:
    left = side.copy()
    left[users] = 0.0
    return left


def _is_beyond(value: Number) -> bool:
    """Tell whether a sum was too large for a double."""
    return isinstance(value, float) and not math.isfinite(value)


def lost_in(numbers: UserNumbers) -> Lost:
    """Tell what of a metric is lost where values were rounded beside a far larger one, of which a limit left little."""
    n = len(numbers.numerator)
    x, x_unit = _squares(numbers.numerator, numbers.unit)
    y, y_unit = _squares(numbers.denominator, numbers.denominator_unit)
    z, z_unit = _squares(numbers.covariate, numbers.covariate_unit)
    return lost_of(
        ArmMeasured(
            sums=Sums(n=n, numerator_squares=x, denominator_squares=y, covariate_squares=z),
            # Who had none is not known; they would make the others' numbers larger.
            events=n,
            unit=x_unit,
            denominator_unit=y_unit,
            covariate_unit=z_unit,
        )
    )


def _squares(side: Numbers | None, unit: float | None) -> tuple[Fraction, Fraction | None]:
    """Return the sum of squares of a side, and its unit; none where values are too large to have such a sum."""
    squares = 0.0 if side is None else float(side @ side)
    if unit is None or not math.isfinite(squares):
        # That there is no such sum is said of it, and not that it is lost.
        return Fraction(0), None
    return Fraction(squares), Fraction(unit)


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

    def tested(self, half: Numbers, other: Numbers, sides: Bits, confidence: float) -> Tested:
        control, treatment = (self.arm(*one, confidence) for one in ((other, 1 - sides), (half, sides)))
        return _compared(Shape.QUANTILE, control, treatment, confidence)


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


def _halves(job: Job, users: Users, slots: Sequence[_Slot], width: int) -> Iterator[tuple[Numbers, Numbers, Bits]]:
    """Yield the sums over the users of one half and of the other, (splits, columns) each, and the units' sides.

    Both are summed user by user. What is left of the sum of all, once a half is taken off, would be nothing but the
    rounding of a value that is far larger than all others, if that half has it. Some splits come at a time.
    """
    random = np.random.default_rng(job.seed)
    n_units, alone = users.n_units, users.n_units == len(users.units)
    for first in range(0, job.resplits, _SPLITS_AT_ONCE):
        splits = min(_SPLITS_AT_ONCE, job.resplits - first)
        coins = _coins(random, splits, n_units)
        own, other = np.zeros((splits, width)), np.zeros((splits, width))
        for some in _slices(users):
            # Where every user is a unit, looking up which one would only take time.
            sides = (coins[:, some] if alone else coins[:, users.units[some]]).astype(np.float64)
            matrix = _matrix(slots, len(users.units[some]), some)
            own += sides @ matrix
            # In place, because the sides are the most of what is held here.
            other += np.subtract(1.0, sides, out=sides) @ matrix
        yield own, other, coins


def _coins(random: np.random.Generator, splits: int, n_units: int) -> Bits:
    width = (n_units + 7) // 8
    packed = np.frombuffer(random.bytes(splits * width), dtype=np.uint8).reshape(splits, width)
    return np.unpackbits(packed, axis=1, count=n_units)
