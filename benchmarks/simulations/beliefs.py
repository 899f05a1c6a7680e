"""Bayesian answers: right as often as they say where the prior is true, and how often they are where it is not."""

import functools
from collections.abc import Iterator

import numpy as np

from app.stats.bayes_difference import bayes_rate_difference
from app.stats.bayes_effect import NormalPrior, bayes_normal
from app.stats.bayes_rates import BetaComparison, bayes_beta_binomial, bayes_prob_best
from app.stats.rate_belief import BetaPrior
from app.stats.samples import Proportion
from benchmarks.simulations.cells import Cell, Table, averaged, chain, counted, misses, percent, stream
from benchmarks.simulations.populations import normal_sample
from benchmarks.simulations.rates import COARSE, COARSE_ALONE, likely_outcomes, variance_of_count
from benchmarks.simulations.sizes import Size

MISSED = 0.05
_FLAT, _SCEPTICAL = BetaPrior(), BetaPrior(alpha=5.0, beta=95.0)
_EFFECTS = NormalPrior(mean=0.02, variance=0.1**2)
_ARMS = (3, 5)
# Wrong choices expected at least for the mean loss to have a normal distribution.
_ENOUGH_WRONG = 20


def studies(size: Size, seed: int) -> Iterator[Table]:
    """Simulate truths from the prior, and fixed truths under a flat one."""
    smallest, largest = size.units[0], size.units[-1]
    yield Table(
        title="Beliefs about rates, the truth drawn from the prior",
        says=(
            "Credible intervals without the true rate or lift; arms said to be the best that were not, beside what "
            "the probabilities said; and the loss of choosing the arm of the smaller expected loss, as a multiple of "
            "what was expected. All of them are exact on paper."
        ),
        columns=("prior", "users per arm"),
        cells=chain(_rates(seed, size, prior, n) for prior in (_FLAT, _SCEPTICAL) for n in (smallest, largest)),
    )
    yield Table(
        title="Beliefs about differences of rates, the truth drawn from the prior",
        says="Credible intervals without the true difference, and arms said to be the better one that were not.",
        columns=("prior", "users per arm"),
        cells=chain(_differences(seed, size, prior, n) for prior in (_FLAT, _SCEPTICAL) for n in size.units),
    )
    yield Table(
        title="Beliefs about the best of several rates, the truth drawn from the prior",
        says="How often the arm with the highest probability of being the best was not, beside what was said.",
        columns=("arms", "users per arm"),
        cells=chain(_best(seed, size, k, n) for k in _ARMS for n in (smallest, largest)),
    )
    yield Table(
        title="Beliefs about effects on means",
        says=(
            "Effects drawn from the normal prior, and the same effects under the flat one. Credible intervals "
            "without the true effect, and arms said to be better that were not."
        ),
        columns=("prior", "users per arm"),
        cells=chain(_effects(seed, size, prior, n) for prior in (_EFFECTS, None) for n in size.units),
    )
    yield Table(
        title="Credible intervals of fixed rates, flat prior",
        says="How often the 95 % credible interval, read as a confidence interval, lies beside the true rate.",
        columns=("rate", "users per arm"),
        cells=chain(
            _fixed(seed, size, rate, n) for rate in size.rates for n in size.units if n * rate <= size.outcomes
        ),
    )


def _rates(seed: int, size: Size, prior: BetaPrior, n: int) -> Iterator[Cell]:
    rng = stream(seed, "beliefs", prior, n)
    count = max(size.costly // 2, 2)
    truths = rng.beta(prior.alpha, prior.beta, (count, 2))
    answers = []
    successes = rng.binomial(n, truths).tolist()
    for truth, (c, t) in zip(truths.tolist(), successes, strict=True):
        answers.append((truth, bayes_beta_binomial(Proportion(c, n), Proportion(t, n), prior=prior)))
    setting = _named(prior), f"{n:,}"
    missed_rates = [misses(*said.control_interval, truth[0]) for truth, said in answers]
    missed_lifts = [misses(*said.relative_lift_interval, truth[1] / truth[0] - 1.0) for truth, said in answers]
    yield counted("rate", setting, missed_rates, promised=MISSED)
    yield counted("lift", setting, missed_lifts, promised=MISSED)
    said = [min(said.prob_treatment_better, 1.0 - said.prob_treatment_better) for _, said in answers]
    # The arm said to be the better one.
    was: list[bool | None] = [(said.prob_treatment_better > 0.5) != (truth[1] > truth[0]) for truth, said in answers]
    yield _calibration("better arm", setting, said, was)
    if sum(said) >= _ENOUGH_WRONG:
        lost, feared = np.transpose([_losses(truth, said) for truth, said in answers])
        # Scaled by its expectation, the loss is 1 in the mean.
        yield averaged("loss", setting, (1.0 + (lost - feared) / feared.mean()).tolist(), promised=1.0)


def _differences(seed: int, size: Size, prior: BetaPrior, n: int) -> Iterator[Cell]:
    rng = stream(seed, "belief differences", prior, n)
    truths = rng.beta(prior.alpha, prior.beta, (size.replicates // 2, 2))
    missed, said, was = list[bool | None](), list[float](), list[bool | None]()
    for truth, (c, t) in zip(truths.tolist(), rng.binomial(n, truths).tolist(), strict=True):
        belief = bayes_rate_difference(Proportion(c, n), Proportion(t, n), prior=prior)
        missed.append(misses(belief.lower, belief.upper, truth[1] - truth[0]))
        said.append(min(belief.prob_treatment_better, 1.0 - belief.prob_treatment_better))
        was.append((belief.prob_treatment_better > 0.5) != (truth[1] > truth[0]))
    setting = _named(prior), f"{n:,}"
    yield counted("difference", setting, missed, promised=MISSED)
    yield _calibration("better arm", setting, said, was)


def _named(prior: BetaPrior) -> str:
    return f"Beta({prior.alpha:g}, {prior.beta:g})"


def _losses(truth: list[float], said: BetaComparison) -> tuple[float, float]:
    """Return what choosing the arm of the smaller expected loss did lose, and was expected to."""
    if said.expected_loss_choose_treatment <= said.expected_loss_choose_control:
        return max(0.0, truth[0] - truth[1]), said.expected_loss_choose_treatment
    return max(0.0, truth[1] - truth[0]), said.expected_loss_choose_control


def _calibration(method: str, setting: tuple[str, ...], said: list[float], was: list[bool | None]) -> Cell:
    """Return how often what was said to be wrong with these probabilities was wrong."""
    return counted(method, setting, was, promised=float(np.mean(said)))


def _best(seed: int, size: Size, k: int, n: int) -> Iterator[Cell]:
    rng = stream(seed, "best", k, n)
    truths = rng.beta(_FLAT.alpha, _FLAT.beta, (size.costly, k))
    said, was = list[float](), list[bool | None]()
    for truth, successes in zip(truths, rng.binomial(n, truths).tolist(), strict=True):
        chances = bayes_prob_best([Proportion(x, n) for x in successes])
        said.append(1.0 - max(chances))
        was.append(int(np.argmax(chances)) != int(np.argmax(truth)))
    yield _calibration("best arm", (str(k), f"{n:,}"), said, was)


def _effects(seed: int, size: Size, prior: NormalPrior | None, n: int) -> Iterator[Cell]:
    rng = stream(seed, "effects", prior, n)
    missed, said, was = list[bool | None](), list[float](), list[bool | None]()
    effects = rng.normal(_EFFECTS.mean, _EFFECTS.variance**0.5, size.replicates)
    for effect in effects.tolist():
        answer = bayes_normal(normal_sample(rng, n, 1.0), normal_sample(rng, n, 1.0 + effect), prior=prior)
        missed.append(misses(answer.lower, answer.upper, effect))
        better = answer.prob_treatment_better if answer.prob_treatment_better is not None else 0.5
        said.append(min(better, 1.0 - better))
        was.append((better > 0.5) != (effect > 0.0))
    setting = "flat" if prior is None else f"normal({prior.mean:g}, {prior.variance**0.5:g} squared)", f"{n:,}"
    few_users = n <= 50  # The variance counts as known; with 49 degrees of freedom it is known to a fifth.
    why = "the variance is taken as known, which a few dozen users do not make true" if few_users else None
    yield counted("effect", setting, missed, promised=MISSED, weakness=why)
    if prior is not None:
        yield _calibration("better arm", setting, said, was)


def _fixed(seed: int, size: Size, rate: float, n: int) -> Iterator[Cell]:
    @functools.cache
    def missed(successes: int) -> bool | None:
        arm = Proportion(successes, n)
        return misses(*bayes_beta_binomial(arm, arm).control_interval, rate)

    drawn = stream(seed, "fixed", rate, n).binomial(n, rate, size.replicates).tolist()
    weak = variance_of_count(n, rate) < COARSE_ALONE
    yield counted(
        "rate",
        (percent(rate), f"{n:,}"),
        [missed(successes) for successes in drawn],
        promised=MISSED,
        exact=sum(chance for successes, chance in likely_outcomes(n, rate) if missed(successes)) if weak else None,
        weakness=COARSE if weak else None,
    )
