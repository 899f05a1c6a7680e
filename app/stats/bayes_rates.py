"""Bayesian comparison of conversion rates: independent Beta priors, posteriors by numerical integration.

All results are integrals over the posteriors, not draws from them: the same data always give the same
numbers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import special

from app.stats.beta_tails import SMALLEST_RATE, below, logit_density, lower_logits
from app.stats.checks import check_between, check_open_unit
from app.stats.panels import WIDEST_ON_LOGITS, Array, crowded, grid
from app.stats.roots import crossing
from app.stats.samples import Proportion

_Curve: TypeAlias = Callable[[Array], Array]

# Rates live on the logit scale here, where Beta densities have one smooth hump; a flatter prior than this one
# would put mass beyond the rates that a double can tell from 0 and 1. A sharper one than the other is worth more units
# than any experiment has, and beyond it the posteriors get too narrow for doubles.
_SMALLEST_PRIOR, _LARGEST_PRIOR = 0.05, 1e15
# Tail areas at which the integration is cut into panels; between two of them densities and tails vary gently.
_TAILS = np.array([1e-18, 1e-13, 1e-9, 1e-6, 1e-4, 3e-3, 0.03, 0.16, 0.5])
_LOWEST = float(special.logit(SMALLEST_RATE))
_RULE = np.polynomial.legendre.leggauss(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaPrior:
    """Beta(alpha, beta) belief about a rate before the data; Beta(1, 1) is flat.

    Raises:
        ValueError: a parameter is below 0.05 or above 1e15.
    """

    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            check_between(f"prior {name}", value, _SMALLEST_PRIOR, _LARGEST_PRIOR)


_FLAT = BetaPrior()


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaComparison:
    """What is believed about two rates after the data; losses in units of the rate, the lift as a fraction.

    Choosing the treatment loses control - treatment where that is positive, and 0 elsewhere; its expectation
    is `expected_loss_choose_treatment`. Intervals are equal-tailed.
    """

    prob_treatment_better: float
    expected_loss_choose_treatment: float
    expected_loss_choose_control: float
    control_posterior_mean: float
    treatment_posterior_mean: float
    control_interval: tuple[float, float]
    treatment_interval: tuple[float, float]
    relative_lift_interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Posterior:
    """A Beta distribution of a rate X, on the logit scale, where rates near 0 and near 1 are alike exact."""

    a: float
    b: float

    @property
    def mean(self) -> float:
        return self.a / (self.a + self.b)

    def below(self, logits: Array) -> Array:
        """P(X < rate), at each of the logits."""
        return below(self.a, self.b, logits)

    def above(self, logits: Array) -> Array:
        """P(X > rate), at each of the logits."""
        return self.mirrored().below(-logits)

    def density(self, logits: Array) -> Array:
        """Return the density of the logit of X."""
        return logit_density(self.a, self.b, logits)

    def mirrored(self) -> "_Posterior":
        """Return the distribution of 1 - X."""
        return _Posterior(self.b, self.a)

    def lower_logit(self, tail: float) -> float:
        """Return the logit of the rate below which X is with the given probability."""
        return float(lower_logits(self.a, self.b, np.array([tail]))[0])

    def upper_logit(self, tail: float) -> float:
        """Return the logit of the rate above which X is with the given probability."""
        return -self.mirrored().lower_logit(tail)

    def interval(self, credibility: float) -> tuple[float, float]:
        tail = (1.0 - credibility) / 2.0
        return float(special.expit(self.lower_logit(tail))), float(special.expit(self.upper_logit(tail)))

    def cuts(self) -> Array:
        """Return the logits between which density and tail areas vary gently, in no order."""
        return np.append(lower_logits(self.a, self.b, _TAILS), -lower_logits(self.b, self.a, _TAILS))


def bayes_beta_binomial(
    control: Proportion,
    treatment: Proportion,
    *,
    prior: BetaPrior = _FLAT,
    credibility: float = 0.95,
) -> BetaComparison:
    """Compare two rates whose priors are independent and equal; an arm without units keeps its prior.

    Raises:
        ValueError: credibility is outside (0, 1).

    Source: Stucchio, "Bayesian A/B Testing at VWO" (technical paper, 2015): posterior Beta(alpha + successes, beta +
    failures), the chance to beat the control and the expected loss as integrals over both posteriors.
    """
    check_open_unit("credibility", credibility)
    c, t = _posterior(control, prior), _posterior(treatment, prior)
    cuts = np.append(c.cuts(), t.cuts())
    return BetaComparison(
        prob_treatment_better=_chances([c, t])[1],
        # E[max(C - T, 0)] is the integral of P(T < x < C) over x: no difference of nearly equal terms.
        expected_loss_choose_treatment=_integral(lambda x: t.below(x) * c.above(x) * _slope(x), cuts),
        expected_loss_choose_control=_integral(lambda x: c.below(x) * t.above(x) * _slope(x), cuts),
        control_posterior_mean=c.mean,
        treatment_posterior_mean=t.mean,
        control_interval=c.interval(credibility),
        treatment_interval=t.interval(credibility),
        relative_lift_interval=_lift_interval(c, t, (1.0 - credibility) / 2.0),
    )


def bayes_prob_best(arms: Sequence[Proportion], *, prior: BetaPrior = _FLAT) -> tuple[float, ...]:
    """Return, for each of the arms, (k,), the probability that its rate is the highest; they sum to 1.

    Raises:
        ValueError: there is no arm.

    Source: Scott, "A modern Bayesian look at the multi-armed bandit" (Appl. Stochastic Models Bus. Ind. 26, 2010, pp.
    639-658), on randomized probability matching: the integral of one arm's density times the other arms' distribution
    functions.
    """
    if not arms:
        raise ValueError("the best of no arms does not exist")
    return _chances([_posterior(arm, prior) for arm in arms])


def _posterior(arm: Proportion, prior: BetaPrior) -> _Posterior:
    return _Posterior(float(prior.alpha + arm.successes), float(prior.beta + (arm.trials - arm.successes)))


def _chances(posteriors: list[_Posterior]) -> tuple[float, ...]:
    cuts = np.concatenate([posterior.cuts() for posterior in posteriors])

    def chance(index: int) -> float:
        others = posteriors[:index] + posteriors[index + 1 :]

        def integrand(logits: Array) -> Array:
            product = posteriors[index].density(logits)
            for other in others:
                product = product * other.below(logits)
            return product

        return _integral(integrand, cuts)

    chances = [chance(index) for index in range(len(posteriors))]
    total = sum(chances)  # 1, but for rounding.
    return tuple(chance / total for chance in chances)


def _lift_interval(control: _Posterior, treatment: _Posterior, tail: float) -> tuple[float, float]:
    """Return the equal-tailed interval of T/C - 1, each limit from its own tail."""
    cuts_c, cuts_t = control.cuts(), special.log_expit(treatment.cuts())

    def chance(log_ratio: float, area: _Curve, beyond: float) -> float:
        """P(T < ratio * C) with T.below for area, P(T > ratio * C) with T.above; `beyond`: the area at 1."""

        def integrand(logits: Array) -> Array:
            scaled = log_ratio + special.log_expit(logits)
            return control.density(logits) * np.where(scaled < 0.0, area(_logit_of_log(scaled)), beyond)

        # The treatment's cuts, moved to the control rates that meet them.
        met = cuts_t - log_ratio
        cuts = np.append(cuts_c, _logit_of_log(met[met < 0.0]))
        if log_ratio > 0.0:
            # Here ratio * C reaches 1, where the treatment's tail goes as a power that may be far from smooth.
            end = float(_logit_of_log(np.array(-log_ratio)))
            cuts = np.append(cuts, crowded(end, min(end, float(np.min(cuts_c))), treatment.b))
        return _integral(integrand, cuts)

    # T/C < t/c takes T < t or C > c: with half the tail for each of them, the limit cannot lie further out.
    low = _log_rate(treatment.lower_logit(tail / 2)) - _log_rate(control.upper_logit(tail / 2))
    high = _log_rate(treatment.upper_logit(tail / 2)) - _log_rate(control.lower_logit(tail / 2))
    lower = crossing(lambda r: chance(r, treatment.below, 1.0) - tail, low, high)
    upper = crossing(lambda r: chance(r, treatment.above, 0.0) - tail, low, high)
    return math.expm1(lower), math.expm1(upper)


def _slope(logits: Array) -> Array:
    """Return d rate / d logit."""
    return np.asarray(special.expit(logits) * special.expit(-logits))


def _log_rate(logit: float) -> float:
    return float(special.log_expit(logit))


def _logit_of_log(log_rates: Array) -> Array:
    """Return the logits of rates below 1 that are given by their logarithms; 0 stands for any other rate."""
    inside = np.where(log_rates < 0.0, log_rates, -math.log(2.0))
    return np.asarray(inside - np.log(-np.expm1(inside)))


def _integral(integrand: _Curve, cuts: Array) -> float:
    """Integrate over logits."""
    nodes, weights = grid(np.clip(cuts, _LOWEST, -_LOWEST), _RULE, widest=WIDEST_ON_LOGITS)
    return float(integrand(nodes) @ weights)
