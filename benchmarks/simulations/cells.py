"""One figure of a simulation beside the one that was promised, with the bounds that chance leaves to it."""

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import stats

# Both bounds together leave out one true figure in a thousand.
_TAIL = 0.0005
_Z_TAIL = float(stats.norm.isf(_TAIL))


class Promise(StrEnum):
    """What a method says about the figure: that it is the promised one, or on one side of it."""

    EXACTLY = "exactly"
    AT_MOST = "at most"
    AT_LEAST = "at least"


class Verdict(StrEnum):
    """Where the measured figure lies."""

    INSIDE = "inside"
    BELOW = "below"
    ABOVE = "above"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A measured share with the promised one and the 99.9 % bounds around the latter.

    `setting` has one entry per column of its table. `exact` is the share by summing over all outcomes, where
    that is possible. `weakness` says, before anything is simulated, why the method may miss its promise here.
    """

    method: str
    setting: tuple[str, ...]
    replicates: int
    measured: float
    promised: float
    low: float
    high: float
    unanswered: float = 0.0
    exact: float | None = None
    weakness: str | None = None

    @property
    def verdict(self) -> Verdict:
        if self.measured < self.low:
            return Verdict.BELOW
        return Verdict.ABOVE if self.measured > self.high else Verdict.INSIDE

    @property
    def agrees_with_exact(self) -> bool:
        """Say whether the simulation found the exact share, if that is known, within its own chance."""
        if self.exact is None:
            return True
        low, high = binomial_bounds(self.exact, self.replicates)
        return low <= self.measured <= high


def binomial_bounds(share: float, replicates: int) -> tuple[float, float]:
    """Return the 99.9 % bounds of an observed share."""
    low, high = (float(stats.binom.ppf(tail, replicates, min(share, 1.0))) for tail in (_TAIL, 1.0 - _TAIL))
    return low / replicates, high / replicates


def counted(
    method: str,
    setting: tuple[str, ...],
    answers: Sequence[bool | None],
    *,
    promised: float,
    promise: Promise = Promise.EXACTLY,
    exact: float | None = None,
    weakness: str | None = None,
) -> Cell:
    """Return the share of True among the answers; None, no answer at all, counts as not True."""
    replicates = len(answers)
    low, high = binomial_bounds(promised, replicates)
    return Cell(
        method=method,
        setting=setting,
        replicates=replicates,
        measured=sum(answer is True for answer in answers) / replicates,
        promised=promised,
        low=0.0 if promise is Promise.AT_MOST else low,
        high=1.0 if promise is Promise.AT_LEAST else high,
        unanswered=sum(answer is None for answer in answers) / replicates,
        exact=exact,
        weakness=weakness,
    )


def averaged(
    method: str,
    setting: tuple[str, ...],
    values: Sequence[float],
    *,
    promised: float,
    promise: Promise = Promise.EXACTLY,
    slack: float = 0.0,
    weakness: str | None = None,
) -> Cell:
    """Return the mean of the values, with bounds by its own standard error.

    slack: how far the promise itself, a limit for many units, may be off at this size.
    """
    reach = _Z_TAIL * float(np.std(values, ddof=1)) / math.sqrt(len(values)) + slack
    return Cell(
        method=method,
        setting=setting,
        replicates=len(values),
        measured=float(np.mean(values)),
        promised=promised,
        low=-math.inf if promise is Promise.AT_MOST else promised - reach,
        high=math.inf if promise is Promise.AT_LEAST else promised + reach,
        weakness=weakness,
    )


def between(
    method: str, setting: tuple[str, ...], *, replicates: int, measured: float, promised: float, reach: float
) -> Cell:
    """Return a figure whose chance is known in theory: its logarithm has `reach` as standard error."""
    factor = math.exp(_Z_TAIL * reach)
    return Cell(
        method=method,
        setting=setting,
        replicates=replicates,
        measured=measured,
        promised=promised,
        low=promised / factor,
        high=promised * factor,
    )


def misses(lower: float | None, upper: float | None, truth: float) -> bool | None:
    """Say whether an interval leaves out the truth; None where there is no interval."""
    if lower is None or upper is None:
        return None
    return not lower <= truth <= upper


def rejects(p_value: float | None, alpha: float) -> bool | None:
    """Say whether a test rejects; None where there is no test."""
    return None if p_value is None else p_value < alpha


def stream(seed: int, *words: object) -> np.random.Generator:
    """Return the random numbers of one setting, which no other setting and no order of the settings changes."""
    return np.random.default_rng([seed, *(zlib.crc32(str(word).encode()) for word in words)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The cells of one study; `columns` name what a setting consists of."""

    title: str
    says: str
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A table of figures that promise nothing."""

    title: str
    says: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def percent(share: float, digits: int = 1) -> str:
    """Write a share as a percentage without needless zeros: 0.001 as 0.1 %."""
    text = f"{100.0 * share:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + " %"


def chain(parts: Iterable[Iterable[Cell]]) -> tuple[Cell, ...]:
    """Return the cells of all the parts, in their order."""
    return tuple(cell for part in parts for cell in part)
