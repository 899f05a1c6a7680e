"""Splitting users again and again at random, and testing halves that do not differ. Plain functions, no I/O."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import special

from app.calibration.values import HISTOGRAM_BINS, CalibrationResult, Column, Job, MetricCalibration
from app.results.contrasts import contrast
from app.results.measured import Measured, MeasuredArm, Shape
from app.stats.reasons import NullReason
from app.stats.samples import MeanSample, Proportion, RatioSample, Sample

Numbers: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Indexes: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Bits: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Progress: TypeAlias = Callable[[float], None]

# So many splits are summed together, over so many users at once: a few dozen megabytes, whatever the experiment.
_SPLITS_AT_ONCE = 32
_USERS_AT_ONCE = 65_536
# How many columns are summed for a metric.
_WIDTHS = {Shape.RATE: 1, Shape.MEAN: 2, Shape.RATIO: 5}
# The probability that the rate of a test that keeps its level lies within the bounds.
_WITHIN = 0.99


@dataclass(frozen=True, slots=True)
class UserNumbers:
    """A metric's numerator and denominator of every user, (n,) each; shapes without a denominator have zeros."""

    numerator: Numbers
    denominator: Numbers


@dataclass(frozen=True, slots=True)
class Users:
    """Every metric's numbers by user, and what each user is split with, (n,), counted from 0."""

    numbers: Sequence[UserNumbers]
    units: Indexes

    @property
    def n_units(self) -> int:
        return int(self.units.max()) + 1 if len(self.units) else 0


def calibrate(job: Job, users: Users, progress: Progress = lambda _: None) -> CalibrationResult:
    """Split the users into two halves many times and test every metric each time, as results do.

    Each unit falls into a half by a fair coin of its own, as an assignment does. The same seed gives the same splits.
    """
    places = np.cumsum([1, *(_WIDTHS[Shape(column.shape)] for column in job.columns)])
    totals = np.sum([_matrix(job, users, some).sum(axis=0) for some in _slices(users)], axis=0)
    found: list[list[_Tested]] = [[] for _ in job.columns]
    for halves in _halves(job, users, int(places[-1])):
        for half in halves:
            other = totals - half
            for own, column, start in zip(found, job.columns, places, strict=False):
                own.append(_test(Shape(column.shape), half, other, int(start), 1 - job.alpha))
        progress(len(found[0]) / job.resplits)
    whole = [
        _sample(Shape(column.shape), totals, int(start)) for column, start in zip(job.columns, places, strict=False)
    ]
    return CalibrationResult(
        users=len(users.units),
        units=users.n_units,
        alpha=job.alpha,
        metrics=tuple(
            judged(column, sample, own, job.alpha)
            for column, sample, own in zip(job.columns, whole, found, strict=True)
        ),
    )


@dataclass(frozen=True, slots=True)
class _Tested:
    p_value: float | None
    always_p_value: float | None
    null_reason: str | None


def _slices(users: Users) -> Iterator[slice]:
    for start in range(0, len(users.units), _USERS_AT_ONCE):
        yield slice(start, start + _USERS_AT_ONCE)


def _matrix(job: Job, users: Users, some: slice) -> Numbers:
    """Return what is summed over some users, (users, columns): ones first, then each metric's columns.

    Made anew each time, because for all users at once it would be most of the memory.
    """
    parts: list[Numbers] = [np.ones(len(users.units[some]))]
    for column, own in zip(job.columns, users.numbers, strict=True):
        parts += _columns(Shape(column.shape), own.numerator[some], own.denominator[some])
    return np.column_stack(parts)


def _columns(shape: Shape, x: Numbers, y: Numbers) -> list[Numbers]:
    match shape:
        case Shape.RATE:
            return [x]
        case Shape.MEAN:
            return [x, x * x]
        case Shape.RATIO:
            return [x, x * x, y, y * y, x * y]
        case _:
            raise ValueError(f"{shape}: no sums over users give its test")


def _halves(job: Job, users: Users, width: int) -> Iterator[Numbers]:
    """Yield the sums over the users of one half, (splits, columns), some splits at a time."""
    random = np.random.default_rng(job.seed)
    n_units, alone = users.n_units, users.n_units == len(users.units)
    for first in range(0, job.resplits, _SPLITS_AT_ONCE):
        splits = min(_SPLITS_AT_ONCE, job.resplits - first)
        coins = _coins(random, splits, n_units)
        sums = np.zeros((splits, width))
        for some in _slices(users):
            # Where every user is a unit, looking up which one would only take time.
            sides = coins[:, some] if alone else coins[:, users.units[some]]
            sums += sides.astype(np.float64) @ _matrix(job, users, some)
        yield sums


def _coins(random: np.random.Generator, splits: int, n_units: int) -> Bits:
    width = (n_units + 7) // 8
    packed = np.frombuffer(random.bytes(splits * width), dtype=np.uint8).reshape(splits, width)
    return np.unpackbits(packed, axis=1, count=n_units)


def _sample(shape: Shape, sums: Numbers, start: int) -> Sample:
    n = round(float(sums[0]))
    values = [float(value) for value in sums[start : start + 5]]
    match shape:
        case Shape.RATE:
            return Proportion(round(values[0]), n)
        case Shape.MEAN:
            return MeanSample.from_sums(n=n, sum_values=values[0], sum_squares=max(0.0, values[1]))
        case _:
            return RatioSample.from_sums(
                n=n,
                num_sum=values[0],
                num_sum_squares=max(0.0, values[1]),
                den_sum=values[2],
                den_sum_squares=max(0.0, values[3]),
                num_den_sum_products=values[4],
            )


def _test(shape: Shape, half: Numbers, other: Numbers, start: int, confidence: float) -> _Tested:
    """Compare the halves by the very function that compares variants."""
    try:
        control, treatment = (MeasuredArm(sample=_sample(shape, sums, start)) for sums in (other, half))
    except ValueError:
        # A half without any value differs from the sum of all by nothing but the rounding of that.
        return _Tested(None, None, NullReason.OUT_OF_RANGE)
    found = contrast(Measured(key="", shape=shape, arms={}), control, treatment, confidence)
    return _Tested(found.p_value, found.always_p_value, found.null_reason)


def judged(column: Column, whole: Sample, tested: Sequence[_Tested], alpha: float) -> MetricCalibration:
    """Say whether the p-values are those of a test that keeps its level."""
    p_values = [one.p_value for one in tested if one.p_value is not None]
    reason = next((one.null_reason for one in tested if one.p_value is None), None)
    value = whole.estimate().value
    n, false = len(p_values), sum(p_value < alpha for p_value in p_values)
    lower, upper = bounds(n, alpha) if n else (None, None)
    rate = false / n if n else None
    always = [one.always_p_value for one in tested if one.always_p_value is not None]
    return MetricCalibration(
        metric=column.metric,
        version=column.version,
        value=None if value is None else float(value),
        resplits=len(tested),
        undefined=len(tested) - n,
        false_positives=false,
        false_positive_rate=rate,
        always_valid_false_positive_rate=sum(p < alpha for p in always) / len(always) if always else None,
        lower=lower,
        upper=upper,
        inside=None if rate is None or lower is None or upper is None else lower <= rate <= upper,
        p_value_histogram=histogram(p_values),
        ks_p_value=uniformity(p_values) if n else None,
        null_reason=None if n else reason,
    )


def bounds(n: int, alpha: float, within: float = _WITHIN) -> tuple[float, float]:
    """Return the quantiles of the share of n tests that find something, if each does so with probability alpha.

    Source: the binomial distribution's own quantiles, half of what is outside to either side.
    """
    below = np.asarray(special.bdtr(np.arange(n + 1), n, alpha), dtype=np.float64)
    tail = (1 - within) / 2
    return float(np.searchsorted(below, tail)) / n, min(1.0, float(np.searchsorted(below, 1 - tail)) / n)


def histogram(p_values: Sequence[float]) -> tuple[int, ...]:
    """Count the p-values in each of the bins of equal width between 0 and 1; 1 itself belongs into the last one."""
    counts = [0] * HISTOGRAM_BINS
    for p_value in p_values:
        counts[min(HISTOGRAM_BINS - 1, int(p_value * HISTOGRAM_BINS))] += 1
    return tuple(counts)


def uniformity(p_values: Sequence[float]) -> float:
    """Return the p-value of the hypothesis that the p-values are uniform, by Kolmogorov and Smirnov's distance.

    Source: Stephens, "Use of the Kolmogorov-Smirnov, Cramer-von Mises and related statistics without extensive tables"
    (J. R. Statist. Soc. B 32, 1970), section 3: the limiting distribution at D (sqrt(n) + 0.12 + 0.11 / sqrt(n)).
    """
    ordered, n = np.sort(np.asarray(p_values)), len(p_values)
    above = float((np.arange(1, n + 1) / n - ordered).max())
    below = float((ordered - np.arange(n) / n).max())
    root = math.sqrt(n)
    return float(special.kolmogorov(max(above, below) * (root + 0.12 + 0.11 / root)))
