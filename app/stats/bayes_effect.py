"""Bayesian reading of an effect: a normal prior on the difference or the lift, and a normal likelihood."""

import math
import sys
from dataclasses import dataclass
from fractions import Fraction

from app.stats.checks import check_finite, check_open_unit, check_positive
from app.stats.distributions import normal_density, normal_sf, two_sided_quantile
from app.stats.effects import Scale, effect_of
from app.stats.exact import all_finite, to_float
from app.stats.reasons import NullReason
from app.stats.samples import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalPrior:
    """Belief about the effect before the data, on the effect's own scale.

    Raises:
        ValueError: mean is not finite, or variance is not a positive finite number.
    """

    mean: float
    variance: float

    def __post_init__(self) -> None:
        check_finite("prior mean", self.mean)
        check_positive("prior variance", self.variance)


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectPosterior:
    """What is believed about the effect after the data; losses on the effect's scale.

    Choosing the treatment loses -effect where the effect is negative, and 0 elsewhere; choosing the control
    loses the effect where it is positive. The interval is equal-tailed. What is undefined is None, with the
    reason.
    """

    mean: float | None
    sd: float | None
    lower: float | None
    upper: float | None
    prob_treatment_better: float | None
    expected_loss_choose_control: float | None
    expected_loss_choose_treatment: float | None
    null_reason: NullReason | None = None


def bayes_normal(
    control: Sample,
    treatment: Sample,
    *,
    scale: Scale = Scale.ABSOLUTE,
    prior: NormalPrior | None = None,
    credibility: float = 0.95,
) -> EffectPosterior:
    """Return the posterior of the treatment's effect; no prior means a flat, improper one.

    Raises:
        ValueError: credibility is outside (0, 1).

    Source: Gelman et al., "Bayesian Data Analysis" (3rd ed., 2013), section 2.5, the normal mean with known
    variance: precisions add, and the mean is weighted by them. The losses are the normal's partial expectations,
    sd (density(z) -+ z tail(+-z)).
    """
    check_open_unit("credibility", credibility)
    quantile = two_sided_quantile(credibility)
    effect = effect_of(control, treatment, scale)
    if effect.estimate is None or effect.variance is None:
        return _undefined(effect.null_reason)
    mean, variance = effect.estimate, effect.variance
    if prior is not None:
        # In doubles the sum of both variances may overflow, and their product may vanish.
        moments = weighted(Fraction(mean), Fraction(variance), Fraction(prior.mean), Fraction(prior.variance))
        mean, variance = to_float(moments[0]), to_float(moments[1])
    if not sys.float_info.min <= min(variance, effect.variance) <= sys.float_info.max:
        # Smaller doubles than the least have lost digits.
        return _undefined(NullReason.OUT_OF_RANGE)
    sd = math.sqrt(variance)
    if not all_finite(mean / sd, mean - quantile * sd, mean + quantile * sd):
        return _undefined(NullReason.OUT_OF_RANGE)
    z = mean / sd
    return EffectPosterior(
        mean=mean,
        sd=sd,
        lower=mean - quantile * sd,
        upper=mean + quantile * sd,
        prob_treatment_better=normal_sf(-z),
        expected_loss_choose_control=sd * _partial_expectation(z),
        expected_loss_choose_treatment=sd * _partial_expectation(-z),
    )


def weighted(
    first: Fraction, first_variance: Fraction, second: Fraction, second_variance: Fraction
) -> tuple[Fraction, Fraction]:
    """Return mean and variance of what two independent normal sources say together, exactly.

    Source: Gelman et al. (2013), section 2.5.
    """
    total = first_variance + second_variance
    return (first * second_variance + second * first_variance) / total, first_variance * second_variance / total


def _partial_expectation(z: float) -> float:
    """Return E[max(Z + z, 0)] for a standard normal Z, never below 0."""
    return max(0.0, normal_density(z) + z * normal_sf(-z))


def _undefined(reason: NullReason | None) -> EffectPosterior:
    return EffectPosterior(
        mean=None,
        sd=None,
        lower=None,
        upper=None,
        prob_treatment_better=None,
        expected_loss_choose_control=None,
        expected_loss_choose_treatment=None,
        null_reason=reason,
    )
