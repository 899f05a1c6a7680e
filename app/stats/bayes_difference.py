"""Belief about the difference of two conversion rates: chances, losses and the interval, by quadrature.

The same posteriors as in `bayes_rates`, integrated over the narrower of the two alone, which is fast enough for
a page of comparisons.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import special

from app.stats.bayes_rates import BetaPrior
from app.stats.checks import check_open_unit
from app.stats.distributions import two_sided_quantile
from app.stats.rate_belief import Array, RateBelief, grid
from app.stats.samples import Proportion

_FLAT = BetaPrior()
# A step this small, as a share of the difference's standard deviation, is Newton's last: what is left is its square.
_LAST_STEP = 1e-5
_MOST_STEPS = 100
# Beta densities with parameters from here on are flat enough where their rates end.
_SMOOTH_FROM = 12.0
_CROWD = np.array([-0.1, -0.01, -1e-3, -1e-4, -1e-6, 0.0, 1e-6, 1e-4, 1e-3, 0.01, 0.1])

# Of the rates integrated over and the difference: the area below it, and the density there.
_Inner: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]
_Below: TypeAlias = Callable[[Array], tuple[Array, Array]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RateDifference:
    """What is believed about treatment rate minus control rate; losses in units of the rate.

    Choosing the treatment loses control - treatment where that is positive, and 0 elsewhere. The interval is
    equal-tailed.
    """

    mean: float
    lower: float
    upper: float
    prob_treatment_better: float
    expected_loss_choose_control: float
    expected_loss_choose_treatment: float


def bayes_rate_difference(
    control: Proportion, treatment: Proportion, *, prior: BetaPrior = _FLAT, credibility: float = 0.95
) -> RateDifference:
    """Return the posterior of the difference of two rates whose priors are independent and equal.

    Raises:
        ValueError: credibility is outside (0, 1).

    Source: Stucchio, "Bayesian A/B Testing at VWO" (technical paper, 2015): posterior Beta(alpha + successes, beta +
    failures), the chance to beat the control and the expected loss as integrals over both posteriors. The inner
    integrals are closed: E[max(X - x, 0)] = (m - x) P(X > x) + x (1 - x) f(x)/(a + b) for X from Beta(a, b) with mean
    m and density f.
    """
    check_open_unit("credibility", credibility)
    c, t = RateBelief.after(control, prior), RateBelief.after(treatment, prior)
    if c.mean + t.mean > 1.0:
        # Rates near 0 have all their digits, rates near 1 have not: look at the complements, whose order is opposite.
        c, t = t.mirrored(), c.mirrored()
    return _over_control(c, t, credibility) if c.sd <= t.sd else _over_treatment(c, t, credibility)


def _over_control(c: RateBelief, t: RateBelief, credibility: float) -> RateDifference:
    rates, weights = _nodes(c)
    lower, upper = _limits(
        c,
        t,
        credibility,
        below=_summed(c, t, rates, weights, lambda x, d: (t.below(_inside(x + d)), _density(t, x + d)), sign=1.0),
    )
    return RateDifference(
        mean=t.mean - c.mean,
        lower=lower,
        upper=upper,
        prob_treatment_better=min(1.0, float(t.above(rates) @ weights)),
        expected_loss_choose_control=float(t.excess(rates) @ weights),
        expected_loss_choose_treatment=float(t.shortfall(rates) @ weights),
    )


def _over_treatment(c: RateBelief, t: RateBelief, credibility: float) -> RateDifference:
    rates, weights = _nodes(t)
    lower, upper = _limits(
        c,
        t,
        credibility,
        below=_summed(t, c, rates, weights, lambda x, d: (c.above(_inside(x - d)), _density(c, x - d)), sign=-1.0),
    )
    return RateDifference(
        mean=t.mean - c.mean,
        lower=lower,
        upper=upper,
        prob_treatment_better=min(1.0, float(c.below(rates) @ weights)),
        expected_loss_choose_control=float(c.shortfall(rates) @ weights),
        expected_loss_choose_treatment=float(c.excess(rates) @ weights),
    )


def _nodes(belief: RateBelief, cuts: Array | None = None) -> tuple[Array, Array]:
    """Return rates, and the belief's weights at them, which sum to 1."""
    logits, widths = grid(belief.cuts() if cuts is None else cuts)
    weights = belief.logit_density(logits) * widths
    return np.asarray(special.expit(logits)), np.asarray(weights / np.sum(weights))


def _summed(over: RateBelief, other: RateBelief, rates: Array, weights: Array, inner: _Inner, *, sign: float) -> _Below:
    """Return the function of the difference that integrates both parts of `inner` over one belief.

    The other rate, x + sign d, meets 0 or 1 somewhere on the way. Beliefs of few units are not smooth there: panels
    then end at that place and crowd around it.
    """
    if min(over.a, over.b, other.a, other.b) >= _SMOOTH_FROM:

        def at_once(differences: Array) -> tuple[Array, Array]:
            areas, slopes = inner(rates, differences[:, None])
            return np.asarray(areas @ weights), np.asarray(slopes @ weights)

        return at_once
    cuts = over.cuts()

    def one(difference: float) -> tuple[float, float]:
        ends = np.array([-sign * difference, 1.0 - sign * difference])
        crowd = (ends[:, None] + _CROWD).ravel()
        places = special.logit(crowd[(crowd > 0.0) & (crowd < 1.0)])
        x, w = _nodes(over, np.append(cuts, places[(places > cuts.min()) & (places < cuts.max())]))
        areas, slopes = inner(x, np.array(difference))
        return float(areas @ w), float(slopes @ w)

    def one_by_one(differences: Array) -> tuple[Array, Array]:
        found = np.array([one(float(difference)) for difference in differences])
        return found[:, 0], found[:, 1]

    return one_by_one


def _inside(rates: Array) -> Array:
    return np.clip(rates, 0.0, 1.0)


def _density(belief: RateBelief, rates: Array) -> Array:
    """Return the density of the rate, 0 where there are no rates."""
    inside = (rates > 0.0) & (rates < 1.0)
    kept = np.where(inside, rates, 0.5)
    slope = belief.logit_density(np.asarray(special.logit(kept))) / (kept * (1.0 - kept))
    return np.asarray(np.where(inside, slope, 0.0))


def _limits(c: RateBelief, t: RateBelief, credibility: float, *, below: _Below) -> tuple[float, float]:
    """Return the differences below which the tails lie, by Newton's method on the normal score, kept in brackets."""
    sd = math.hypot(c.sd, t.sd)
    reach = two_sided_quantile(credibility)
    wanted = np.array([-reach, reach])
    low, high = np.full(2, -1.0), np.full(2, 1.0)
    guess = np.clip((t.mean - c.mean) + wanted * sd, -1.0 + 1e-9, 1.0 - 1e-9)
    for _ in range(_MOST_STEPS):
        area, density = below(guess)
        score = special.ndtri(np.clip(area, 0.0, 1.0))
        low = np.where(score <= wanted, np.maximum(low, guess), low)
        high = np.where(score >= wanted, np.minimum(high, guess), high)
        # An area of 0 or 1 has no score, and its step is not usable.
        with np.errstate(all="ignore"):
            step = guess - (score - wanted) / (density * math.sqrt(2.0 * math.pi) * np.exp(score * score / 2.0))
        usable = np.isfinite(step) & (step >= low) & (step <= high)
        new = np.where(usable, step, (low + high) / 2.0)
        done = np.all(np.abs(new - guess) <= _LAST_STEP * sd)
        guess = new
        if done:
            break
    return float(guess[0]), float(guess[1])
