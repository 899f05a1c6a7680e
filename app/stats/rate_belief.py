"""The prior and the posterior of one rate, and its small grid: what beliefs about several rates are integrated on.

Everything happens on the logit scale, relative to the logit of the posterior's mean, where Beta densities have
one smooth hump and no digits are lost however many units there are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from app.stats.beta_tails import below, logit_density, lower_logits
from app.stats.checks import check_between
from app.stats.panels import WIDEST_ON_LOGITS, Array, grid
from app.stats.samples import Proportion

# A flatter prior than this one would put mass beyond the rates that a double can tell from 0 and 1. A sharper one than
# the other is worth more units than any experiment has, and beyond it the posteriors get too narrow for doubles.
_SMALLEST_PRIOR, _LARGEST_PRIOR = 0.05, 1e15
# Between two of these tail areas a posterior varies so gently that ten nodes integrate it to the last digits.
_TAILS = np.array([1e-18, 1e-7, 2e-3, 0.5])
RULE = np.polynomial.legendre.leggauss(10)


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


@dataclass(frozen=True, slots=True)
class RateBelief:
    """Beta(a, b) about a rate."""

    a: float
    b: float

    @classmethod
    def after(cls, arm: Proportion, prior: BetaPrior) -> "RateBelief":
        """Return the posterior of an arm's rate.

        Source: Gelman et al., "Bayesian Data Analysis" (3rd ed., 2013), section 2.4: the Beta prior is conjugate.
        """
        return cls(float(prior.alpha + arm.successes), float(prior.beta + (arm.trials - arm.successes)))

    @property
    def mean(self) -> float:
        return self.a / (self.a + self.b)

    @property
    def sd(self) -> float:
        total = self.a + self.b
        return math.sqrt(self.a * self.b / (total + 1.0)) / total

    def mirrored(self) -> "RateBelief":
        """Return what is believed about 1 minus the rate."""
        return RateBelief(self.b, self.a)

    def cuts(self, tails: Array = _TAILS) -> Array:
        """Return the logits with these areas on either side, between which all areas vary gently; in no order."""
        return np.append(lower_logits(self.a, self.b, tails), -lower_logits(self.b, self.a, tails))

    def logit_density(self, logits: Array) -> Array:
        """Return the density of the logit of the rate at each of the logits.

        Source: see beta_tails.logit_density.
        """
        return logit_density(self.a, self.b, logits)

    def below(self, logits: Array) -> Array:
        """P(rate < x), at each x of these logits.

        Source: see beta_tails.below.
        """
        return below(self.a, self.b, logits)

    def above(self, logits: Array) -> Array:
        """P(rate > x), at each x of these logits.

        Source: see beta_tails.below.
        """
        return below(self.b, self.a, -logits)

    def losses(self, logits: Array, below: Array, above: Array) -> tuple[Array, Array]:
        """E[max(x - rate, 0)] and E[max(rate - x, 0)], at each x of these logits with these areas on its sides.

        Source: the identity of bayes_rate_difference, integrated by parts.
        """
        rest = self.logit_density(logits) / (self.a + self.b)
        gap = special.expit(logits) - self.mean
        return np.maximum(0.0, gap * below + rest), np.maximum(0.0, rest - gap * above)


@dataclass(frozen=True, slots=True)
class Nodes:
    """Where a belief is integrated over: logits, the rates and what they lack to 1, and weights that sum to 1."""

    logits: Array
    rates: Array
    rests: Array
    weights: Array

    @classmethod
    def of(cls, belief: RateBelief, cuts: Array) -> "Nodes":
        """Return the nodes on the panels between the cuts."""
        logits, widths = grid(cuts, RULE, widest=WIDEST_ON_LOGITS)
        weights = belief.logit_density(logits) * widths
        return cls(logits, special.expit(logits), special.expit(-logits), np.asarray(weights / np.sum(weights)))


def shared_chances(densities: Sequence[Array], below: Sequence[Array]) -> tuple[float, ...]:
    """Return each quantity's chance to be the largest, (k,).

    densities: of each quantity at the nodes times the nodes' weights; below: P(quantity < node), or P(quantity > node)
    for the chance to be the smallest.

    Source: Scott, "A modern Bayesian look at the multi-armed bandit" (Appl. Stochastic Models Bus. Ind. 26, 2010, pp.
    639-658), on randomized probability matching: the integral of one density times the other distribution functions.
    """
    chances = []
    for index, density in enumerate(densities):
        others = [area for other, area in enumerate(below) if other != index]
        chances.append(float(np.sum(density * np.prod(others, axis=0))) if others else 1.0)
    total = sum(chances)  # 1, but for rounding.
    return tuple(min(1.0, chance / total) for chance in chances)
