"""Beliefs about differences and about the best arm, against other integrations of the same posteriors."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from app.stats.bayes_best import prob_best_rate, prob_best_value
from app.stats.bayes_difference import bayes_rate_difference
from app.stats.bayes_effect import NormalPrior, bayes_normal
from app.stats.bayes_rates import bayes_beta_binomial, bayes_prob_best
from app.stats.rate_belief import BetaPrior
from app.stats.samples import MeanSample, Proportion

_PAIRS = [
    (Proportion(0, 5), Proportion(5, 5)),
    (Proportion(0, 10), Proportion(3, 12)),
    (Proportion(0, 0), Proportion(5, 1000)),
    (Proportion(9, 10), Proportion(990, 1000)),
    (Proportion(1, 10**6), Proportion(5, 10**6)),
    (Proportion(50_000, 500_000), Proportion(51_000, 500_000)),
    (Proportion(10**9, 10**10), Proportion(10**9 + 10**5, 10**10)),
    (Proportion(100, 1000), Proportion(1000, 100_000)),
]


@pytest.mark.parametrize(("control", "treatment"), _PAIRS)
def test_bayes_rate_difference__any_arms__agrees_with_the_slow_integration(
    control: Proportion, treatment: Proportion
) -> None:
    found, slow = bayes_rate_difference(control, treatment), bayes_beta_binomial(control, treatment)

    assert found.prob_treatment_better == pytest.approx(slow.prob_treatment_better, abs=1e-9)
    assert found.expected_loss_choose_control == pytest.approx(slow.expected_loss_choose_control, abs=1e-9)
    assert found.expected_loss_choose_treatment == pytest.approx(slow.expected_loss_choose_treatment, abs=1e-9)


@pytest.mark.parametrize(
    ("control", "treatment", "prior"),
    [
        ((0, 5), (5, 5), 1.0),
        ((0, 0), (0, 0), 1.0),
        ((0, 3), (0, 2), 0.5),
        ((0, 20), (1, 40), 0.1),
        ((1, 3), (400, 1000), 1.0),
        ((30, 100), (35, 90), 1.0),
        ((97, 100), (80, 90), 2.0),
    ],
)
def test_bayes_rate_difference__limits__have_their_tails_outside(
    control: tuple[int, int], treatment: tuple[int, int], prior: float
) -> None:
    found = bayes_rate_difference(
        Proportion(*control), Proportion(*treatment), prior=BetaPrior(alpha=prior, beta=prior), credibility=0.9
    )

    before = stats.beta(prior + control[0], prior + control[1] - control[0])
    after = stats.beta(prior + treatment[0], prior + treatment[1] - treatment[0])
    for limit, area in ((found.lower, 0.05), (found.upper, 0.95)):
        kinks = [place for place in (before.cdf(-limit), before.cdf(1 - limit)) if 0 < place < 1]
        below, _ = integrate.quad(
            lambda share, limit=limit: after.cdf(before.ppf(share) + limit), 0, 1, limit=400, points=kinks or None
        )
        assert below == pytest.approx(area, abs=1e-7)


_ARMS = st.integers(0, 3000).flatmap(lambda n: st.builds(Proportion, st.integers(0, n), st.just(n)))


@settings(max_examples=60, deadline=None)
@given(_ARMS, _ARMS)
def test_bayes_rate_difference__arms_swapped__mirrors(control: Proportion, treatment: Proportion) -> None:
    one, other = bayes_rate_difference(control, treatment), bayes_rate_difference(treatment, control)

    assert one.prob_treatment_better + other.prob_treatment_better == pytest.approx(1, abs=1e-8)
    assert one.expected_loss_choose_control == pytest.approx(other.expected_loss_choose_treatment, abs=1e-8)
    assert (one.lower, one.upper) == pytest.approx((-other.upper, -other.lower), abs=1e-6)
    assert one.lower <= one.mean <= one.upper
    loss = one.expected_loss_choose_control - one.expected_loss_choose_treatment
    assert loss == pytest.approx(one.mean, abs=1e-8)


@pytest.mark.parametrize(
    "arms",
    [
        [Proportion(1, 10), Proportion(5, 9), Proportion(0, 3)],
        [Proportion(50_000, 500_000), Proportion(50_100, 500_000), Proportion(50_050, 500_000)],
        [Proportion(10, 100), Proportion(900, 1000)],
        [Proportion(3, 4)],
    ],
)
def test_prob_best_rate__any_arms__agrees_with_the_slow_integration(arms: Sequence[Proportion]) -> None:
    found = prob_best_rate(arms)

    assert found == pytest.approx(bayes_prob_best(arms), abs=1e-9)
    failures = [Proportion(arm.trials - arm.successes, arm.trials) for arm in arms]
    assert prob_best_rate(failures, lowest=True) == pytest.approx(found, abs=1e-9)


def _mean(n: int, mean: float, sd: float) -> MeanSample:
    return MeanSample.from_sums(n=n, sum_values=n * mean, sum_squares=n * mean**2 + (n - 1) * sd**2)


def test_prob_best_value__two_arms__is_the_chance_that_the_difference_is_above_zero() -> None:
    arms = [_mean(100, 10.0, 3.0), _mean(120, 10.4, 5.0)]

    found, want = prob_best_value(arms), bayes_normal(*arms).prob_treatment_better

    assert found is not None
    assert found[1] == pytest.approx(want, abs=1e-9)
    assert prob_best_value(arms, lowest=True) == pytest.approx(found[::-1], abs=1e-9)


def test_prob_best_value__three_arms_with_priors__agrees_with_draws() -> None:
    arms = [_mean(50, 1.0, 2.0), _mean(60, 1.3, 2.5), _mean(4000, 1.1, 2.0)]
    prior = NormalPrior(mean=1.0, variance=0.04)

    found = prob_best_value(arms, priors=[prior, prior, None])

    rng = np.random.default_rng(7)
    draws = []
    for (mean, sd, n), own in zip(
        ((1.0, 2.0, 50), (1.3, 2.5, 60), (1.1, 2.0, 4000)), (prior, prior, None), strict=True
    ):
        variance = sd**2 / n
        if own is not None:
            total = own.variance + variance
            mean = own.variance / total * mean + variance / total * own.mean  # noqa: PLW2901  # The posterior's.
            variance *= own.variance / total
        draws.append(rng.normal(mean, variance**0.5, 400_000))
    best = np.bincount(np.argmax(draws, axis=0), minlength=3) / 400_000
    assert found == pytest.approx(best, abs=0.004)


def test_prob_best_value__arm_without_variance__is_unknown() -> None:
    assert prob_best_value([_mean(100, 1.0, 1.0), _mean(1, 1.0, 0.0)]) is None


@pytest.mark.parametrize("best", [prob_best_rate, prob_best_value])
def test_prob_best__no_arm__is_refused(best: object) -> None:
    with pytest.raises(ValueError, match="no arms"):
        best([])  # type: ignore[operator]  # Either of the two functions.


@pytest.mark.parametrize("lowest", [False, True])
def test_prob_best_rate__rates_near_1__are_as_exact_as_their_complements(lowest: bool) -> None:  # noqa: FBT001  # A case.
    near_0 = [Proportion(3, 10**8), Proportion(5, 10**8), Proportion(10, 10**3)]
    near_1 = [Proportion(arm.trials - arm.successes, arm.trials) for arm in near_0]

    found = prob_best_rate(near_1, lowest=lowest)

    assert found == pytest.approx(prob_best_rate(near_0, lowest=not lowest), rel=1e-9)


def test_prob_best_rate__best_near_1_and_others_near_0__agrees_with_the_slow_integration() -> None:
    arms = [Proportion(3_357_791, 3_357_792), Proportion(6827, 6827), Proportion(1, 9330), Proportion(0, 10**9)]
    prior = BetaPrior(alpha=0.5, beta=0.5)

    assert prob_best_rate(arms, prior=prior) == pytest.approx(bayes_prob_best(arms, prior=prior), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize(
    ("arms", "prior", "chances"),
    [
        ([Proportion(1, 3), Proportion(2**62, 2**63)], BetaPrior(alpha=1e6, beta=1.0), [1.0, 0.0]),
        # One standard deviation of the difference apart.
        ([Proportion(2**62, 2**63), Proportion(2**62 + 2**31, 2**63)], BetaPrior(), [0.15865525, 0.84134475]),
        ([*[Proportion(1, 3)] * 10, Proportion(2**62, 2**63)], BetaPrior(alpha=1e6, beta=1.0), [*[0.1] * 10, 0.0]),
    ],
)
def test_prob_best_rate__posteriors_that_doubles_hardly_hold__are_still_told_apart(
    arms: Sequence[Proportion], prior: BetaPrior, chances: Sequence[float]
) -> None:
    assert prob_best_rate(arms, prior=prior) == pytest.approx(chances, abs=1e-6)


@pytest.mark.parametrize("trials", [10, 10**6, 10**12])
@pytest.mark.parametrize("prior", [0.05, 0.5, 1.0])
def test_prob_best_rate__rates_of_0_and_1__are_told_apart(trials: int, prior: float) -> None:
    arms = [Proportion(0, trials), Proportion(trials, trials)]

    found = prob_best_rate(arms, prior=BetaPrior(alpha=prior, beta=prior))

    assert found == pytest.approx((0.0, 1.0), abs=1e-5)
