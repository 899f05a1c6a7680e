"""Group-sequential bounds: a fixed number of planned looks, between which the error is spent by a function of time.

Under the null hypothesis the score process is a Brownian motion in information time, so that the z statistic of
look k at information fraction t is B(t) / sqrt(t). The bounds are found look by look from the density of the paths
that have not crossed one before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy import special

from app.stats.checks import check_open_unit
from app.stats.distributions import Alternative, normal_isf, normal_sf
from app.stats.roots import crossing

_Array = npt.NDArray[np.float64]

# Closer looks than this share of the whole information learn next to nothing, and would take ever finer panels.
_CLOSEST_LOOKS = 0.001
# Fractions such as 0.001, 0.002, 0.003 rise by a last digit less than they say.
_ROUNDING = 1e-12
_MOST_LOOKS = 100
# A bound that is never reached in practice, where a look may spend next to nothing.
_HIGHEST_BOUND = 20.0
# Beyond this many standard deviations a path is as good as impossible.
_FARTHEST = 9.0
# A panel of that many steps is integrated by its nodes to the last digits.
_STEPS_PER_PANEL = 2.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


class Spending(StrEnum):
    """How much of the error may be spent by which share of the information."""

    OBRIEN_FLEMING = "obrien_fleming"  # Next to nothing early: 2 - 2 Phi(z_(alpha/2) / sqrt(t)).
    POCOCK = "pocock"  # About alike at each look: alpha log(1 + (e - 1) t).


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look: stop where the z statistic is at or beyond `bound` (its magnitude, for a two-sided test).

    `spent` is the error spent up to and including this look, `nominal_p` the p-value that corresponds to the bound
    if it were the only look.
    """

    information: float
    bound: float
    spent: float
    nominal_p: float


def spent(information: float, *, alpha: float = 0.05, spending: Spending = Spending.OBRIEN_FLEMING) -> float:
    """Return the error of one tail that may be spent by an information fraction; from 1 on all of it.

    Raises:
        ValueError: alpha is outside (0, 1), or the fraction is not positive.

    Source: Lan, DeMets, "Discrete sequential boundaries for clinical trials" (Biometrika 70, 1983, pp. 659-663): the
    functions alpha*_1, of the type of O'Brien and Fleming, and alpha*_2, of that of Pocock.
    """
    check_open_unit("alpha", alpha)
    if not information > 0.0:
        raise ValueError(f"information must be above 0, got {information!r}")
    share = min(1.0, information)
    match spending:
        case Spending.OBRIEN_FLEMING:
            return min(alpha, 2.0 * normal_sf(normal_isf(alpha / 2.0) / math.sqrt(share)))
        case Spending.POCOCK:
            return min(alpha, alpha * math.log1p(math.expm1(1.0) * share))


def sequential_bounds(
    information: Sequence[float],
    *,
    alpha: float = 0.05,
    spending: Spending = Spending.OBRIEN_FLEMING,
    alternative: Alternative = Alternative.TWO_SIDED,
) -> tuple[Look, ...]:
    """Return the bounds of looks at the given information fractions, (k,), rising, at most 1.

    A two-sided test spends alpha/2 in each tail. Looks so far are enough: later ones do not change their bounds.
    Bounds of LESS are for the negated statistic.

    Raises:
        ValueError: alpha is outside (0, 1), or the fractions are none, more than 100, not rising by 0.001 each, or
            outside (0, 1].

    Source: Lan, DeMets (1983): each look's error is what the spending function allows since the look before;
    Armitage, McPherson, Rowe, "Repeated significance tests on accumulating data" (JRSS A 132, 1969): the recursion
    over the density of paths that go on; Jennison, Turnbull, "Group Sequential Methods with Applications to Clinical
    Trials" (2000), chapter 19 on computing it.
    """
    check_open_unit("alpha", alpha)
    _check_looks(information)
    two_sided = alternative is Alternative.TWO_SIDED
    tail = alpha / 2.0 if two_sided else alpha
    sides = 2.0 if two_sided else 1.0
    looks: list[Look] = []
    paths = _Paths(np.zeros(1), np.ones(1), 0.0)
    before = 0.0
    for time, following in zip(information, (*information[1:], None), strict=True):
        allowed = spent(time, alpha=tail, spending=spending)
        bound = _bound(paths, time, allowed - before)
        looks.append(
            Look(information=time, bound=bound, spent=sides * allowed, nominal_p=min(1.0, sides * normal_sf(bound)))
        )
        if following is not None:
            finest = math.sqrt(min(time - paths.time, following - time))
            paths = _advanced(paths, time, bound * math.sqrt(time), finest, two_sided=two_sided)
        before = allowed
    return tuple(looks)


def _check_looks(information: Sequence[float]) -> None:
    if not 1 <= len(information) <= _MOST_LOOKS:
        raise ValueError(f"there must be 1 to {_MOST_LOOKS} looks, got {len(information)}")
    for earlier, later in zip((0.0, *information), information, strict=False):
        if not (later - earlier >= _CLOSEST_LOOKS - _ROUNDING and later <= 1.0):
            raise ValueError(
                f"information fractions must rise by at least {_CLOSEST_LOOKS} each and stay within 1, got {later!r}"
                f" after {earlier!r}: leave out looks that are closer together"
            )


@dataclass(frozen=True, slots=True)
class _Paths:
    """Where the score stands at `time` on paths that have crossed no bound: places, and the chance at each."""

    places: _Array
    chances: _Array
    time: float


def _bound(paths: _Paths, time: float, allowed: float) -> float:
    """Return the z value that the paths exceed with the allowed chance."""
    if allowed <= 0.0:
        return _HIGHEST_BOUND
    step, scale = math.sqrt(time - paths.time), math.sqrt(time)

    def surplus(bound: float) -> float:
        chance = float(np.sum(paths.chances * special.ndtr((paths.places - bound * scale) / step)))
        # The tails span many magnitudes; their logarithms do not.
        return math.log(max(chance, 1e-300)) - math.log(allowed)

    return crossing(surplus, -_HIGHEST_BOUND, _HIGHEST_BOUND)


def _advanced(paths: _Paths, time: float, limit: float, finest: float, *, two_sided: bool) -> _Paths:
    """Return the paths at `time` that lie below the limit, and above its negative if there are two.

    finest: the smaller of the deviations of the steps to this look and to the next one.
    """
    step = math.sqrt(time - paths.time)
    reach = _FARTHEST * math.sqrt(time)
    low, high = (-min(limit, reach) if two_sided else -reach), min(limit, reach)
    # The density varies over no less than the step that led here, and is next multiplied by one that varies over the
    # step that follows.
    panels = max(4, math.ceil((high - low) / (_STEPS_PER_PANEL * finest)))
    ends = np.linspace(low, high, panels + 1)
    half = np.diff(ends)[:, None] / 2.0
    places = (ends[:-1, None] + half * (1.0 + _NODES)).ravel()
    widths = (half * _WEIGHTS).ravel()
    shifts = (places[:, None] - paths.places[None, :]) / step
    density = np.exp(-0.5 * shifts * shifts) @ paths.chances / (step * math.sqrt(2.0 * math.pi))
    return _Paths(places, np.asarray(density * widths), time)
