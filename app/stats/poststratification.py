"""Post-stratification: a difference of means within groups of like units, weighted by the groups' sizes.

The groups are known before the exposure (country, platform, a band of earlier use). Where they explain part of the
metric, the difference has less variance, and chance imbalances between the arms are taken out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from app.stats.comparisons import Comparison, compare
from app.stats.distributions import Alternative, Distribution
from app.stats.exact import all_finite, to_float
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, MeanSample


@dataclass(frozen=True, slots=True)
class Stratum:
    """The statistics of both arms' units in one group."""

    control: MeanSample
    treatment: MeanSample

    @property
    def n(self) -> int:
        return self.control.n + self.treatment.n


@dataclass(frozen=True, slots=True, kw_only=True)
class PostStratified:
    """The comparison of the weighted means.

    `variance_ratio` is the variance of the difference over that of the plain one, None where either is unknown or
    the latter is 0.
    """

    comparison: Comparison
    variance_ratio: float | None


def poststratified_difference(
    strata: Sequence[Stratum],
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
    experiments" (JRSS B 75, 2013), section 2: the differences within strata, weighted by n_k/n; and section 3, the
    variance given how many of each stratum came into each arm, with every arm's own sample variance.
    """
    control, treatment = poststratified_estimates(strata)
    comparison = compare(
        control, treatment, confidence=confidence, alternative=alternative, distribution=Distribution.NORMAL
    )
    return PostStratified(comparison=comparison, variance_ratio=_variance_ratio(strata, control, treatment))


def poststratified_estimates(strata: Sequence[Stratum]) -> tuple[ArmEstimate, ArmEstimate]:
    """Return the weighted means of both arms, control first, for a lift or an interval made from them.

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


def _weighted(samples: Sequence[MeanSample], weights: Sequence[Fraction]) -> ArmEstimate:
    n = sum(sample.n for sample in samples)
    estimates = [sample.estimate() for sample in samples]
    if not estimates or any(estimate.value is None for estimate in estimates):
        return ArmEstimate(n=n, value=None, variance=None, null_reason=NullReason.EMPTY_ARM)
    value, variance, known = Fraction(0), Fraction(0), True
    for estimate, weight in zip(estimates, weights, strict=True):
        value += weight * (estimate.value or 0)
        variance += weight**2 * (estimate.variance or 0)
        known = known and estimate.variance is not None
    if not known:
        return ArmEstimate(n=n, value=value, variance=None, null_reason=NullReason.TOO_FEW_UNITS)
    return ArmEstimate(n=n, value=value, variance=variance)


def _variance_ratio(strata: Sequence[Stratum], control: ArmEstimate, treatment: ArmEstimate) -> float | None:
    plain_c, plain_t = strata[0].control, strata[0].treatment
    for stratum in strata[1:]:
        plain_c, plain_t = plain_c + stratum.control, plain_t + stratum.treatment
    before = (plain_c.estimate().variance, plain_t.estimate().variance)
    after = (control.variance, treatment.variance)
    if before[0] is None or before[1] is None or after[0] is None or after[1] is None or not before[0] + before[1]:
        return None
    ratio = to_float((after[0] + after[1]) / (before[0] + before[1]))
    return ratio if all_finite(ratio) else None
