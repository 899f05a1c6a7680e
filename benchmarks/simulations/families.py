"""Several tests read together: what Holm's and Benjamini and Hochberg's corrections keep."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.stats.distributions import Alternative, p_value
from app.stats.multiple import Correction, adjust_p_values
from benchmarks.simulations.cells import Cell, Promise, Table, averaged, chain, counted, stream
from benchmarks.simulations.sizes import Size

_ALPHA = 0.05
_TESTS = (5, 20)
_TRUE_NULLS = (1.0, 0.8, 0.4)
# The statistic of a test that has something to find, in standard errors.
_EFFECT = 3.0
_CORRELATIONS = (0.0, 0.5)
_UNCORRECTED = "every test by itself: this is what the corrections are for"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Families:
    """What came of the families of one setting: any false discovery, and false ones among all, by family."""

    setting: tuple[str, ...]
    nulls_share: float
    independent: bool
    uncorrected: list[bool | None] = field(default_factory=list)
    holm: list[bool | None] = field(default_factory=list)
    false_by_bh: list[float] = field(default_factory=list)


def studies(size: Size, seed: int) -> Iterator[Table]:
    """Simulate families of z tests of which some have nothing to find."""
    columns = ("tests", "of them without effect", "correlation")
    settings = itertools.product(_TESTS, _TRUE_NULLS, _CORRELATIONS)
    simulated = [_simulate(seed, size, *setting) for setting in settings]
    yield Table(
        title="Several tests: families with any false discovery",
        says="Holm's correction keeps their share at 5 % or below, whatever the dependence.",
        columns=columns,
        cells=chain(_any_false(families) for families in simulated),
    )
    yield Table(
        title="Several tests: false among all discoveries",
        says=(
            "Benjamini and Hochberg keep the mean share of false discoveries at 5 % times the share of tests without "
            "effect where the tests are independent, and at or below it where they are positively correlated."
        ),
        columns=columns,
        cells=chain(_false_share(families) for families in simulated),
    )


def _simulate(seed: int, size: Size, tests: int, nulls_share: float, correlation: float) -> _Families:
    nulls = round(tests * nulls_share)
    rng = stream(seed, "families", tests, nulls_share, correlation)
    noise = math.sqrt(1.0 - correlation) * rng.standard_normal((size.replicates, tests))
    noise += math.sqrt(correlation) * rng.standard_normal((size.replicates, 1))
    noise[:, nulls:] += _EFFECT
    setting = str(tests), str(nulls), f"{correlation:g}"
    families = _Families(setting=setting, nulls_share=nulls / tests, independent=correlation == 0.0)
    for statistics in noise.tolist():
        p_values = [p_value(z, Alternative.TWO_SIDED) for z in statistics]
        holm = adjust_p_values(p_values, method=Correction.HOLM, alpha=_ALPHA).rejected
        bh = adjust_p_values(p_values, method=Correction.BENJAMINI_HOCHBERG, alpha=_ALPHA).rejected
        families.uncorrected.append(any(p < _ALPHA for p in p_values[:nulls]))
        families.holm.append(any(holm[:nulls]))
        families.false_by_bh.append(sum(bh[:nulls]) / max(1, sum(bh)))
    return families


def _any_false(families: _Families) -> Iterator[Cell]:
    for method, answers, weakness in (
        ("Holm", families.holm, None),
        ("uncorrected", families.uncorrected, _UNCORRECTED),
    ):
        yield counted(method, families.setting, answers, promised=_ALPHA, promise=Promise.AT_MOST, weakness=weakness)


def _false_share(families: _Families) -> Iterator[Cell]:
    promised = _ALPHA * families.nulls_share
    promise = Promise.EXACTLY if families.independent else Promise.AT_MOST
    yield averaged("Benjamini-Hochberg", families.setting, families.false_by_bh, promised=promised, promise=promise)
