"""The standard deviation of one user's contribution, by which any kind of metric is planned like a mean.

An estimate whose variance is deviation**2 / n has the power of a mean with that deviation; so each kind of metric
needs its deviation alone, and `power_means` does the rest.
"""

import math

from app.stats.checks import check_finite, check_open_unit, check_positive


def ratio_deviation(
    *,
    ratio: float,
    numerator_std: float,
    denominator_mean: float,
    denominator_std: float,
    correlation: float,
) -> float:
    """Return the deviation of a ratio of sums, such as clicks per view.

    ratio: sum of numerators over sum of denominators; the others are of one user's totals.

    Raises:
        ValueError: denominator_mean is not positive, a deviation is negative, the correlation is outside [-1, 1], or
            nothing varies.

    Source: Deng, Knoblich, Lu, "Applying the Delta Method in Metric Analytics" (KDD 2018), section 3: the variance
    of numerator - ratio denominator over the squared mean of the denominator.
    """
    check_finite("baseline", ratio)
    check_positive("denominator_mean", denominator_mean)
    for name, value in (("numerator_std", numerator_std), ("denominator_std", denominator_std)):
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(f"{name} must be 0 or more, got {value!r}")
    if not -1.0 <= correlation <= 1.0:
        raise ValueError(f"correlation must lie in [-1, 1], got {correlation!r}")
    slope = ratio * denominator_std
    # A sum of two squares, so that it cannot fall below 0 by rounding.
    along, across = numerator_std * correlation - slope, numerator_std * math.sqrt(1.0 - correlation**2)
    deviation = math.hypot(along, across) / denominator_mean
    check_positive("the deviation of the ratio", deviation)
    return deviation


def quantile_deviation(
    *, quantile: float, density: float, values_per_user: float = 1.0, design_effect: float = 1.0
) -> float:
    """Return the deviation of a quantile of values, of which each user has several on average.

    density: of the values' distribution at the quantile, for example 0.01 / (the 95.5th - the 94.5th percentile).
    design_effect: how much larger the variance is than if all values were independent; 1 + (values_per_user - 1)
    times the correlation of two values of one user.

    Raises:
        ValueError: quantile is outside (0, 1), or another number is not positive.

    Source: Deng, Knoblich, Lu (KDD 2018), section 4: the variance of a sample quantile, that of the share of values
    below it, with users as clusters, over the squared density; Kish, "Survey Sampling" (1965), on clusters of equal
    size, for the design effect 1 + (size - 1) times the correlation within them.
    """
    check_open_unit("quantile", quantile)
    for name, value in (
        ("density", density),
        ("values_per_user", values_per_user),
        ("design_effect", design_effect),
    ):
        check_positive(name, value)
    deviation = math.sqrt(quantile * (1.0 - quantile) * (design_effect / values_per_user)) / density
    check_positive("the deviation of the quantile", deviation)
    return deviation


def adjusted_deviation(deviation: float, *, correlation: float) -> float:
    """Return what is left of a deviation after CUPED with a covariate of the given correlation with the metric.

    Raises:
        ValueError: deviation is not positive, or the correlation is not strictly between -1 and 1.

    Source: Deng, Xu, Kohavi, Walker, "Improving the Sensitivity of Online Controlled Experiments by Utilizing
    Pre-Experiment Data" (WSDM 2013), section 3.2.1: the variance falls by the factor 1 - correlation**2.
    """
    check_positive("deviation", deviation)
    if not -1.0 < correlation < 1.0:
        raise ValueError(f"correlation must lie strictly between -1 and 1, got {correlation!r}")
    return deviation * math.sqrt((1.0 - correlation) * (1.0 + correlation))
