"""Cochran's Q: does the test that groups have the same effect keep its level, and does it find one that wears off?"""

from collections.abc import Iterator, Sequence

import numpy as np

from app.stats.effects import Effect, Scale, effect_of
from app.stats.homogeneity import cochran_q
from app.stats.samples import Proportion
from benchmarks.simulations.cells import Cell, Promise, Table, chain, counted, percent, rejects, stream
from benchmarks.simulations.means import ALPHA
from benchmarks.simulations.populations import normal_sample
from benchmarks.simulations.sizes import Size

_GROUPS = (5, 14, 50)
_UNITS = (20, 100, 1_000)
# From so many expected conversions and users in each arm of a group on nothing is known to be wrong.
_MANY_CONVERSIONS, _MANY_UNITS = 10, 200
_LIFT, _DIFFERENCE = 1.2, 0.3
_SMALL_GROUPS = (
    "small groups: their variances are estimated and then taken as known; with few conversions counts take few values,"
    " and groups without any are left out"
)
# A rate of 20 % that the treatment doubles at first and then no more: 14 days, two of them new.
_DAYS, _NEW_DAYS, _RATE = 14, 2, 0.2


def studies(size: Size, seed: int) -> Iterator[Table]:
    """Simulate groups with one effect, and days whose effect wears off."""
    yield Table(
        title="Cochran's Q: errors",
        says=(
            f"Groups of equal size with the same effect: a lift of {percent(_LIFT - 1)} of the rate, or a difference of"
            f" {_DIFFERENCE} between normal values with variance 1. How often the test finds the groups different."
        ),
        columns=("values", "groups", "users per arm and group"),
        cells=chain(
            [
                *(_rates(seed, size, rate, groups, n) for rate in size.rates for groups in _GROUPS for n in _UNITS),
                *(_means(seed, size, groups, n) for groups in _GROUPS for n in _UNITS),
            ]
        ),
    )
    yield Table(
        title="Cochran's Q: an effect that wears off",
        says=(
            f"A rate of {percent(_RATE)} on {_DAYS} days, doubled on the first {_NEW_DAYS} and the same in both arms on"
            " the others. How often the test finds the days different."
        ),
        columns=("users per arm and day",),
        cells=chain(_novelty(seed, size, n) for n in (200, 1_000)),
    )


def _rates(seed: int, size: Size, rate: float, groups: int, n: int) -> Iterator[Cell]:
    rng = stream(seed, "homogeneity of rates", rate, groups, n)
    found = [_rejected(_effects_of_rates(rng, [rate] * groups, [_LIFT * rate] * groups, n)) for _ in _times(size)]
    weakness = _SMALL_GROUPS if n * rate < _MANY_CONVERSIONS else _weak_units(n)
    setting = f"rate {percent(rate)}", f"{groups}", f"{n:,}"
    yield counted("Cochran's Q", setting, found, promised=ALPHA, weakness=weakness)


def _means(seed: int, size: Size, groups: int, n: int) -> Iterator[Cell]:
    rng = stream(seed, "homogeneity of means", groups, n)
    found = []
    for _ in _times(size):
        pairs = [(normal_sample(rng, n, 1.0), normal_sample(rng, n, 1.0 + _DIFFERENCE)) for _ in range(groups)]
        found.append(_rejected([effect_of(*pair, Scale.ABSOLUTE) for pair in pairs]))
    yield counted("Cochran's Q", ("normal", f"{groups}", f"{n:,}"), found, promised=ALPHA, weakness=_weak_units(n))


def _novelty(seed: int, size: Size, n: int) -> Iterator[Cell]:
    rng = stream(seed, "homogeneity of days", n)
    treatment = [2 * _RATE] * _NEW_DAYS + [_RATE] * (_DAYS - _NEW_DAYS)
    found = [_rejected(_effects_of_rates(rng, [_RATE] * _DAYS, treatment, n)) for _ in _times(size)]
    yield counted("Cochran's Q", (f"{n:,}",), found, promised=0.8, promise=Promise.AT_LEAST)


def _effects_of_rates(
    rng: np.random.Generator, control: Sequence[float], treatment: Sequence[float], n: int
) -> list[Effect]:
    counts = zip(rng.binomial(n, control).tolist(), rng.binomial(n, treatment).tolist(), strict=True)
    return [effect_of(Proportion(c, n), Proportion(t, n), Scale.ABSOLUTE) for c, t in counts]


def _rejected(effects: Sequence[Effect]) -> bool | None:
    return rejects(cochran_q(effects).p_value, ALPHA)


def _times(size: Size) -> range:
    return range(size.costly)


def _weak_units(n: int) -> str | None:
    return _SMALL_GROUPS if n < _MANY_UNITS else None
