"""Bayesian comparisons against exact sums, closed forms and scipy."""

import math
from fractions import Fraction

import pytest
from scipy import integrate, stats

from app.stats.bayes_effect import NormalPrior, bayes_normal
from app.stats.bayes_rates import bayes_beta_binomial, bayes_prob_best
from app.stats.effects import Scale
from app.stats.rate_belief import BetaPrior
from app.stats.reasons import NullReason
from app.stats.samples import MeanSample, Proportion


def beta_function(a: int, b: int) -> Fraction:
    return Fraction(math.factorial(a - 1) * math.factorial(b - 1), math.factorial(a + b - 1))


def chance_above(a_c: int, b_c: int, a_t: int, b_t: int) -> Fraction:
    """P(T > C) for Beta variables with whole parameters: an exact sum (Evan Miller's formula)."""
    terms = (
        beta_function(a_c + i, b_c + b_t) / ((b_t + i) * beta_function(1 + i, b_t) * beta_function(a_c, b_c))
        for i in range(a_t)
    )
    return sum(terms, Fraction(0))


ARMS = [
    ((80, 900), (101, 905)),
    ((0, 10), (3, 10)),
    ((10, 10), (10, 10)),
    ((1, 500), (30, 40)),
    ((300, 400), (100, 400)),
    ((0, 0), (5, 500)),
]


@pytest.mark.parametrize(("control", "treatment"), ARMS)
def test_bayes_beta_binomial__whole_parameters__agrees_with_the_exact_sums(
    control: tuple[int, int], treatment: tuple[int, int]
) -> None:
    c, t = Proportion(*control), Proportion(*treatment)
    a_c, b_c, a_t, b_t = 1 + c.successes, 1 + c.trials - c.successes, 1 + t.successes, 1 + t.trials - t.successes

    result = bayes_beta_binomial(c, t)

    # E[max(C - T, 0)] by weighting each density with its own rate, which raises its first parameter by 1.
    loss = Fraction(a_c, a_c + b_c) * (1 - chance_above(a_c + 1, b_c, a_t, b_t))
    loss -= Fraction(a_t, a_t + b_t) * (1 - chance_above(a_c, b_c, a_t + 1, b_t))
    assert result.prob_treatment_better == pytest.approx(float(chance_above(a_c, b_c, a_t, b_t)), rel=1e-10)
    assert result.expected_loss_choose_treatment == pytest.approx(float(loss), rel=1e-8)


def test_bayes_beta_binomial__lift_interval__has_its_tails() -> None:
    c, t = stats.beta(1.5, 40.5), stats.beta(4.5, 38.5)

    result = bayes_beta_binomial(
        Proportion(1, 41), Proportion(4, 42), prior=BetaPrior(alpha=0.5, beta=0.5), credibility=0.8
    )

    lower, upper = result.relative_lift_interval
    below, _ = integrate.quad(lambda x: c.pdf(x) * t.cdf((1 + lower) * x), 0, 1, points=[1e-3, 0.02, 0.1], limit=200)
    above, _ = integrate.quad(lambda x: c.pdf(x) * t.sf((1 + upper) * x), 0, 1, points=[1e-3, 0.02, 0.1], limit=200)
    assert (below, above) == pytest.approx((0.1, 0.1), rel=1e-6)


def test_bayes_beta_binomial__trillions_of_units__is_the_normal_limit() -> None:
    n = 10**12
    c, t = Proportion(n // 10, n), Proportion(n // 10 + 10**6, n)
    z = 1e-6 / math.sqrt(2 * 0.09 / n)

    result = bayes_beta_binomial(c, t)

    assert result.prob_treatment_better == pytest.approx(stats.norm.cdf(z), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, -1.0, 0.01, math.inf, math.nan])
def test_beta_prior__parameter_out_of_range__is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="prior alpha"):
        BetaPrior(alpha=value)


def test_bayes_prob_best__two_arms__is_the_chance_to_be_better() -> None:
    c, t = Proportion(80, 900), Proportion(101, 905)

    result = bayes_prob_best([c, t])

    assert result[1] == pytest.approx(bayes_beta_binomial(c, t).prob_treatment_better, rel=1e-12)


def test_bayes_prob_best__equal_arms__share_it() -> None:
    assert bayes_prob_best([Proportion(7, 50)] * 5) == pytest.approx([0.2] * 5)


def test_bayes_prob_best__no_arms__is_refused() -> None:
    with pytest.raises(ValueError, match="no arms"):
        bayes_prob_best([])


CONTROL = MeanSample.from_sums(n=500, sum_values=38471, sum_squares=4507168)
TREATMENT = MeanSample.from_sums(n=520, sum_values=43011, sum_squares=5326764)


def test_bayes_normal__flat_prior__is_the_likelihood() -> None:
    result = bayes_normal(CONTROL, TREATMENT)

    assert result.mean is not None
    assert result.sd is not None
    belief = stats.norm(result.mean, result.sd)
    loss, _ = integrate.quad(lambda x: -x * belief.pdf(x), -60, 0)
    assert result.prob_treatment_better == pytest.approx(belief.sf(0))
    assert result.expected_loss_choose_treatment == pytest.approx(loss, rel=1e-6)
    assert (result.lower, result.upper) == pytest.approx(belief.interval(0.95))


def test_bayes_normal__sharp_prior__hardly_moves() -> None:
    result = bayes_normal(CONTROL, TREATMENT, scale=Scale.RELATIVE, prior=NormalPrior(mean=0.01, variance=1e-12))

    assert result.mean == pytest.approx(0.01, rel=1e-4)
    assert result.sd == pytest.approx(1e-6, rel=1e-4)


def test_bayes_normal__no_variance__says_so() -> None:
    assert bayes_normal(Proportion(0, 9), Proportion(0, 9)).null_reason is NullReason.ZERO_VARIANCE


@pytest.mark.parametrize(("mean", "variance"), [(math.nan, 1.0), (0.0, 0.0), (0.0, -1.0), (0.0, math.inf)])
def test_normal_prior__parameter_out_of_range__is_refused(mean: float, variance: float) -> None:
    with pytest.raises(ValueError, match="prior"):
        NormalPrior(mean=mean, variance=variance)
