"""The chance of each arm to be the best of all, for rates and for values with a normal likelihood."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from app.stats.bayes_effect import NormalPrior
from app.stats.bayes_rates import BetaPrior
from app.stats.exact import all_finite, to_float
from app.stats.rate_belief import Array, RateBelief, grid, shared_chances
from app.stats.samples import Proportion, Sample

_FLAT = BetaPrior()
# Standard deviations from a normal's mean at which the integration is cut; beyond the last lies less than 1e-15.
_CUTS = np.array([-8.0, -6.0, -4.0, -2.5, -1.0, 0.0, 1.0, 2.5, 4.0, 6.0, 8.0])
# The mass that the nodes find of a density. The flattest of priors may have most of theirs at rates that a double
# cannot tell from 1; where the nodes find still less, or more than there is, they do not integrate the density.
_LEAST_MASS, _MOST_MASS = 0.25, 1.01


def prob_best_rate(
    arms: Sequence[Proportion], *, prior: BetaPrior = _FLAT, lowest: bool = False
) -> tuple[float, ...] | None:
    """Return, for each of the arms, (k,), the chance that its rate is the highest, or the lowest; they sum to 1.

    `None` where units or a prior are so many that doubles do not hold the posteriors, far from any experiment.

    Raises:
        ValueError: there is no arm.

    Source: see rate_belief.shared_chances.
    """
    if not arms:
        raise ValueError("the best of no arms does not exist")
    beliefs = [RateBelief.after(arm, prior) for arm in arms]
    # Rates near 0 have all their digits, rates near 1 have not: if the best are there, look at the complements, whose
    # order is opposite.
    means = [belief.mean for belief in beliefs]
    mirrored = (min(means) if lowest else max(means)) > 0.5
    if mirrored:
        beliefs = [belief.mirrored() for belief in beliefs]
    logits, widths = grid(np.concatenate([belief.cuts() for belief in beliefs]))
    rates = np.asarray(special.expit(logits))
    densities = [belief.logit_density(logits) * widths for belief in beliefs]
    if not _are_integrated(densities):
        return None
    others_are_above = lowest is not mirrored
    areas = [belief.above(rates) if others_are_above else belief.below(rates) for belief in beliefs]
    return shared_chances(densities, areas) if all(np.all(np.isfinite(area)) for area in areas) else None


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
    moments: list[tuple[float, float]] = []
    for arm, prior in zip(arms, priors or [None] * len(arms), strict=True):
        found = _posterior(arm, prior)
        if found is None:
            return None
        moments.append(found)
    sign = -1.0 if lowest else 1.0
    # On a scale on which the widest posterior has a deviation near 1, whatever the metric's unit.
    unit, center = max(sd for _, sd in moments), moments[0][0]
    means = [sign * (mean - center) / unit for mean, _ in moments]
    deviations = [sd / unit for _, sd in moments]
    if not all_finite(*means) or min(deviations) < 1e-9:
        return None
    cuts = np.concatenate([mean + _CUTS * sd for mean, sd in zip(means, deviations, strict=True)])
    nodes, widths = _panels(cuts)
    scores = [(nodes - mean) / sd for mean, sd in zip(means, deviations, strict=True)]
    densities = [
        np.exp(-0.5 * score * score) / (sd * math.sqrt(2.0 * math.pi)) * widths
        for score, sd in zip(scores, deviations, strict=True)
    ]
    if not _are_integrated(densities):
        return None
    return shared_chances(densities, [np.asarray(special.ndtr(score)) for score in scores])


def _are_integrated(densities: Sequence[Array]) -> bool:
    """Say whether the nodes find about the whole mass of each density; a sum that is not a number is none."""
    return all(_LEAST_MASS <= float(np.sum(density)) <= _MOST_MASS for density in densities)


def _panels(cuts: "np.typing.NDArray[np.float64]") -> tuple["np.typing.NDArray[np.float64]", ...]:
    """Cut the line at the given points only: far apart normals leave nothing to integrate between them."""
    ends = np.unique(cuts)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    half = np.diff(ends)[:, None] / 2.0
    return (ends[:-1, None] + half * (1.0 + nodes)).ravel(), (half * weights).ravel()


def _posterior(arm: Sample, prior: NormalPrior | None) -> tuple[float, float] | None:
    """Return mean and standard deviation."""
    estimate = arm.estimate()
    if estimate.value is None or estimate.variance is None:
        return None
    mean, variance = to_float(estimate.value), to_float(estimate.variance)
    if not all_finite(mean, variance) or variance <= 0.0:
        return None
    if prior is not None:
        total = prior.variance + variance
        mean = prior.variance / total * mean + variance / total * prior.mean
        variance = prior.variance / total * variance
    sd = math.sqrt(variance)
    return (mean, sd) if all_finite(mean, sd) and sd > 0.0 else None
