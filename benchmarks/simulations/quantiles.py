"""Quantiles of values that come from users, one or several from each."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
from scipy import stats

from app.stats.comparisons import compare
from app.stats.distributions import Alternative, Distribution
from app.stats.quantiles import quantile_estimate, quantile_ranks
from app.stats.samples import ArmEstimate
from benchmarks.simulations.cells import Cell, Promise, Table, chain, counted, misses, percent, rejects, stream
from benchmarks.simulations.means import replicates
from benchmarks.simulations.populations import Values
from benchmarks.simulations.sizes import Size

_ALPHA = 0.05
_LEVELS = (Fraction(1, 2), Fraction(19, 20))
# Values beyond the quantile, on the side where there are fewer.
_FEW_BEYOND = 20
_FEW = "few values beyond the quantile: their number takes few likely values, and the interval is one of whole ranks"
# The standard error comes from the length of one interval; with fewer values inside, that is itself too uncertain.
_ENOUGH_INSIDE = 150
_ROUGH_LENGTH = "rough length: the standard error comes from one interval with few values in it, itself uncertain"
# The part of a value that is the user's own, and of one that is not, have the same variance.
_DEVIATION = 2.0**0.5
_VALUES_PER_USER = 8.0

Drawn = tuple[Values, Values]
Draw = Callable[[np.random.Generator, int], Drawn]


def studies(size: Size, seed: int) -> Iterator[Table]:
    """Simulate values that are independent, and values of which each user has several that are alike."""
    columns = ("values", "quantile", "users per arm")
    yield Table(
        title="Quantiles",
        says="Intervals of one arm's quantile without the true one: an outer interval, so at most the promised share.",
        columns=columns,
        cells=chain(_cells(seed, size, name, n, of_one=True) for name in _DRAWS for n in size.units),
    )
    yield Table(
        title="Differences of quantiles, A/A",
        says="False positives of the comparison of two arms, whose standard errors come from the intervals.",
        columns=columns,
        cells=chain(_cells(seed, size, name, n, of_one=False) for name in _DRAWS for n in size.units),
    )


def _one_each(rng: np.random.Generator, n: int) -> Drawn:
    """Return the users' numbers and their values, one of each."""
    return np.arange(n, dtype=np.float64), _DEVIATION * rng.standard_normal(n)


def _several_each(rng: np.random.Generator, n: int) -> Drawn:
    """Return the number of the user of each value, and the values; a user has 1 to 7, of correlation 1/2."""
    users = np.repeat(np.arange(n), rng.integers(1, 8, n))
    own = rng.standard_normal(n)
    return users.astype(np.float64), own[users] + rng.standard_normal(len(users))


_DRAWS: dict[str, Draw] = {"one per user": _one_each, "1 to 7 per user": _several_each}


def _cells(seed: int, size: Size, name: str, n: int, *, of_one: bool) -> Iterator[Cell]:
    rng = stream(seed, "quantiles", name, n, of_one)
    wrong: dict[Fraction, list[bool | None]] = {level: [] for level in _LEVELS}
    for _ in range(replicates(size, n, _VALUES_PER_USER) // 2):
        arms = [_DRAWS[name](rng, n) for _ in range(1 if of_one else 2)]
        for level, answers in wrong.items():
            answers.append(_misses_one(arms[0], level) if of_one else _differs(arms[0], arms[1], level))
    for level, answers in wrong.items():
        yield counted(
            "order statistics" if of_one else "difference",
            (name, percent(float(level)), f"{n:,}"),
            answers,
            promised=_ALPHA,
            promise=Promise.AT_MOST,
            weakness=_weakness(n, float(level), of_one=of_one),
        )


def _weakness(n: int, level: float, *, of_one: bool) -> str | None:
    if n * min(level, 1.0 - level) < _FEW_BEYOND:
        return _FEW
    # A 95 % interval is four standard errors long.
    inside = 4.0 * math.sqrt(n * level * (1.0 - level))
    return _ROUGH_LENGTH if inside < _ENOUGH_INSIDE and not of_one else None


def _misses_one(drawn: Drawn, level: Fraction) -> bool | None:
    truth = _DEVIATION * float(stats.norm.ppf(float(level)))
    _, lower, upper = _interval(drawn, level)
    return misses(lower, upper, truth)


def _differs(control: Drawn, treatment: Drawn, level: Fraction) -> bool | None:
    arms = _estimate(control, level), _estimate(treatment, level)
    comparison = compare(
        *arms, confidence=1.0 - _ALPHA, alternative=Alternative.TWO_SIDED, distribution=Distribution.NORMAL
    )
    return rejects(comparison.p_value, _ALPHA)


def _estimate(drawn: Drawn, level: Fraction) -> ArmEstimate:
    found, lower, upper = _interval(drawn, level)
    return quantile_estimate(Fraction(found), users=int(drawn[0][-1]) + 1, lower=lower, upper=upper)


def _interval(drawn: Drawn, level: Fraction) -> tuple[float, float | None, float | None]:
    """Return the sample's quantile and its interval, from counts by user."""
    users, values = drawn
    found = float(np.quantile(values, float(level)))
    of_user = users.astype(np.int64)
    each, below = np.bincount(of_user), np.bincount(of_user, weights=values <= found).astype(np.int64)
    ranks = quantile_ranks(
        level,
        users=len(each),
        values=len(values),
        below=int(below.sum()),
        below_squares=int(below @ below),
        value_squares=int(each @ each),
        products=int(below @ each),
        confidence=1.0 - _ALPHA,
    )
    ordered = np.sort(values)
    lower = None if ranks.lower is None else float(ordered[ranks.lower - 1])
    upper = None if ranks.upper is None else float(ordered[ranks.upper - 1])
    return found, lower, upper
