"""CUPED: a difference of means with less variance, by what the users did before the exposure."""

from dataclasses import dataclass
from fractions import Fraction

from app.stats.comparisons import Comparison, compare
from app.stats.distributions import Alternative, Distribution
from app.stats.exact import all_finite, to_float
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, CovariateSample, mean_like


@dataclass(frozen=True, slots=True, kw_only=True)
class CupedComparison:
    """The comparison of the adjusted means, and the theta they were adjusted by.

    `comparison.control` and `.treatment` are the adjusted means. `variance_ratio` is the variance of the
    difference with adjustment over that without, None where the latter is 0 or unknown.
    """

    theta: float | None
    comparison: Comparison
    variance_ratio: float | None


def cuped_difference(
    control: CovariateSample,
    treatment: CovariateSample,
    *,
    confidence: float = 0.95,
    alternative: Alternative = Alternative.TWO_SIDED,
    distribution: Distribution = Distribution.WELCH_T,
) -> CupedComparison:
    """Compare two means after taking out what the covariate predicts.

    A covariate without variance predicts nothing: theta is then 0 and the comparison that of the plain means.

    Raises:
        ValueError: confidence is outside (0, 1).

    Source: Deng, Xu, Kohavi, Walker, "Improving the Sensitivity of Online Controlled Experiments by Utilizing
    Pre-Experiment Data" (WSDM 2013), section 3.2: theta = cov(post, pre)/var(pre) over both arms, adjusted
    mean mean(post) - theta (mean(pre) - pooled mean(pre)).
    """
    adjusted_c, adjusted_t = cuped_estimates(control, treatment)
    comparison = compare(
        adjusted_c,
        adjusted_t,
        confidence=confidence,
        alternative=alternative,
        distribution=distribution,
    )
    theta = to_float(_theta(control + treatment))
    return CupedComparison(
        theta=theta if comparison.difference is not None and all_finite(theta) else None,
        comparison=comparison,
        variance_ratio=_variance_ratio(
            (adjusted_c, adjusted_t), (control.sums.first.estimate(), treatment.sums.first.estimate())
        ),
    )


def cuped_estimates(control: CovariateSample, treatment: CovariateSample) -> tuple[ArmEstimate, ArmEstimate]:
    """Return the adjusted estimates of both arms, control first, for a lift or an interval made from them.

    Source: see cuped_difference.
    """
    pooled = control + treatment
    return _adjusted(control, pooled), _adjusted(treatment, pooled)


def _theta(pooled: CovariateSample) -> Fraction:
    variation = pooled.sums.second.squared_deviations()
    return pooled.sums.co_deviations() / variation if variation else Fraction(0)


def _adjusted(arm: CovariateSample, pooled: CovariateSample) -> ArmEstimate:
    n = arm.sums.n
    if n == 0:
        return ArmEstimate(n=0, value=None, variance=None, null_reason=NullReason.EMPTY_ARM)
    theta = _theta(pooled)
    shift = arm.sums.second.sum_values / n - pooled.sums.second.sum_values / pooled.sums.n
    mean = arm.sums.first.sum_values / n - theta * shift
    return mean_like(n, mean, arm.sums.residual_deviations(theta))


def _variance_ratio(adjusted: tuple[ArmEstimate, ArmEstimate], plain: tuple[ArmEstimate, ArmEstimate]) -> float | None:
    variances = [arm.variance for arm in adjusted + plain]
    known = [variance for variance in variances if variance is not None]
    if len(known) < 4 or known[2] + known[3] == 0:
        return None
    ratio = to_float((known[0] + known[1]) / (known[2] + known[3]))
    return ratio if all_finite(ratio) else None
