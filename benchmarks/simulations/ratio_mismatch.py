"""Sample ratio mismatch: how often the check accuses a sound experiment, and how often it finds an unsound one."""

from collections.abc import Iterator

from app.stats.srm import MISMATCH_ALPHA, srm_chi_square
from benchmarks.simulations.cells import Cell, Table, chain, counted, percent, rejects, stream
from benchmarks.simulations.rates import COARSE_ALONE, likely_outcomes, variance_of_count
from benchmarks.simulations.sizes import Size

_PLANS = ((50, 50), (90, 10), (34, 33, 33))
_LEVELS = (MISMATCH_ALPHA, 0.05)
# Counts are cheap, and a level of 0.1 % needs many.
_TIMES = 5
_COARSE = "coarse: the count of the smallest arm takes few likely values, so the error jumps with the number of units"


def studies(size: Size, seed: int) -> Iterator[Table]:
    """Simulate the fixed check on splits that follow the plan."""
    yield Table(
        title="Sample ratio mismatch, units split as planned",
        says="False alarms of the check at a fixed number of units.",
        columns=("plan", "units", "level"),
        cells=chain(_alarms(seed, size, plan, n) for plan in _PLANS for n in size.units),
    )


def _alarms(seed: int, size: Size, plan: tuple[int, ...], n: int) -> Iterator[Cell]:
    shares = [weight / 100 for weight in plan]
    drawn = stream(seed, "srm", plan, n).multinomial(n, shares, size.replicates * _TIMES).tolist()
    p_values = [srm_chi_square(counts, plan).p_value for counts in drawn]
    coarse = variance_of_count(n, *shares) < COARSE_ALONE
    for level in _LEVELS:
        yield counted(
            "chi-square",
            (" : ".join(map(str, plan)), f"{n:,}", percent(level)),
            [rejects(p, level) for p in p_values],
            promised=level,
            exact=_exact_share(plan, shares[0], n, level) if coarse and len(plan) == 2 else None,
            weakness=_COARSE if coarse else None,
        )


def _exact_share(plan: tuple[int, ...], share: float, n: int, level: float) -> float:
    """Return the chance of a false alarm with two arms, summed over all likely splits."""
    return sum(
        chance
        for count, chance in likely_outcomes(n, share)
        if rejects(srm_chi_square((count, n - count), plan).p_value, level)
    )
