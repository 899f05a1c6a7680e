"""Conversion rates: false positives of the tests, and intervals that miss the true rate, difference or lift."""

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats

from app.stats.lift import LiftMethod, relative_lift
from app.stats.proportions import (
    DifferenceMethod,
    RateVariance,
    difference_of_proportions,
    k_proportion_chi_square,
    two_proportion_test,
    wilson_interval,
)
from app.stats.samples import Proportion
from benchmarks.simulations.cells import Cell, Table, chain, counted, misses, percent, rejects, stream
from benchmarks.simulations.sizes import Size

ALPHA = 0.05
WILSON = "Wilson"
TRUE_LIFT = 0.2
# A count with a smaller variance takes so few likely values that no error rate can be kept exactly. The difference
# of two counts takes more of them than one count.
COARSE_ALONE = 400.0
COARSE_DIFFERENCE = 20.0
COARSE = "coarse: the count takes few likely values, so the error jumps with the rate and no rule can hold it at 5 %"
# The standard error of the control's rate is then more than a tenth of it.
_FEW_FOR_A_LIFT = 100
ROUGH_UNIT = "rough unit: the control's value has a standard error of more than a tenth of itself"
# Outcomes less likely than this are left out of the sum over all of them.
_UNLIKELY = 1e-7

Judge = Callable[[Proportion, Proportion], bool | None]


def studies(size: Size, seed: int) -> Iterator[Table]:
    """Simulate two arms without and with an effect, and several arms without."""
    columns = ("rate", "units per arm")
    yield Table(
        title="Two rates, A/A",
        says="Both arms have the same rate. False positives of the tests, and intervals without the true value.",
        columns=columns,
        cells=chain(_two_arms(seed, size, rate, rate, n) for rate in size.rates for n in size.units),
    )
    yield Table(
        title="Two rates, a true lift of 20 %",
        says="The treatment's rate is 1.2 times the control's. Intervals without the true difference or lift.",
        columns=columns,
        cells=chain(
            _two_arms(seed, size, rate, rate * (1.0 + TRUE_LIFT), n) for rate in size.rates for n in size.units
        ),
    )
    yield Table(
        title="Several rates, A/A",
        says="All arms have the same rate. False positives of the chi-square test over all arms.",
        columns=columns,
        cells=chain(_several_arms(seed, size, rate, n) for rate in size.rates for n in size.units),
    )


def variance_of_count(n: int, *rates: float) -> float:
    """Return the variance of the count of conversions, in the arm where it is smallest."""
    return n * min(rate * (1.0 - rate) for rate in rates)


def likely_outcomes(n: int, rate: float) -> list[tuple[int, float]]:
    """Return the counts that are not all but impossible, with their chances."""
    first, last = (int(stats.binom.ppf(tail, n, rate)) for tail in (_UNLIKELY, 1.0 - _UNLIKELY))
    counts = np.arange(first, last + 1)
    return list(zip(counts.tolist(), np.asarray(stats.binom.pmf(counts, n, rate)).tolist(), strict=True))


def _two_arms(seed: int, size: Size, rate_c: float, rate_t: float, n: int) -> Iterator[Cell]:
    rng = stream(seed, "rates", rate_c, rate_t, n)
    drawn = list(
        zip(
            rng.binomial(n, rate_c, size.replicates).tolist(),
            rng.binomial(n, rate_t, size.replicates).tolist(),
            strict=True,
        )
    )
    variance = variance_of_count(n, rate_c, rate_t)
    outcomes = likely_outcomes(n, rate_c), likely_outcomes(n, rate_t)
    for method, judge in _judges(rate_c, rate_t).items():
        # Few conversions mean few outcomes, each judged once.
        judged = functools.cache(functools.partial(_judged, judge, n))
        alone = method == WILSON
        weak = variance < (COARSE_ALONE if alone else COARSE_DIFFERENCE)
        # What concerns the control alone needs no sum over the treatment.
        of_treatment = [(0, 1.0)] if alone else outcomes[1]
        yield counted(
            method,
            (percent(rate_c), f"{n:,}"),
            [judged(c, t) for c, t in drawn],
            promised=ALPHA,
            exact=_exact_share(judged, outcomes[0], of_treatment) if weak else None,
            weakness=COARSE if weak else _rough_unit(method, n * rate_c),
        )


def _rough_unit(method: str, conversions: float) -> str | None:
    """Say that the control's rate, over which a lift is taken, is hardly known, if so."""
    return ROUGH_UNIT if method.startswith("lift") and conversions < _FEW_FOR_A_LIFT else None


def _judged(judge: Judge, n: int, successes_c: int, successes_t: int) -> bool | None:
    return judge(Proportion(successes_c, n), Proportion(successes_t, n))


def _exact_share(
    judged: Callable[[int, int], bool | None], control: list[tuple[int, float]], treatment: list[tuple[int, float]]
) -> float:
    """Return the chance of a wrong answer, summed over all likely outcomes."""
    return sum(
        chance_c * chance_t for (c, chance_c), (t, chance_t) in itertools.product(control, treatment) if judged(c, t)
    )


def _judges(rate_c: float, rate_t: float) -> dict[str, Judge]:
    """Return, by the method's name, who says whether its answer is wrong."""
    if rate_c == rate_t:
        return {
            WILSON: functools.partial(_wilson, rate_c),
            "pooled z": functools.partial(_z_test, RateVariance.POOLED),
            "unpooled z": functools.partial(_z_test, RateVariance.UNPOOLED),
            "Newcombe": functools.partial(_difference, DifferenceMethod.NEWCOMBE, 0.0),
            "Miettinen-Nurminen": functools.partial(_difference, DifferenceMethod.MIETTINEN_NURMINEN, 0.0),
            "Fieller's p-value": _lift_test,
        }
    difference, lift = rate_t - rate_c, rate_t / rate_c - 1.0
    by_difference: dict[str, Judge] = {
        name: functools.partial(_difference, method, difference)
        for name, method in (
            ("Newcombe", DifferenceMethod.NEWCOMBE),
            ("Miettinen-Nurminen", DifferenceMethod.MIETTINEN_NURMINEN),
            ("Agresti-Caffo", DifferenceMethod.AGRESTI_CAFFO),
            ("Wald", DifferenceMethod.WALD),
        )
    }
    by_lift: dict[str, Judge] = {
        "lift, Fieller": functools.partial(_lift, LiftMethod.FIELLER_NORMAL, lift),
        "lift, delta": functools.partial(_lift, LiftMethod.DELTA_NORMAL, lift),
        "lift, log ratio": functools.partial(_lift, LiftMethod.LOG_RATIO_NORMAL, lift),
    }
    return by_difference | by_lift


def _wilson(rate: float, control: Proportion, _treatment: Proportion) -> bool | None:
    interval = wilson_interval(control, confidence=1.0 - ALPHA)
    return misses(interval.lower, interval.upper, rate)


def _z_test(variance: RateVariance, control: Proportion, treatment: Proportion) -> bool | None:
    return rejects(two_proportion_test(control, treatment, variance=variance).p_value, ALPHA)


def _difference(method: DifferenceMethod, truth: float, control: Proportion, treatment: Proportion) -> bool | None:
    interval = difference_of_proportions(control, treatment, confidence=1.0 - ALPHA, method=method)
    return misses(interval.lower, interval.upper, truth)


def _lift(method: LiftMethod, truth: float, control: Proportion, treatment: Proportion) -> bool | None:
    interval = relative_lift(control, treatment, confidence=1.0 - ALPHA, method=method)
    return misses(interval.lower, interval.upper, truth)


def _lift_test(control: Proportion, treatment: Proportion) -> bool | None:
    return rejects(relative_lift(control, treatment).p_value, ALPHA)


def _several_arms(seed: int, size: Size, rate: float, n: int) -> Iterator[Cell]:
    for k in (3, 5):
        drawn = stream(seed, "several rates", k, rate, n).binomial(n, rate, (size.replicates, k)).tolist()
        yield counted(
            f"{k} arms",
            (percent(rate), f"{n:,}"),
            [rejects(k_proportion_chi_square([Proportion(x, n) for x in arms]).p_value, ALPHA) for arms in drawn],
            promised=ALPHA,
            weakness=COARSE if variance_of_count(n, rate) < COARSE_DIFFERENCE else None,
        )
