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

    `comparison.control` and `.treatment` are the adjusted means, `estimates` the same with their variances, control
    first, for a lift made from them. `variance_ratio` is the variance of the difference with adjustment over that
    without, None where the latter is 0 or unknown.
    """

    theta: float | None
    comparison: Comparison
    variance_ratio: float | None
    estimates: tuple[ArmEstimate, ArmEstimate]


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
    Pre-Experiment Data" (WSDM 2013), section 3.2.1: theta = cov(post, pre)/var(pre), and 3.2.2: the same theta for
    both arms, from their pooled users. Adjusted mean: mean(post) - theta (mean(pre) - pooled mean(pre)).
    """
    pooled = control + treatment
    slope = _theta(pooled)
    adjusted_c, adjusted_t = _adjusted(control, pooled, slope), _adjusted(treatment, pooled, slope)
    comparison = compare(
        adjusted_c,
        adjusted_t,
        confidence=confidence,
        alternative=alternative,
        distribution=distribution,
    )
    theta = to_float(slope)
    return CupedComparison(
        theta=theta if comparison.difference is not None and all_finite(theta) else None,
        comparison=comparison,
        variance_ratio=_variance_ratio(
            (adjusted_c, adjusted_t), (control.sums.first.estimate(), treatment.sums.first.estimate())
        ),
        estimates=(adjusted_c, adjusted_t),
    )


def cuped_estimates(control: CovariateSample, treatment: CovariateSample) -> tuple[ArmEstimate, ArmEstimate]:
    """Return the adjusted estimates of both arms, control first, for a lift or an interval made from them.

    Source: see cuped_difference.
    """
    pooled = control + treatment
    theta = _theta(pooled)
    return _adjusted(control, pooled, theta), _adjusted(treatment, pooled, theta)


def _theta(pooled: CovariateSample) -> Fraction:
    variation = pooled.sums.second.squared_deviations()
    return pooled.sums.co_deviations() / variation if variation else Fraction(0)


def _adjusted(arm: CovariateSample, pooled: CovariateSample, theta: Fraction) -> ArmEstimate:
    n = arm.sums.n
    if n == 0:
        return ArmEstimate(n=0, value=None, variance=None, null_reason=NullReason.EMPTY_ARM)
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
