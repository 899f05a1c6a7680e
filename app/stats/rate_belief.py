"""The posterior of one rate on a small grid of its own: what beliefs about several rates are integrated on.

Everything happens on the logit scale, relative to the logit of the posterior's mean, where Beta densities have
one smooth hump and no digits are lost however many units there are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from app.stats.bayes_rates import BetaPrior
from app.stats.beta_tails import lower_logits
from app.stats.samples import Proportion

Array = npt.NDArray[np.float64]

# Between two of these tail areas a posterior varies so gently that ten nodes integrate it to the last digits.
_TAILS = np.array([1e-14, 1e-7, 2e-3, 0.5])
# Far from the bulk, where only rates themselves change, no panel is wider than this.
_WIDEST_PANEL = 4.0
# Rates above that of this logit cannot be told from 1.
_HIGHEST = float(special.logit(1.0 - 1e-16))
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)
# From here on the Stirling series below is good to the last digit.
_STIRLING_FROM = 16.0


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
        return cls(prior.alpha + arm.successes, prior.beta + (arm.trials - arm.successes))

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

    def cuts(self) -> Array:
        """Return the logits between which density and tail areas vary gently, in no order."""
        logits = np.append(lower_logits(self.a, self.b, _TAILS), -lower_logits(self.b, self.a, _TAILS))
        return np.minimum(logits, _HIGHEST)

    def logit_density(self, logits: Array) -> Array:
        """Return the density of the logit of the rate at each of the logits.

        Source: the Beta density times the derivative of the rate, with Stirling's series for its constant (see
        _stirling_rest).
        """
        center = math.log(self.a / self.b)
        shift = logits - center
        total = self.a + self.b
        height = 0.5 * math.log(self.a * self.b / (2.0 * math.pi * total))
        height += _stirling_rest(total) - _stirling_rest(self.a) - _stirling_rest(self.b)
        # (x/p)**a ((1-x)/(1-p))**b with p the mean: near p both logarithms are small and nothing large cancels.
        exponent = self.a * shift - total * np.log1p(self.mean * np.expm1(shift))
        return np.asarray(np.exp(np.minimum(height + exponent, 700.0)))

    def below(self, rates: Array) -> Array:
        """P(rate < x), at each x.

        Source: Abramowitz, Stegun (1964), 26.5.1.
        """
        return np.asarray(special.betainc(self.a, self.b, rates))

    def above(self, rates: Array) -> Array:
        """P(rate > x), at each x.

        Source: Abramowitz, Stegun (1964), 26.5.1 and 26.5.2.
        """
        return np.asarray(special.betaincc(self.a, self.b, rates))

    def shortfall(self, rates: Array) -> Array:
        """E[max(x - rate, 0)], at each x.

        Source: the identity of bayes_rate_difference, integrated by parts.
        """
        rest = self.logit_density(np.asarray(special.logit(rates))) / (self.a + self.b)
        return np.maximum(0.0, (rates - self.mean) * self.below(rates) + rest)

    def excess(self, rates: Array) -> Array:
        """E[max(rate - x, 0)], at each x.

        Source: the identity of bayes_rate_difference, integrated by parts.
        """
        rest = self.logit_density(np.asarray(special.logit(rates))) / (self.a + self.b)
        return np.maximum(0.0, (self.mean - rates) * self.above(rates) + rest)


def grid(cuts: Array) -> tuple[Array, Array]:
    """Return nodes and weights of Gauss and Legendre's rule on every panel between two neighbouring cuts.

    Source: Abramowitz, Stegun, "Handbook of Mathematical Functions" (1964), 25.4.30.
    """
    ends = np.unique(np.append(cuts, np.arange(np.min(cuts), np.max(cuts), _WIDEST_PANEL)))
    half = np.diff(ends)[:, None] / 2.0
    return (ends[:-1, None] + half * (1.0 + _NODES)).ravel(), (half * _WEIGHTS).ravel()


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


def _stirling_rest(x: float) -> float:
    """Return log Gamma(x) - (x - 1/2) log x + x - log(2 pi)/2.

    Source: Abramowitz, Stegun, "Handbook of Mathematical Functions" (1964), 6.1.41.
    """
    if x < _STIRLING_FROM:
        return float(special.gammaln(x)) - (x - 0.5) * math.log(x) + x - 0.5 * math.log(2.0 * math.pi)
    square = x * x
    return (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * square)) / square) / square) / x
