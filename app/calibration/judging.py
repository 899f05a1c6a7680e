"""Whether tests that found something where there is nothing keep their level. Plain functions, no I/O."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from app.calibration.values import HISTOGRAM_BINS, AdjustedCalibration, Column, MetricCalibration
from app.results.estimates import shown
from app.stats.proportions import wilson_interval
from app.stats.samples import Proportion, Sample

# The probability that the rate of a test that keeps its level lies within the bounds.
_WITHIN = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """What the tests of one split said."""

    p_value: float | None = None
    always_p_value: float | None = None
    null_reason: str | None = None
    adjusted_p_value: float | None = None
    adjusted_null_reason: str | None = None
    variance_ratio: float | None = None


def judged(column: Column, whole: Sample, tested: Sequence[Tested], alpha: float) -> MetricCalibration:
    """Say whether the p-values are those of a test that keeps its level."""
    p_values = [one.p_value for one in tested if one.p_value is not None]
    reason = next((one.null_reason for one in tested if one.p_value is None), None)
    value = whole.estimate().value
    found = _found(p_values, alpha)
    always = [one.always_p_value for one in tested if one.always_p_value is not None]
    return MetricCalibration(
        metric=column.metric,
        version=column.version,
        value=shown(value),
        resplits=len(tested),
        undefined=len(tested) - len(p_values),
        false_positives=found.false,
        false_positive_rate=found.rate,
        always_valid_false_positive_rate=sum(p < alpha for p in always) / len(always) if always else None,
        lower=found.lower,
        upper=found.upper,
        inside=found.inside,
        p_value_histogram=histogram(p_values),
        ks_p_value=uniformity(p_values) if p_values else None,
        null_reason=None if p_values else reason,
        false_positive_rate_ci_lower=found.ci_lower,
        false_positive_rate_ci_upper=found.ci_upper,
        adjusted=_judged_adjusted(column, tested, alpha),
    )


def _judged_adjusted(column: Column, tested: Sequence[Tested], alpha: float) -> AdjustedCalibration:
    p_values = [one.adjusted_p_value for one in tested if one.adjusted_p_value is not None]
    reason = next((one.adjusted_null_reason for one in tested if one.adjusted_p_value is None), None)
    ratios = [one.variance_ratio for one in tested if one.variance_ratio is not None]
    found = _found(p_values, alpha)
    return AdjustedCalibration(
        undefined=len(tested) - len(p_values),
        false_positives=found.false,
        false_positive_rate=found.rate,
        false_positive_rate_ci_lower=found.ci_lower,
        false_positive_rate_ci_upper=found.ci_upper,
        lower=found.lower,
        upper=found.upper,
        inside=found.inside,
        variance_reduction_percent=100 * (1 - sum(ratios) / len(ratios)) if ratios else None,
        null_reason=None if p_values else column.without_covariate or reason,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    false: int
    rate: float | None = None
    lower: float | None = None
    upper: float | None = None
    inside: bool | None = None
    ci_lower: float | None = None
    ci_upper: float | None = None


def _found(p_values: Sequence[float], alpha: float) -> _Found:
    n, false = len(p_values), sum(p_value < alpha for p_value in p_values)
    if not n:
        return _Found(false)
    lower, upper = bounds(n, alpha)
    interval = wilson_interval(Proportion(false, n))
    return _Found(false, false / n, lower, upper, lower <= false / n <= upper, interval.lower, interval.upper)


def bounds(n: int, alpha: float, within: float = _WITHIN) -> tuple[float, float]:
    """Return the quantiles of the share of n tests that find something, if each does so with probability alpha.

    Source: the binomial distribution's own quantiles, half of what is outside to either side.
    """
    below = np.asarray(special.bdtr(np.arange(n + 1), n, alpha), dtype=np.float64)
    tail = (1 - within) / 2
    return float(np.searchsorted(below, tail)) / n, min(1.0, float(np.searchsorted(below, 1 - tail)) / n)


def histogram(p_values: Sequence[float]) -> tuple[int, ...]:
    """Count the p-values in each of the bins of equal width between 0 and 1; 1 itself belongs into the last one."""
    counts = [0] * HISTOGRAM_BINS
    for p_value in p_values:
        counts[min(HISTOGRAM_BINS - 1, int(p_value * HISTOGRAM_BINS))] += 1
    return tuple(counts)


def uniformity(p_values: Sequence[float]) -> float:
    """Return the p-value of the hypothesis that the p-values are uniform, by Kolmogorov and Smirnov's distance.

    Source: Stephens, "Use of the Kolmogorov-Smirnov, Cramer-von Mises and related statistics without extensive tables"
    (J. R. Statist. Soc. B 32, 1970), section 3: the limiting distribution at D (sqrt(n) + 0.12 + 0.11 / sqrt(n)).
    """
    ordered, n = np.sort(np.asarray(p_values)), len(p_values)
    above = float((np.arange(1, n + 1) / n - ordered).max())
    below = float((ordered - np.arange(n) / n).max())
    root = math.sqrt(n)
    return float(special.kolmogorov(max(above, below) * (root + 0.12 + 0.11 / root)))
