"""The difference of two rates, other - over, integrated over the belief about the second of them; and its limits."""

import math

import numpy as np
from scipy import special

from app.stats.distributions import two_sided_quantile
from app.stats.panels import Array, crowded
from app.stats.rate_belief import Nodes, RateBelief

# Limits this near to where they belong, in normal deviations, are there after one more of Newton's steps: what is left
# is its square. Where the density has poles its integral is not exact, and what is left is a part of it.
_CLOSE, _CLOSE_AT_POLES = 1e-5, 1e-7
# The share of a standard deviation within which brackets are closed.
_CLOSED = 1e-12
# The nearest to 1 that a difference can be told from it.
_NEAREST = 1e-16
_MOST_STEPS = 100
# Beta densities with parameters from here on are flat enough where their rates end, and have no long tails.
_SMOOTH_FROM = 12.0
# On a panel up to this wide, in standard deviations of the other belief, the nodes do not miss where that one rises.
_WIDEST_RISE = 6.0
# The tail of the lower limit grows with it, that of the upper one shrinks.
_GROWTH = np.array([1.0, -1.0])
# In place of the logarithm of nothing.
_NOTHING = 1e-300


class DifferenceOver:
    """The difference of a rate from another one, over whose belief it is integrated: the narrower of the two.

    `nodes` are those on which what concerns both rates, unmoved, can be integrated.
    """

    def __init__(self, over: RateBelief, other: RateBelief) -> None:
        self.over, self.other = over, other
        self._cuts = over.cuts()
        self._least = min(over.a, over.b, other.a, other.b)
        self._features = self._narrow_features()
        self.nodes = Nodes.of(over, np.append(self._cuts, self._features_at(0.0)))

    def limits(self, credibility: float) -> tuple[float, float]:
        """Return the ends of the equal-tailed interval.

        Newton's method on the normal score of the tails, kept in brackets.

        Raises:
            ValueError: credibility is outside (0, 1).

        Source: Press et al., "Numerical Recipes" (3rd ed., 2007), section 9.4, on Newton's method with bisection.
        """
        over, other = self.over, self.other
        reach = two_sided_quantile(credibility)
        # Differences of rates whose beliefs crowd at the same end go as this power near 0, and as 1 otherwise.
        power = min(1.0, over.a + other.a, over.b + other.b)
        close = _CLOSE_AT_POLES if self._least < 1.0 else _CLOSE
        low, high, last = np.full(2, -1.0), np.full(2, 1.0), np.full(2, math.inf)
        mean, sd = other.mean - over.mean, math.hypot(over.sd, other.sd)
        # No further out than half of the way to where differences end.
        start = np.clip(mean - _GROWTH * reach * sd, (mean - 1.0) / 2.0, (mean + 1.0) / 2.0)
        guess = _bent(start, power)
        for _ in range(_MOST_STEPS):
            limits = _bent(guess, 1.0 / power)
            areas, densities = self._tails(limits)
            scores = special.ndtri(np.minimum(areas, 1.0))
            # How far to the right of its place each of them is, in normal deviations.
            ahead = _GROWTH * (scores + reach)
            low, high = np.where(ahead <= 0.0, guess, low), np.where(ahead >= 0.0, guess, high)
            # An area of 0 or 1 has no score, and its step is not usable.
            with np.errstate(all="ignore"):
                slopes = densities * math.sqrt(2.0 * math.pi) * np.exp(scores * scores / 2.0)
                step = guess - ahead / slopes * power * np.abs(limits) ** (power - 1.0)
            # At a kink Newton's steps may go to and fro.
            is_nearing = np.abs(ahead) <= np.maximum(last / 2.0, close)
            usable = np.isfinite(step) & (step >= low) & (step <= high) & is_nearing
            last = np.abs(ahead)
            guess = np.where(usable, step, _middle(low, high) if self._least < 1.0 else (low + high) / 2.0)
            if np.all((np.abs(ahead) <= close) | (high - low <= _CLOSED * sd**power)):
                break
        # Where they hardly differ, rounding may have changed their order.
        lower, upper = np.sort(_bent(guess, 1.0 / power))
        return float(lower), float(upper)

    def _tails(self, limits: Array) -> tuple[Array, Array]:
        """Return the areas beyond the lower and the upper limit, and the densities at them."""
        lower, upper = (self._nodes(float(limit)) for limit in limits)
        size = lower.rates.size
        rates, rests = np.append(lower.rates, upper.rates), np.append(lower.rests, upper.rests)
        moved, slopes = _moved(rates, rests, np.repeat(limits, [size, upper.rates.size]))
        areas = lower.weights @ self.other.below(moved[:size]), upper.weights @ self.other.above(moved[size:])
        densities = self.other.logit_density(moved) * slopes
        return np.array(areas), np.array([lower.weights @ densities[:size], upper.weights @ densities[size:]])

    def _nodes(self, difference: float) -> Nodes:
        """Return the nodes on which the other belief, moved by so much, can be integrated."""
        if self._least >= _SMOOTH_FROM:
            return self.nodes
        return Nodes.of(
            self.over, np.concatenate([self._cuts, self._features_at(difference), self._end_at(difference)])
        )

    def _narrow_features(self) -> Array:
        """Return where the other belief varies, if it does so within a panel: over the long tail of the flattest."""
        if self._least >= _SMOOTH_FROM:
            return np.empty(0)
        # But for the outermost panels, on which next to nothing lies.
        widest = np.max(np.diff(special.expit(np.sort(self._cuts)))[1:-1])
        return self.other.cuts() if widest > _WIDEST_RISE * self.other.sd else np.empty(0)

    def _features_at(self, difference: float) -> Array:
        """Return the places that the features have when the other belief is moved."""
        features = self._features
        moved, slopes = _moved(special.expit(features), special.expit(-features), np.array(-difference))
        return moved[(slopes > 0.0) & (moved > np.min(self._cuts)) & (moved < np.max(self._cuts))]

    def _end_at(self, difference: float) -> Array:
        """Return cuts towards where the other rate, moved, meets 0 or 1: beliefs of few units are not smooth there."""
        if difference == 0.0 or abs(difference) == 1.0:
            return np.empty(0)
        at_zero = difference < 0.0
        end = float(special.logit(-difference) if at_zero else -special.logit(difference))
        lowest, highest = float(np.min(self._cuts)), float(np.max(self._cuts))
        if not lowest < end < highest:
            return np.empty(0)
        return crowded(end, highest if at_zero else lowest, self.other.a if at_zero else self.other.b)


def _middle(low: Array, high: Array) -> Array:
    """Return the middle of brackets: of those on one side of 0, by the logarithm of the distance from where it ends."""
    ends = np.where(low > 0.0, 1.0, -1.0)
    outer, inner = np.where(low > 0.0, (high, low), (low, high))
    distance = np.sqrt(np.maximum(1.0 - ends * outer, _NEAREST) * (1.0 - ends * inner))
    return np.where((low > 0.0) | (high < 0.0), ends * (1.0 - distance), (low + high) / 2.0)


def _bent(values: Array, power: float) -> Array:
    return np.asarray(np.copysign(np.abs(values) ** power, values))


def _moved(rates: Array, rests: Array, differences: Array) -> tuple[Array, Array]:
    """Return the logits of the rates that lie so much higher, and their slopes: 0 where there is no such rate."""
    # Each from the end of [0, 1] that is near, where a double still has all its digits.
    is_small = rates <= rests
    moved = np.where(is_small, rates + differences, (1.0 + differences) - rests)
    left = np.where(is_small, (1.0 - differences) - rates, rests - differences)
    inside = (moved > 0.0) & (left > 0.0)
    moved, left = np.maximum(moved, _NOTHING), np.maximum(left, _NOTHING)
    return np.log(moved) - np.log(left), inside / (moved * left)
