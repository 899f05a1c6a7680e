"""CUPED and post-stratification: is the variance reduced as theory says, and do the tests keep their level?"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from app.stats.cuped import CupedComparison, cuped_difference
from app.stats.poststratification import PostStratified, Stratum, poststratified_difference
from app.stats.samples import CovariateSample
from benchmarks.simulations.cells import (
    Cell,
    Table,
    averaged,
    between,
    chain,
    counted,
    misses,
    percent,
    rejects,
    stream,
)
from benchmarks.simulations.means import ALPHA, replicates, rough
from benchmarks.simulations.populations import Values, normal_sample
from benchmarks.simulations.sizes import Size

_USERS = 1_000
_DIFFERENCE = 0.1
# The lognormal pair is the exponential of a normal one with this deviation.
_SIGMA = 1.0
_STRATA = (1 / 2, 1 / 3, 1 / 6)
_STRATUM_MEANS = (1.0, 2.0, 4.0)
# What the treatment adds to the values of each group: the same, or the more the more the group has anyway.
_STRATUM_EFFECTS = {
    "the same in each group": (_DIFFERENCE, _DIFFERENCE, _DIFFERENCE),
    "10 % of the group's mean": (0.1, 0.2, 0.4),
}
_FEW_IN_STRATUM = 30
_SMALL_STRATA = "small strata: their variances are estimated from a few users and then taken as known"


def studies(size: Size, seed: int) -> Iterator[Table]:
    """Simulate a covariate with each of the correlations."""
    correlations = size.correlations
    yield Table(
        title="CUPED: what is left of the variance",
        says=(
            f"{_USERS:,} users per arm. Variance of the adjusted difference over that of the plain one, in percent: "
            "as promised, 1 - rho squared; as it came out over the replicates; and as the engine reported it, in the "
            "mean. rho is the correlation of the value with its covariate."
        ),
        columns=("values", "rho"),
        cells=chain(_variance(seed, size, name, rho) for name in _PAIRS for rho in correlations),
    )
    yield Table(
        title="CUPED: errors",
        says="False positives without an effect, and intervals without the true difference.",
        columns=("values", "rho", "users per arm"),
        cells=chain(
            _errors(seed, size, name, rho, n)
            for name in _PAIRS
            for rho in (correlations[0], correlations[-1])
            for n in size.units
        ),
    )

    yield Table(
        title="Post-stratification: errors",
        says=(
            "Three groups of users, half, a third and a sixth of all, with means 1, 2 and 4. False positives without "
            "an effect."
        ),
        columns=("users per arm",),
        cells=chain(_stratified(seed, size, n) for n in size.units),
    )
    yield Table(
        title="Post-stratification with an effect: errors",
        says="The same groups, and a treatment that works. Intervals without the true mean effect over all users.",
        columns=("effect", "users per arm"),
        cells=chain(_stratified_effect(seed, size, name, n) for name in _STRATUM_EFFECTS for n in size.units),
    )
    yield Table(
        title="Post-stratification: what is left of the variance",
        says=(
            f"{_USERS:,} users per arm in the same groups, whose means are stretched so that the groups explain this "
            "share of the variance, and a true difference of 0.1. Variance of the post-stratified difference over that "
            "of the plain one, in percent: as promised, 1 - that share; as it came out over the replicates; and as the "
            "engine reported it, in the mean."
        ),
        columns=("between the groups",),
        cells=chain(_stratified_variance(seed, size, rho**2) for rho in correlations),
    )


def _normal_pair(rng: np.random.Generator, rho: float, n: int) -> tuple[Values, Values]:
    pre, noise = rng.standard_normal((2, n))
    return rho * pre + math.sqrt(1.0 - rho**2) * noise, pre


def _lognormal_pair(rng: np.random.Generator, rho: float, n: int) -> tuple[Values, Values]:
    """Return exponentials of a normal pair whose correlation makes theirs rho."""
    inner = math.log1p(rho * math.expm1(_SIGMA**2)) / _SIGMA**2
    post, pre = _normal_pair(rng, inner, n)
    return np.exp(_SIGMA * post), np.exp(_SIGMA * pre)


_PAIRS = {"normal": _normal_pair, "lognormal (sigma 1)": _lognormal_pair}
# The skewness of the exponential of a standard normal variable.
_SKEWNESS = {"normal": 0.0, "lognormal (sigma 1)": (math.e + 2.0) * math.sqrt(math.e - 1.0)}


def _arm(pair: tuple[Values, Values], added: float = 0.0) -> CovariateSample:
    post, pre = pair[0] + added, pair[1]
    return CovariateSample.from_sums(
        n=len(post),
        post_sum=float(post.sum()),
        post_sum_squares=float(post @ post),
        pre_sum=float(pre.sum()),
        pre_sum_squares=float(pre @ pre),
        post_pre_sum_products=float(post @ pre),
    )


def _variance(seed: int, size: Size, name: str, rho: float) -> Iterator[Cell]:
    rng = stream(seed, "cuped variance", name, rho)
    adjusted, plain, reported = [], [], []
    for _ in range(replicates(size, _USERS)):
        control, treatment = (_PAIRS[name](rng, rho, _USERS) for _ in range(2))
        result = cuped_difference(_arm(control), _arm(treatment))
        adjusted.append(_difference(result))
        plain.append(float(treatment[0].mean() - control[0].mean()))
        reported.append(result.variance_ratio if result.variance_ratio is not None else math.nan)
    left = 1.0 - rho**2
    count = len(adjusted)
    # Theta is estimated, which costs one of so many users; chance decides the rest. Both differences have the
    # correlation sqrt(1 - rho**2), which makes the ratio of their variances that much surer.
    chance = 2.0 * rho / math.sqrt(count - 1) + 1.0 / _USERS
    setting = name, f"{rho:g}"
    measured = float(np.var(adjusted) / np.var(plain))
    yield between("over the replicates", setting, replicates=count, measured=measured, promised=left, reach=chance)
    skewness = _SKEWNESS[name]
    # In a sample, the ratio's bias is of the order of one user, times the fourth moments of the pair.
    slack = (1.0 + skewness**2) / _USERS
    yield averaged("as reported", setting, reported, promised=left, slack=slack)


def _difference(result: CupedComparison) -> float:
    difference = result.comparison.difference
    return math.nan if difference is None else difference


def _errors(seed: int, size: Size, name: str, rho: float, n: int) -> Iterator[Cell]:
    rng = stream(seed, "cuped errors", name, rho, n)
    false, missed = [], []
    for _ in range(max(size.costly // 4, replicates(size, n) // 2)):
        control, treatment = (_PAIRS[name](rng, rho, n) for _ in range(2))
        false.append(rejects(cuped_difference(_arm(control), _arm(treatment)).comparison.p_value, ALPHA))
        better = cuped_difference(_arm(control), _arm(treatment, _DIFFERENCE)).comparison
        missed.append(misses(better.lower, better.upper, _DIFFERENCE))
    setting = name, f"{rho:g}", f"{n:,}"
    weakness = rough(n, _SKEWNESS[name])
    yield counted("CUPED, A/A", setting, false, promised=ALPHA, weakness=weakness)
    yield counted("CUPED", setting, missed, promised=ALPHA, weakness=weakness)


def _stratified(seed: int, size: Size, n: int) -> Iterator[Cell]:
    rng = stream(seed, "strata", n)
    found = [
        rejects(poststratified_difference(_strata(rng, n, _STRATUM_MEANS)).comparison.p_value, ALPHA)
        for _ in range(size.replicates)
    ]
    yield counted("post-stratified, A/A", (f"{n:,}",), found, promised=ALPHA, weakness=_weak_strata(n))


def _stratified_effect(seed: int, size: Size, name: str, n: int) -> Iterator[Cell]:
    rng = stream(seed, "strata with effect", name, n)
    effects = _STRATUM_EFFECTS[name]
    truth = sum(share * effect for share, effect in zip(_STRATA, effects, strict=True))
    missed = []
    for _ in range(size.replicates):
        comparison = poststratified_difference(_strata(rng, n, _STRATUM_MEANS, effects)).comparison
        missed.append(misses(comparison.lower, comparison.upper, truth))
    yield counted("post-stratified", (name, f"{n:,}"), missed, promised=ALPHA, weakness=_weak_strata(n))


def _stratified_variance(seed: int, size: Size, explained: float) -> Iterator[Cell]:
    rng = stream(seed, "strata variance", explained)
    mean = sum(share * own for share, own in zip(_STRATA, _STRATUM_MEANS, strict=True))
    spread = sum(share * (own - mean) ** 2 for share, own in zip(_STRATA, _STRATUM_MEANS, strict=True))
    # Within each group the variance is 1.
    stretch = math.sqrt(explained / (1.0 - explained) / spread)
    means = tuple(stretch * own for own in _STRATUM_MEANS)
    adjusted, plain, reported = [], [], []
    for _ in range(size.replicates):
        strata = _strata(rng, _USERS, means, (_DIFFERENCE,) * len(means))
        result = poststratified_difference(strata)
        adjusted.append(_stratified_difference(result))
        plain.append(_plain_difference(strata))
        reported.append(result.variance_ratio if result.variance_ratio is not None else math.nan)
    left = 1.0 - explained
    # How many of each group come into an arm is chance, which costs about one user for each group but one.
    slack = 2.0 * len(_STRATA) / _USERS
    setting = (percent(explained),)
    chance = 2.0 * math.sqrt(explained / (len(adjusted) - 1)) + slack
    measured = float(np.var(adjusted) / np.var(plain))
    yield between(
        "over the replicates", setting, replicates=len(adjusted), measured=measured, promised=left, reach=chance
    )
    yield averaged("as reported", setting, reported, promised=left, slack=slack)


def _strata(
    rng: np.random.Generator, n: int, means: Sequence[float], effects: Sequence[float] = (0.0, 0.0, 0.0)
) -> list[Stratum]:
    """Return the groups of two arms of n users, each user of a group by chance."""
    control, treatment = rng.multinomial(n, _STRATA, 2).tolist()
    return [
        Stratum(normal_sample(rng, of_control, mean), normal_sample(rng, of_treatment, mean + effect))
        for of_control, of_treatment, mean, effect in zip(control, treatment, means, effects, strict=True)
    ]


def _stratified_difference(result: PostStratified) -> float:
    difference = result.comparison.difference
    return math.nan if difference is None else difference


def _plain_difference(strata: Sequence[Stratum]) -> float:
    """Return the difference of the arms' means, whatever groups their users are of."""
    arms = ([stratum.control for stratum in strata], [stratum.treatment for stratum in strata])
    control, treatment = (sum(float(own.sum_values) for own in arm) / sum(own.n for own in arm) for arm in arms)
    return treatment - control


def _weak_strata(n: int) -> str | None:
    return _SMALL_STRATA if n * min(_STRATA) < _FEW_IN_STRATUM else None
