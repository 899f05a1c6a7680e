"""Looking a hundred times and stopping at the first significant answer: what that does to each method."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from app.stats.distributions import Alternative, p_value
from app.stats.effects import Scale
from app.stats.group_sequential import Spending, sequential_bounds
from app.stats.means import welch_t_test
from app.stats.proportions import difference_of_proportions, two_proportion_test
from app.stats.samples import MeanSample, Proportion
from app.stats.sequential import always_valid_interval, always_valid_lift
from app.stats.srm import MISMATCH_ALPHA, srm_chi_square, srm_sequential
from benchmarks.simulations.cells import Cell, Figures, Promise, Table, chain, counted, misses, percent, rejects, stream
from benchmarks.simulations.means import TRUE_LIFT, rough
from benchmarks.simulations.populations import EXPONENTIAL, PARETO, SOME_BUY, WIDE, Population, sample_of
from benchmarks.simulations.rates import COARSE_DIFFERENCE, variance_of_count
from benchmarks.simulations.sizes import Size

LOOKS = 100
FIXED, ALWAYS = "fixed test", "always valid"
FIXED_INTERVAL, ALWAYS_LIFT, ALWAYS_DELTA = "fixed interval", "always valid, lift", "the same, delta method"
_PEEKING = "a fixed test read at every look: this is what it must not be used for"
_DELTA = "the delta method: its error of a lift is too small while the control's value is not well known"
_EARLY = "the first looks come after so few conversions that normal theory, which the method rests on, is not there yet"
# Users per arm that come between two looks, and the rate. The second starts almost without conversions.
_RATES = ((100, 0.05), (20, 0.01))
_STEP = 100
# Planned looks, evenly and unevenly spread over the experiment, and what is looked at.
_ALPHA = 0.05
_PLANNED = ((0.2, 0.4, 0.6, 0.8, 1.0), (0.1, 0.2, 0.5, 0.9, 1.0))
_PLANNED_USERS, _PLANNED_RATE = 10_000, 0.1
_SPENDING_NAMES = {Spending.OBRIEN_FLEMING: "O'Brien-Fleming", Spending.POCOCK: "Pocock"}
_PLANS = ((50, 50), (90, 10), (34, 33, 33))
# Units over the tuning sample size at which the price of always-valid intervals is told.
_PRICED = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
_TUNING = 5_000

Arm = TypeVar("Arm", Proportion, MeanSample)


def studies(size: Size, seed: int) -> Iterator[Table]:
    """Simulate A/A experiments that stop at the first look with a p-value below alpha."""
    columns = ("what is looked at", "alpha")
    yield Table(
        title="Optional stopping, A/A",
        says=f"Experiments of {LOOKS} looks in which any look found an effect. The fixed test is there for contrast.",
        columns=columns,
        cells=chain(
            [
                *(_rates(seed, size, step, rate) for step, rate in _RATES),
                *(_means(seed, size, population) for population in (EXPONENTIAL, WIDE)),
            ]
        ),
    )
    yield Table(
        title="Always-valid intervals, a true lift of 20 %",
        says=(
            f"Experiments of {LOOKS} looks at which any look's 95 % interval left out the true difference, or the true "
            "lift. The fixed interval, Newcombe's of rates and Welch's of means, is there for contrast, and so is the "
            "lift by the delta method. An interval that is not there, for want of conversions, leaves nothing out."
        ),
        columns=("what is looked at",),
        cells=chain(
            [
                *(_missed_rates(seed, size, step, rate) for step, rate in _RATES),
                *(_missed_means(seed, size, population) for population in (EXPONENTIAL, SOME_BUY, WIDE, PARETO)),
            ]
        ),
    )
    yield Table(
        title="Optional stopping, sample ratio mismatch",
        says=f"Experiments of {LOOKS} looks, {_STEP} units apart and split as planned, in which any look raised alarm.",
        columns=columns,
        cells=chain(_alarms(seed, size, plan) for plan in _PLANS),
    )
    yield Table(
        title="Group-sequential bounds, A/A",
        says="Experiments of five planned looks in which any look crossed its bound. The fixed test is for contrast.",
        columns=("what is looked at", "looks at these shares of the users", "direction"),
        cells=chain(
            _planned_looks(seed, size, information, alternative)
            for information in _PLANNED
            for alternative in (Alternative.TWO_SIDED, Alternative.GREATER)
        ),
    )


def _rates(seed: int, size: Size, step: int, rate: float) -> Iterator[Cell]:
    rng = stream(seed, "stopping", step, rate)
    found: dict[tuple[str, float], list[bool | None]] = {}
    for _ in range(size.stopped):
        arms = np.cumsum(rng.binomial(step, rate, (2, LOOKS)), axis=1).tolist()
        looks = [
            (Proportion(c, step * k), Proportion(t, step * k)) for k, (c, t) in enumerate(zip(*arms, strict=True), 1)
        ]
        _look(looks, lambda c, t: two_proportion_test(c, t).p_value, size.alphas, found)
    setting = f"rate of {percent(rate)}, each {step} users per arm"
    return _cells(setting, found, _EARLY if variance_of_count(step, rate) < COARSE_DIFFERENCE else None)


def _means(seed: int, size: Size, population: Population) -> Iterator[Cell]:
    rng = stream(seed, "stopping", population.name)
    found: dict[tuple[str, float], list[bool | None]] = {}
    for _ in range(size.stopped // 2):
        looks = list(zip(_running(rng, population), _running(rng, population), strict=True))
        _look(looks, lambda c, t: welch_t_test(c, t).p_value, size.alphas, found)
    setting = f"{population.name}, each {_STEP} users per arm"
    return _cells(setting, found, rough(_STEP, population.skewness))


def _missed_rates(seed: int, size: Size, step: int, rate: float) -> Iterator[Cell]:
    rng = stream(seed, "always with effect", step, rate)
    changed = rate * (1.0 + TRUE_LIFT)
    found: dict[str, list[bool | None]] = {}
    for _ in range(size.stopped):
        arms = (np.cumsum(rng.binomial(step, p, LOOKS)).tolist() for p in (rate, changed))
        looks = [
            (Proportion(c, step * k), Proportion(t, step * k)) for k, (c, t) in enumerate(zip(*arms, strict=True), 1)
        ]
        fixed = [difference_of_proportions(c, t, confidence=1.0 - _ALPHA) for c, t in looks]
        _look_for_misses(looks, [(one.lower, one.upper) for one in fixed], changed - rate, found)
    setting = f"rate of {percent(rate)}, each {step} users per arm"
    return _missed(setting, found, _EARLY if variance_of_count(step, rate) < COARSE_DIFFERENCE else None)


def _missed_means(seed: int, size: Size, population: Population) -> Iterator[Cell]:
    rng = stream(seed, "always with effect", population.name)
    found: dict[str, list[bool | None]] = {}
    for _ in range(size.stopped // 2):
        looks = list(zip(_running(rng, population), _running(rng, population, 1.0 + TRUE_LIFT), strict=True))
        fixed = [welch_t_test(c, t, confidence=1.0 - _ALPHA) for c, t in looks]
        _look_for_misses(looks, [(one.lower, one.upper) for one in fixed], TRUE_LIFT * population.mean, found)
    setting = f"{population.name}, each {_STEP} users per arm"
    return _missed(setting, found, rough(_STEP, population.skewness))


def _look_for_misses(
    looks: list[tuple[Arm, Arm]],
    fixed: list[tuple[float | None, float | None]],
    difference: float,
    found: dict[str, list[bool | None]],
) -> None:
    """Add, for each kind of interval, whether any look's leaves out the truth."""
    found.setdefault(FIXED_INTERVAL, []).append(any(misses(*limits, difference) for limits in fixed))
    for name, truth, interval in (
        (ALWAYS, difference, always_valid_interval),
        (ALWAYS_LIFT, TRUE_LIFT, always_valid_lift),
        (ALWAYS_DELTA, TRUE_LIFT, functools.partial(always_valid_interval, scale=Scale.RELATIVE)),
    ):
        intervals = (interval(c, t, alpha=_ALPHA) for c, t in looks)
        found.setdefault(name, []).append(any(misses(one.lower, one.upper, truth) for one in intervals))


def _missed(setting: str, found: dict[str, list[bool | None]], weakness: str | None) -> Iterator[Cell]:
    reasons = {FIXED_INTERVAL: _PEEKING, ALWAYS_DELTA: _DELTA}
    for method, answers in found.items():
        why = reasons.get(method, weakness)
        yield counted(method, (setting,), answers, promised=_ALPHA, promise=Promise.AT_MOST, weakness=why)


def _running(rng: np.random.Generator, population: Population, factor: float = 1.0) -> Iterator[MeanSample]:
    """Return the statistics of an arm at every look, in which all values are multiplied by the factor."""
    so_far = MeanSample.from_sums(n=0, sum_values=0, sum_squares=0)
    for _ in range(LOOKS):
        so_far += sample_of(population.spent(rng, _STEP), _STEP, factor)
        # Sums arrive as doubles at each look, as from a store.
        so_far = MeanSample.from_sums(
            n=so_far.n, sum_values=float(so_far.sum_values), sum_squares=float(so_far.sum_squares)
        )
        yield so_far


def _look(
    looks: list[tuple[Arm, Arm]],
    fixed: Callable[[Arm, Arm], float | None],
    alphas: tuple[float, ...],
    found: dict[tuple[str, float], list[bool | None]],
) -> None:
    """Add, for each method and level, whether any look found an effect."""
    p_values = [fixed(c, t) for c, t in looks]
    for alpha in alphas:
        found.setdefault((FIXED, alpha), []).append(any(rejects(p, alpha) for p in p_values))
        ever = any(rejects(always_valid_interval(c, t, alpha=alpha).p_value, alpha) for c, t in looks)
        found.setdefault((ALWAYS, alpha), []).append(ever)


def _cells(setting: str, found: dict[tuple[str, float], list[bool | None]], weakness: str | None) -> Iterator[Cell]:
    for (method, alpha), answers in found.items():
        yield counted(
            method,
            (setting, percent(alpha)),
            answers,
            promised=alpha,
            promise=Promise.AT_MOST,
            weakness=_PEEKING if method == FIXED else weakness,
        )


def _alarms(seed: int, size: Size, plan: tuple[int, ...]) -> Iterator[Cell]:
    rng = stream(seed, "stopping", "srm", plan)
    found: dict[tuple[str, float], list[bool | None]] = {}
    for _ in range(size.stopped):
        counts = np.cumsum(rng.multinomial(_STEP, [weight / 100 for weight in plan], LOOKS), axis=0).tolist()
        fixed = [srm_chi_square(observed, plan).p_value for observed in counts]
        largest = 0.0
        for observed in counts:
            so_far = srm_sequential(observed, plan, largest_log_bayes_factor=largest).largest_log_bayes_factor
            largest = largest if so_far is None else so_far
        for alpha in (MISMATCH_ALPHA, *size.alphas):
            found.setdefault((FIXED, alpha), []).append(any(rejects(p, alpha) for p in fixed))
            found.setdefault((ALWAYS, alpha), []).append(math.exp(-largest) < alpha)
    return _cells(f"plan {' : '.join(map(str, plan))}", found, None)


def _planned_looks(seed: int, size: Size, information: tuple[float, ...], alternative: Alternative) -> Iterator[Cell]:
    rng = stream(seed, "group sequential", information, alternative)
    bounds = {
        spending: [look.bound for look in sequential_bounds(information, spending=spending, alternative=alternative)]
        for spending in Spending
    }
    crossed: dict[str, list[bool | None]] = {}
    for _ in range(size.replicates):
        found = [_z_at(c, t) for c, t in _looks_at(rng, information)]
        reached = [abs(z) if alternative is Alternative.TWO_SIDED else z for z in found]
        for spending, limits in bounds.items():
            ever = any(z >= limit for z, limit in zip(reached, limits, strict=True))
            crossed.setdefault(_SPENDING_NAMES[spending], []).append(ever)
        ever = any(rejects(p_value(z, alternative), _ALPHA) for z in found)
        crossed.setdefault(FIXED, []).append(ever)
    setting = f"rate of {percent(_PLANNED_RATE)}, {_PLANNED_USERS:,} users per arm at the end"
    shares = ", ".join(percent(share) for share in information)
    for method, answers in crossed.items():
        weakness = _PEEKING if method == FIXED else None
        yield counted(method, (setting, shares, alternative.value), answers, promised=_ALPHA, weakness=weakness)


def _looks_at(rng: np.random.Generator, information: tuple[float, ...]) -> Iterator[tuple[Proportion, Proportion]]:
    """Return both arms at every planned look."""
    users = [round(share * _PLANNED_USERS) for share in information]
    steps = np.diff([0, *users])
    arms = np.cumsum(rng.binomial(steps, _PLANNED_RATE, (2, len(users))), axis=1).tolist()
    for n, c, t in zip(users, *arms, strict=True):
        yield Proportion(c, n), Proportion(t, n)


def _z_at(control: Proportion, treatment: Proportion) -> float:
    statistic = two_proportion_test(control, treatment).statistic
    return 0.0 if statistic is None else statistic


def price() -> Figures:
    """Return how much wider the always-valid interval is than the fixed one, at one look."""
    return Figures(
        title="The price of looking at any time",
        says=(
            f"Width of the always-valid interval over that of the fixed one, at so many times the tuning sample size "
            f"({_TUNING:,} units of both arms), and the units that the fixed interval would need for that width."
        ),
        head=("units over the tuning size", "alpha = 5 %", "alpha = 1 %", "fixed units for the same width (5 %)"),
        rows=tuple(
            (
                f"{share:g}",
                f"{_price(share, 0.05):.2f}",
                f"{_price(share, 0.01):.2f}",
                f"{_price(share, 0.05) ** -2:.0%}",
            )
            for share in _PRICED
        ),
    )


def _price(share: float, alpha: float) -> float:
    n = int(share * _TUNING / 2)
    arm = MeanSample.from_sums(n=n, sum_values=n, sum_squares=2 * n)
    always = always_valid_interval(arm, arm, alpha=alpha, tuning_sample_size=_TUNING)
    fixed = welch_t_test(arm, arm, confidence=1.0 - alpha)
    if always.upper is None or fixed.upper is None:
        raise ArithmeticError("two arms with variance have intervals")
    return always.upper / fixed.upper
