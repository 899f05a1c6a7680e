"""Post-stratification: a difference within groups of like units, weighted by the groups' sizes.

The groups are known before the exposure (country, platform, a band of earlier use). Where they explain part of the
metric, the difference has less variance, and chance imbalances between the arms are taken out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from app.stats.comparisons import Comparison, compare
from app.stats.distributions import Alternative, Distribution
from app.stats.exact import all_finite, to_float
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, MeanSample, RatioSample

_Sample: TypeAlias = MeanSample | RatioSample


@dataclass(frozen=True, slots=True)
class Stratum:
    """The statistics of both arms' units in one group; a rate is the mean of its units' zeros and ones."""

    control: MeanSample
    treatment: MeanSample

    @property
    def n(self) -> int:
        return self.control.n + self.treatment.n


@dataclass(frozen=True, slots=True)
class RatioStratum:
    """The same of a sum over a sum."""

    control: RatioSample
    treatment: RatioSample

    @property
    def n(self) -> int:
        return self.control.sums.n + self.treatment.sums.n


Strata: TypeAlias = Sequence[Stratum] | Sequence[RatioStratum]


@dataclass(frozen=True, slots=True, kw_only=True)
class PostStratified:
    """The comparison of the weighted values, and these with their variances, control first, for a lift made from them.

    `variance_ratio` is the variance of the difference over that of the plain one, None where either is unknown or
    the latter is 0.
    """

    comparison: Comparison
    variance_ratio: float | None
    estimates: tuple[ArmEstimate, ArmEstimate]


def poststratified_difference(
    strata: Strata,
    *,
    confidence: float = 0.95,
    alternative: Alternative = Alternative.TWO_SIDED,
) -> PostStratified:
    """Compare two arms within strata.

    A stratum that an arm has no unit of leaves the difference undefined (EMPTY_ARM), one with a single unit its
    variance (TOO_FEW_UNITS): merge such strata with others, by a rule that does not look at the outcome.

    Raises:
        ValueError: there is no stratum, or confidence is outside (0, 1).

    Source: Miratrix, Sekhon, Yu, "Adjusting treatment effect estimates by post-stratification in randomized
    experiments" (JRSS B 75(2), 2013, pp. 369-396): tau_ps = sum_k (n_k/n) tau_k, where n_k counts the units of
    stratum k in both arms together. Its variance is the one given how many units of each stratum came into each
    arm, in the paper the more accurate one: sum_k (n_k/n)**2 (s_tk**2/n_tk + s_ck**2/n_ck), estimated as Neyman
    does, which is cautious where effects differ between the units of a stratum. The same
    formula is that of a stratified experiment in Imbens, Rubin, "Causal Inference for Statistics, Social, and
    Biomedical Sciences" (2015), chapter 9. It speaks of the units at hand: that other units might fall into the
    strata in other shares adds no variance.

    A ratio of sums becomes the ratio of the two weighted means, R = sum_k w_k x_k / sum_k w_k y_k, with the
    first-order variance sum_k w_k**2 s**2(x - R y)_k/n_k over the squared denominator: Cochran, "Sampling
    Techniques" (3rd ed., 1977), section 6.11, the combined ratio estimate.
    """
    control, treatment = poststratified_estimates(strata)
    comparison = compare(
        control, treatment, confidence=confidence, alternative=alternative, distribution=Distribution.NORMAL
    )
    return PostStratified(
        comparison=comparison,
        variance_ratio=_variance_ratio(strata, control, treatment),
        estimates=(control, treatment),
    )


def poststratified_estimates(strata: Strata) -> tuple[ArmEstimate, ArmEstimate]:
    """Return the weighted values of both arms, control first, for a lift or an interval made from them.

    Raises:
        ValueError: there is no stratum.

    Source: see poststratified_difference.
    """
    if not strata:
        raise ValueError("there must be a stratum at least")
    # A group without any unit has no weight, and nothing to say.
    used = [stratum for stratum in strata if stratum.n]
    total = sum(stratum.n for stratum in used)
    weights = [Fraction(stratum.n, total) for stratum in used]
    return (
        _weighted([stratum.control for stratum in used], weights),
        _weighted([stratum.treatment for stratum in used], weights),
    )


def _weighted(samples: Sequence[_Sample], weights: Sequence[Fraction]) -> ArmEstimate:
    """Return one arm's weighted value; of a mean the denominator is 1 for every unit."""
    counts = [_n(sample) for sample in samples]
    n = sum(counts)
    if not n or not all(counts):
        return ArmEstimate(n=n, value=None, variance=None, null_reason=NullReason.EMPTY_ARM)
    numerator = sum(weight * _sum(sample) / _n(sample) for sample, weight in zip(samples, weights, strict=True))
    denominator = sum(weight * _base(sample) / _n(sample) for sample, weight in zip(samples, weights, strict=True))
    if denominator == 0:
        return ArmEstimate(n=n, value=None, variance=None, null_reason=NullReason.ZERO_DENOMINATOR)
    value = numerator / denominator
    if min(counts) < 2:
        return ArmEstimate(n=n, value=value, variance=None, null_reason=NullReason.TOO_FEW_UNITS)
    variance = sum(
        (weight**2 * _deviations(sample, value) / (count * (count - 1)))
        for sample, weight, count in zip(samples, weights, counts, strict=True)
    )
    return ArmEstimate(n=n, value=value, variance=variance / denominator**2)


def _n(sample: _Sample) -> int:
    return sample.n if isinstance(sample, MeanSample) else sample.sums.n


def _sum(sample: _Sample) -> Fraction:
    return sample.sum_values if isinstance(sample, MeanSample) else sample.sums.first.sum_values


def _base(sample: _Sample) -> Fraction:
    return Fraction(sample.n) if isinstance(sample, MeanSample) else sample.sums.second.sum_values


def _deviations(sample: _Sample, ratio: Fraction) -> Fraction:
    """Return the sum of squared deviations of `x - ratio * y` from its mean; a mean's y is the same for all units."""
    return sample.squared_deviations() if isinstance(sample, MeanSample) else sample.sums.residual_deviations(ratio)


def _variance_ratio(strata: Strata, control: ArmEstimate, treatment: ArmEstimate) -> float | None:
    plain = [
        _merged([stratum.control for stratum in strata]).estimate().variance,
        _merged([stratum.treatment for stratum in strata]).estimate().variance,
    ]
    known = [variance for variance in (*plain, control.variance, treatment.variance) if variance is not None]
    if len(known) < 4 or known[0] + known[1] == 0:
        return None
    ratio = to_float((known[2] + known[3]) / (known[0] + known[1]))
    return ratio if all_finite(ratio) else None


def _merged(samples: Sequence[_Sample]) -> _Sample:
    """Return the statistics of all units of an arm, whatever their group."""
    means = [sample for sample in samples if isinstance(sample, MeanSample)]
    ratios = [sample for sample in samples if isinstance(sample, RatioSample)]
    return sum(means[1:], start=means[0]) if means else sum(ratios[1:], start=ratios[0])
