"""Values per user and ratios of sums: false positives, and intervals without the true value."""

import math
from collections.abc import Iterator

import numpy as np

from app.stats.comparisons import Comparison
from app.stats.lift import LiftMethod, relative_lift
from app.stats.means import value_interval, welch_t_test
from app.stats.ratios import ratio_difference
from app.stats.samples import MeanSample, RatioSample, Sample
from benchmarks.simulations.cells import Cell, Table, chain, counted, misses, rejects, stream
from benchmarks.simulations.populations import POPULATIONS, Population, sample_of
from benchmarks.simulations.rates import ROUGH_UNIT
from benchmarks.simulations.sizes import Size

ALPHA = 0.05
TRUE_LIFT = 0.2
# A mean whose skewness, or whose standard error over itself, is larger than this is not yet a normal one.
_ROUGH = 0.1
# Events per user are geometric, 4 in the mean, and 1 in the mean are counted in the numerator.
_EVENTS = 4.0

Judged = dict[str, bool | None]


def studies(size: Size, seed: int) -> Iterator[Table]:
    """Simulate means of five populations, and a ratio, without and with an effect."""
    yield Table(
        title="Means per user",
        says=(
            "False positives of Welch's test without an effect, and intervals without the true mean; with a true "
            "lift of 20 %, intervals without the true difference or lift."
        ),
        columns=("values", "users per arm"),
        cells=chain(_means(seed, size, population, n) for population in POPULATIONS for n in size.units),
    )
    yield Table(
        title="Ratios of sums",
        says="Purchases per visit: users make 4 visits in the mean, and differ in how many of them end in a purchase.",
        columns=("users per arm",),
        cells=chain(_ratios(seed, size, n) for n in size.units),
    )


def replicates(size: Size, n: int, share: float = 1.0) -> int:
    """Return how many replicates of two arms the draws of a setting are enough for."""
    return min(size.replicates, int(size.draws / (2 * n * share)))


def rough(n: int, skewness: float, variation: float = 0.0) -> str | None:
    """Say why normal theory may not hold for a mean of n values, if so."""
    of_mean = skewness / math.sqrt(n)
    error = variation / math.sqrt(n)
    if math.isinf(of_mean):
        return "heavy tail: the values have no third moment, and the largest one rules the variance"
    if of_mean > _ROUGH:
        return "skewed: the mean of so few values is itself skewed (by more than 0.1), and its error depends on it"
    if error > _ROUGH:
        return ROUGH_UNIT
    return None


def _means(seed: int, size: Size, population: Population, n: int) -> Iterator[Cell]:
    rng = stream(seed, "means", population.name, n)
    judged = [_judged_means(rng, population, n) for _ in range(replicates(size, n, population.buyers))]
    for method in judged[0]:
        variation = population.variation if method.startswith("lift") else 0.0
        yield counted(
            method,
            (population.name, f"{n:,}"),
            [answers[method] for answers in judged],
            promised=ALPHA,
            weakness=rough(n, population.skewness, variation),
        )


def _judged_means(rng: np.random.Generator, population: Population, n: int) -> Judged:
    control, spent = population.sample(rng, n), population.spent(rng, n)
    same, better = sample_of(spent, n), sample_of(spent, n, 1.0 + TRUE_LIFT)
    mean = value_interval(control)
    return {
        "one mean": misses(mean.lower, mean.upper, population.mean),
        "Welch, A/A": rejects(welch_t_test(control, same).p_value, ALPHA),
        "Welch": _misses_difference(welch_t_test(control, better), TRUE_LIFT * population.mean),
        **_judged_lifts(control, better),
    }


def _judged_lifts(control: MeanSample, treatment: MeanSample) -> Judged:
    return {
        "lift, Fieller": _misses_lift(control, treatment, LiftMethod.FIELLER_WELCH_T),
        "lift, delta": _misses_lift(control, treatment, LiftMethod.DELTA_WELCH_T),
        "lift, log ratio": _misses_lift(control, treatment, LiftMethod.LOG_RATIO_WELCH_T),
    }


def _misses_difference(comparison: Comparison, truth: float) -> bool | None:
    return misses(comparison.lower, comparison.upper, truth)


def _misses_lift(control: Sample, treatment: Sample, method: LiftMethod) -> bool | None:
    lift = relative_lift(control, treatment, confidence=1.0 - ALPHA, method=method)
    return misses(lift.lower, lift.upper, TRUE_LIFT)


def _ratios(seed: int, size: Size, n: int) -> Iterator[Cell]:
    rng = stream(seed, "ratios", n)
    # Four random numbers per user, each dearer than those of a mean.
    judged = [_judged_ratios(rng, n) for _ in range(max(size.costly // 4, replicates(size, n) // 4))]
    for method in judged[0]:
        # A user's visits have the skewness of a geometric count, about 2.
        answers = [answer[method] for answer in judged]
        yield counted(method, (f"{n:,}",), answers, promised=ALPHA, weakness=rough(n, 2.0))


def _judged_ratios(rng: np.random.Generator, n: int) -> Judged:
    control, same, better = _ratio(rng, n, 0.25), _ratio(rng, n, 0.25), _ratio(rng, n, 0.25 * (1.0 + TRUE_LIFT))
    interval = value_interval(control)
    lift = relative_lift(control, better, confidence=1.0 - ALPHA)
    return {
        "one ratio": misses(interval.lower, interval.upper, 0.25),
        "delta method, A/A": rejects(ratio_difference(control, same).p_value, ALPHA),
        "delta method": _misses_difference(ratio_difference(control, better), 0.25 * TRUE_LIFT),
        "lift, Fieller": misses(lift.lower, lift.upper, TRUE_LIFT),
    }


def _ratio(rng: np.random.Generator, n: int, share: float) -> RatioSample:
    """Return the statistics of n users with geometric visits, and a share of purchases that differs by user.

    The user's own share and the number of visits are independent, so the ratio of the sums is the mean share.
    """
    visits = rng.geometric(1.0 / _EVENTS, n)
    purchases = rng.binomial(visits, share * 2.0 * rng.random(n))
    return RatioSample.from_sums(
        n=n,
        num_sum=int(purchases.sum()),
        num_sum_squares=int(purchases @ purchases),
        den_sum=int(visits.sum()),
        den_sum_squares=int(visits @ visits),
        num_den_sum_products=int(purchases @ visits),
    )
