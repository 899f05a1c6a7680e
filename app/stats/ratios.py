"""Ratios of sums per user, such as clicks per view or value per event."""

from app.stats.comparisons import Comparison, compare
from app.stats.distributions import Alternative, Distribution
from app.stats.samples import RatioSample


def ratio_difference(
    control: RatioSample,
    treatment: RatioSample,
    *,
    confidence: float = 0.95,
    alternative: Alternative = Alternative.TWO_SIDED,
    distribution: Distribution = Distribution.NORMAL,
) -> Comparison:
    """Compare two ratios of sums, with the users as independent units.

    With WELCH_T the degrees of freedom come from the number of users and the delta-method variances.

    Raises:
        ValueError: confidence is outside (0, 1).

    Source: Deng, Knoblich, Lu, "Applying the Delta Method in Metric Analytics" (KDD 2018), section 3.
    """
    return compare(control, treatment, confidence=confidence, alternative=alternative, distribution=distribution)
