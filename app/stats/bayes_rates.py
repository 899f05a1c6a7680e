"""Bayesian comparison of conversion rates as it is defined: each number one integral over the posteriors.

Nothing is drawn, so that the same data always give the same numbers. Results take their beliefs about rates from
`bayes_difference` and `bayes_best`, which get by with far fewer nodes. This module is what they are held against: it
integrates over the same posteriors (`rate_belief`), but cuts them more finely and takes a rule of higher order. It
alone has the interval of the lift.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import special

from app.stats.beta_tails import SMALLEST_RATE, lower_logits
from app.stats.checks import check_open_unit
from app.stats.panels import WIDEST_ON_LOGITS, Array, crowded, grid
from app.stats.rate_belief import BetaPrior, RateBelief, shared_chances
from app.stats.roots import crossing
from app.stats.samples import Proportion

_Curve: TypeAlias = Callable[[Array], Array]

# Tail areas at which the integration is cut into panels; between two of them densities and tails vary gently.
_TAILS = np.array([1e-18, 1e-13, 1e-9, 1e-6, 1e-4, 3e-3, 0.03, 0.16, 0.5])
_LOWEST = float(special.logit(SMALLEST_RATE))
_RULE = np.polynomial.legendre.leggauss(16)
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
    c, t = RateBelief.after(control, prior), RateBelief.after(treatment, prior)
    cuts = np.append(c.cuts(_TAILS), t.cuts(_TAILS))
    return BetaComparison(
        prob_treatment_better=_chances([c, t])[1],
        # E[max(C - T, 0)] is the integral of P(T < x < C) over x: no difference of nearly equal terms.
        expected_loss_choose_treatment=_integral(lambda x: t.below(x) * c.above(x) * _slope(x), cuts),
        expected_loss_choose_control=_integral(lambda x: c.below(x) * t.above(x) * _slope(x), cuts),
        control_posterior_mean=c.mean,
        treatment_posterior_mean=t.mean,
        control_interval=_interval(c, credibility),
        treatment_interval=_interval(t, credibility),
        relative_lift_interval=_lift_interval(c, t, (1.0 - credibility) / 2.0),
    )


def bayes_prob_best(arms: Sequence[Proportion], *, prior: BetaPrior = _FLAT) -> tuple[float, ...]:
    """Return, for each of the arms, (k,), the probability that its rate is the highest; they sum to 1.

    Raises:
        ValueError: there is no arm.

    Source: see rate_belief.shared_chances.
    """
    if not arms:
        raise ValueError("the best of no arms does not exist")
    return _chances([RateBelief.after(arm, prior) for arm in arms])


def _chances(beliefs: Sequence[RateBelief]) -> tuple[float, ...]:
    nodes, weights = _grid(np.concatenate([belief.cuts(_TAILS) for belief in beliefs]))
    densities = [belief.logit_density(nodes) * weights for belief in beliefs]
    return shared_chances(densities, [belief.below(nodes) for belief in beliefs])


def _lower_logit(belief: RateBelief, tail: float) -> float:
    """Return the logit of the rate below which the other one is with the given probability."""
    return float(lower_logits(belief.a, belief.b, np.array([tail]))[0])


def _upper_logit(belief: RateBelief, tail: float) -> float:
    """Return the logit of the rate above which the other one is with the given probability."""
    return -_lower_logit(belief.mirrored(), tail)


def _interval(belief: RateBelief, credibility: float) -> tuple[float, float]:
    tail = (1.0 - credibility) / 2.0
    return float(special.expit(_lower_logit(belief, tail))), float(special.expit(_upper_logit(belief, tail)))


def _lift_interval(control: RateBelief, treatment: RateBelief, tail: float) -> tuple[float, float]:
    """Return the equal-tailed interval of T/C - 1, each limit from its own tail."""
    cuts_c, cuts_t = control.cuts(_TAILS), special.log_expit(treatment.cuts(_TAILS))

    def chance(log_ratio: float, area: _Curve, beyond: float) -> float:
        """P(T < ratio * C) with T.below for area, P(T > ratio * C) with T.above; `beyond`: the area at 1."""

        def integrand(logits: Array) -> Array:
            scaled = log_ratio + special.log_expit(logits)
            return control.logit_density(logits) * np.where(scaled < 0.0, area(_logit_of_log(scaled)), beyond)

        # The treatment's cuts, moved to the control rates that meet them.
        met = cuts_t - log_ratio
        cuts = np.append(cuts_c, _logit_of_log(met[met < 0.0]))
        if log_ratio > 0.0:
            # Here ratio * C reaches 1, where the treatment's tail goes as a power that may be far from smooth.
            end = float(_logit_of_log(np.array(-log_ratio)))
            cuts = np.append(cuts, crowded(end, min(end, float(np.min(cuts_c))), treatment.b))
        return _integral(integrand, cuts)

    # T/C < t/c takes T < t or C > c: with half the tail for each of them, the limit cannot lie further out.
    low = _log_rate(_lower_logit(treatment, tail / 2)) - _log_rate(_upper_logit(control, tail / 2))
    high = _log_rate(_upper_logit(treatment, tail / 2)) - _log_rate(_lower_logit(control, tail / 2))
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
    nodes, weights = _grid(cuts)
    return float(integrand(nodes) @ weights)


def _grid(cuts: Array) -> tuple[Array, Array]:
    return grid(np.clip(cuts, _LOWEST, -_LOWEST), _RULE, widest=WIDEST_ON_LOGITS)
