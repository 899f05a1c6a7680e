"""From measured sums to the statistics' samples. Plain values, no I/O."""

from app.measurement.values import Sums
from app.metrics.values import Kind, Recipe
from app.stats.samples import CovariateSample, MeanSample, Proportion, RatioSample

_RATIOS = frozenset({Kind.MEAN, Kind.RATIO, Kind.TIME_TO_FIRST})
_RATES = frozenset({Kind.CONVERSION, Kind.RETENTION, Kind.FUNNEL})


def sample_of(recipe: Recipe, sums: Sums) -> Proportion | MeanSample | RatioSample:
    """Return the sample that the recipe's kind is compared by; a quantile has none, but an interval of its own.

    Raises:
        ValueError: the recipe is a quantile, or a sum is above 1e300.
    """
    if recipe.kind is Kind.QUANTILE:
        raise ValueError("a quantile is compared by its interval, not by sums")
    if recipe.kind in _RATES and recipe.cap is None and recipe.winsorize is None:
        return Proportion(sums.users, sums.n)
    if recipe.kind not in _RATIOS:
        return MeanSample.from_sums(n=sums.n, sum_values=sums.numerator, sum_squares=sums.numerator_squares)
    return RatioSample.from_sums(
        n=sums.n,
        num_sum=sums.numerator,
        num_sum_squares=sums.numerator_squares,
        den_sum=sums.denominator,
        den_sum_squares=sums.denominator_squares,
        num_den_sum_products=sums.products,
    )


def covariate_sample_of(recipe: Recipe, sums: Sums) -> CovariateSample | None:
    """Return the sample for CUPED, `None` where the recipe has no covariate.

    Raises:
        ValueError: a sum is above 1e300.
    """
    if recipe.covariate_days is None:
        return None
    return CovariateSample.from_sums(
        n=sums.n,
        post_sum=sums.numerator,
        post_sum_squares=sums.numerator_squares,
        pre_sum=sums.covariate,
        pre_sum_squares=sums.covariate_squares,
        post_pre_sum_products=sums.covariate_products,
    )
