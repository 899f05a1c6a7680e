"""Non-inferiority: how often it is shown of a treatment that is worse by exactly the margin."""

from collections.abc import Iterator

from app.stats.noninferiority import RateMethod, noninferiority_rates, noninferiority_test
from app.stats.samples import Proportion
from benchmarks.simulations.cells import Cell, Table, chain, counted, percent, stream
from benchmarks.simulations.means import replicates, rough
from benchmarks.simulations.populations import EXPONENTIAL, SOME_BUY, Population, sample_of
from benchmarks.simulations.rates import COARSE, COARSE_DIFFERENCE, variance_of_count
from benchmarks.simulations.sizes import Size

_ALPHA = 0.025
_MARGIN = 0.1
_METHODS = {"Farrington-Manning": RateMethod.FARRINGTON_MANNING, "Wald": RateMethod.WALD}


def studies(size: Size, seed: int) -> Iterator[Table]:
    """Simulate treatments at the margin, where the error is the largest."""
    yield Table(
        title="Non-inferiority at the margin",
        says="The treatment is worse by 10 %, which is the margin: how often the test says that it is not.",
        columns=("metric", "users per arm"),
        cells=(
            *chain(_rates(seed, size, rate, n) for rate in size.rates for n in size.units),
            *chain(_means(seed, size, population, n) for population in (EXPONENTIAL, SOME_BUY) for n in size.units),
        ),
    )


def _rates(seed: int, size: Size, rate: float, n: int) -> Iterator[Cell]:
    rng = stream(seed, "margin", rate, n)
    worse = rate * (1.0 - _MARGIN)
    drawn = list(
        zip(
            rng.binomial(n, rate, size.replicates).tolist(),
            rng.binomial(n, worse, size.replicates).tolist(),
            strict=True,
        )
    )
    weak = variance_of_count(n, rate, worse) < COARSE_DIFFERENCE
    for name, method in _METHODS.items():
        tests = (
            noninferiority_rates(Proportion(c, n), Proportion(t, n), margin=_MARGIN, alpha=_ALPHA, method=method)
            for c, t in drawn
        )
        shown = [None if test.p_value is None else test.shown for test in tests]
        setting = f"rate {percent(rate)}", f"{n:,}"
        yield counted(name, setting, shown, promised=_ALPHA, weakness=COARSE if weak else None)


def _means(seed: int, size: Size, population: Population, n: int) -> Iterator[Cell]:
    rng = stream(seed, "margin", population.name, n)
    shown: list[bool | None] = []
    for _ in range(replicates(size, n, population.buyers)):
        control, worse = population.sample(rng, n), sample_of(population.spent(rng, n), n, 1.0 - _MARGIN)
        test = noninferiority_test(control, worse, margin=_MARGIN, alpha=_ALPHA)
        shown.append(None if test.p_value is None else test.shown)
    setting = population.name, f"{n:,}"
    yield counted("Wald", setting, shown, promised=_ALPHA, weakness=rough(n, population.skewness))
