"""The chance of each arm to be the best of all, for rates and for values with a normal likelihood."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy import special

from app.stats.bayes_effect import NormalPrior, weighted
from app.stats.exact import all_finite, to_float
from app.stats.panels import WIDEST_ON_LOGITS, Array, grid
from app.stats.rate_belief import RULE, BetaPrior, RateBelief, shared_chances
from app.stats.samples import Proportion, Sample

_FLAT = BetaPrior()
# Standard deviations from a normal's mean at which the integration is cut; beyond the last lies less than 1e-15.
_CUTS = np.array([-8.0, -6.0, -4.0, -2.5, -1.0, 0.0, 1.0, 2.5, 4.0, 6.0, 8.0])
_RULE = np.polynomial.legendre.leggauss(12)
# The least deviation beside the widest one of which the nodes around its mean are different doubles.
_NARROWEST = 1e-100
# The share of its mass by which the nodes may miss a density that they integrate.
_MISSED = 1e-6


def prob_best_rate(arms: Sequence[Proportion], *, prior: BetaPrior = _FLAT, lowest: bool = False) -> tuple[float, ...]:
    """Return, for each of the arms, (k,), the chance that its rate is the highest, or the lowest; they sum to 1.

    Raises:
        ValueError: there is no arm.

    Source: see rate_belief.shared_chances.
    """
    if not arms:
        raise ValueError("the best of no arms does not exist")
    beliefs = [RateBelief.after(arm, prior) for arm in arms]
    logits, widths = grid(np.concatenate([belief.cuts() for belief in beliefs]), RULE, widest=WIDEST_ON_LOGITS)
    densities = [belief.logit_density(logits) * widths for belief in beliefs]
    return shared_chances(densities, [belief.above(logits) if lowest else belief.below(logits) for belief in beliefs])


def prob_best_value(
    arms: Sequence[Sample], *, priors: Sequence[NormalPrior | None] | None = None, lowest: bool = False
) -> tuple[float, ...] | None:
    """Return, for each of the arms, (k,), the chance that its value is the highest, or the lowest.

    `None` where an arm's value or variance is undefined, or all arms are certain. No prior means a flat one.

    Raises:
        ValueError: there is no arm, or not one prior for each.

    Source: see rate_belief.shared_chances; each arm's posterior is normal, Gelman et al., "Bayesian Data
    Analysis" (3rd ed., 2013), section 2.5, the normal mean with known variance.
    """
    if not arms:
        raise ValueError("the best of no arms does not exist")
    origin = _narrowest(arms)
    moments: list[tuple[float, float]] = []
    for arm, prior in zip(arms, priors or [None] * len(arms), strict=True):
        found = _posterior(arm, prior, origin)
        if found is None:
            return None
        moments.append(found)
    sign = -1.0 if lowest else 1.0
    # On a scale on which the widest posterior has a deviation near 1, whatever the metric's unit.
    unit = max(sd for _, sd in moments)
    means = [sign * mean / unit for mean, _ in moments]
    deviations = [sd / unit for _, sd in moments]
    if not all_finite(*means) or min(deviations) < _NARROWEST:
        return None
    cuts = np.concatenate([mean + _CUTS * sd for mean, sd in zip(means, deviations, strict=True)])
    # Cut there only: far apart normals leave nothing to integrate between them.
    nodes, widths = grid(cuts, _RULE)
    scores = [(nodes - mean) / sd for mean, sd in zip(means, deviations, strict=True)]
    densities = [
        np.exp(-0.5 * score * score) / (sd * math.sqrt(2.0 * math.pi)) * widths
        for score, sd in zip(scores, deviations, strict=True)
    ]
    if not _are_integrated(densities):
        return None
    return shared_chances(densities, [np.asarray(special.ndtr(score)) for score in scores])


def _narrowest(arms: Sequence[Sample]) -> Fraction:
    """Return the value that is known best: beside it doubles are finest, and the narrowest density needs them most."""
    known = [(found.variance, found.value) for found in (arm.estimate() for arm in arms) if found.variance is not None]
    values = [(variance, value) for variance, value in known if value is not None]
    return min(values)[1] if values else Fraction(0)


def _are_integrated(densities: Sequence[Array]) -> bool:
    """Say whether the nodes find the mass of each density; a sum that is not a number is none."""
    return all(abs(float(np.sum(density)) - 1.0) <= _MISSED for density in densities)


def _posterior(arm: Sample, prior: NormalPrior | None, origin: Fraction) -> tuple[float, float] | None:
    """Return mean, from the origin, and standard deviation."""
    estimate = arm.estimate()
    if estimate.value is None or estimate.variance is None:
        return None
    # Means that are large against their deviations would lose their difference in doubles.
    mean, variance = estimate.value - origin, estimate.variance
    if variance == 0:
        return None
    if prior is not None:
        mean, variance = weighted(mean, variance, Fraction(prior.mean) - origin, Fraction(prior.variance))
    moments = to_float(mean), math.sqrt(to_float(variance))
    return moments if all_finite(*moments) and moments[1] > 0.0 else None
