"""Belief about the difference of two conversion rates: chances, losses and the interval, by quadrature.

The same posteriors as in `bayes_rates`, integrated over the narrower of the two alone, which is fast enough for
a page of comparisons.
"""

from dataclasses import dataclass

import numpy as np

from app.stats.checks import check_open_unit
from app.stats.difference_limits import DifferenceOver
from app.stats.rate_belief import BetaPrior, RateBelief
from app.stats.samples import Proportion

_FLAT = BetaPrior()


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
        # Means near 0 have all their digits, means near 1 have not: look at the complements, whose order is opposite.
        c, t = t.mirrored(), c.mirrored()
    if c == t:
        return _evened(_over_control(c, t, credibility))
    # The arms' order decides nothing, so that swapping them turns the answer around exactly.
    over_control = (c.sd, c.a) <= (t.sd, t.a)
    return _over_control(c, t, credibility) if over_control else _over_treatment(c, t, credibility)


def _evened(found: RateDifference) -> RateDifference:
    """Take from a belief about equal arms what integration has left in favour of one of them."""
    loss = (found.expected_loss_choose_control + found.expected_loss_choose_treatment) / 2.0
    reach = (found.upper - found.lower) / 2.0
    return RateDifference(
        mean=0.0,
        lower=-reach,
        upper=reach,
        prob_treatment_better=0.5,
        expected_loss_choose_control=loss,
        expected_loss_choose_treatment=loss,
    )


def _over_control(c: RateBelief, t: RateBelief, credibility: float) -> RateDifference:
    difference = DifferenceOver(c, t)
    below, above, shortfall, excess = _integrated(difference)
    lower, upper = difference.limits(credibility)
    return RateDifference(
        mean=t.mean - c.mean,
        lower=lower,
        upper=upper,
        prob_treatment_better=above / (below + above),
        expected_loss_choose_control=excess,
        expected_loss_choose_treatment=shortfall,
    )


def _over_treatment(c: RateBelief, t: RateBelief, credibility: float) -> RateDifference:
    difference = DifferenceOver(t, c)
    below, above, shortfall, excess = _integrated(difference)
    lower, upper = difference.limits(credibility)
    return RateDifference(
        mean=t.mean - c.mean,
        lower=-upper,
        upper=-lower,
        prob_treatment_better=below / (below + above),
        expected_loss_choose_control=shortfall,
        expected_loss_choose_treatment=excess,
    )


def _integrated(difference: DifferenceOver) -> tuple[float, float, float, float]:
    """Return the chances that the other rate is below and above, and by how much it is expected to be either."""
    other, nodes = difference.other, difference.nodes
    below, above = other.below(nodes.logits), other.above(nodes.logits)
    parts = np.stack([below, above, *other.losses(nodes.logits, below, above)]) @ nodes.weights
    return float(parts[0]), float(parts[1]), float(parts[2]), float(parts[3])
