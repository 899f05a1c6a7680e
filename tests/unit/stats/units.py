"""Statistics of arms, made from the values of their units."""

from collections.abc import Sequence
from fractions import Fraction

from app.stats.samples import CovariateSample, MeanSample, Proportion, RatioSample

Pair = tuple[Fraction, Fraction]


def rate_of(conversions: Sequence[bool]) -> Proportion:
    return Proportion(sum(conversions), len(conversions))


def mean_of(values: Sequence[Fraction]) -> MeanSample:
    return MeanSample.from_sums(
        n=len(values), sum_values=sum(values, Fraction(0)), sum_squares=sum((v * v for v in values), Fraction(0))
    )


def ratio_of(pairs: Sequence[Pair]) -> RatioSample:
    """Numerator and denominator of each unit."""
    a, b, ab = mean_of([a for a, _ in pairs]), mean_of([b for _, b in pairs]), _products(pairs)
    return RatioSample.from_sums(
        n=len(pairs),
        num_sum=a.sum_values,
        num_sum_squares=a.sum_squares,
        den_sum=b.sum_values,
        den_sum_squares=b.sum_squares,
        num_den_sum_products=ab,
    )


def adjustable_of(pairs: Sequence[Pair]) -> CovariateSample:
    """Value and covariate of each unit."""
    post, pre, products = mean_of([a for a, _ in pairs]), mean_of([b for _, b in pairs]), _products(pairs)
    return CovariateSample.from_sums(
        n=len(pairs),
        post_sum=post.sum_values,
        post_sum_squares=post.sum_squares,
        pre_sum=pre.sum_values,
        pre_sum_squares=pre.sum_squares,
        post_pre_sum_products=products,
    )


def _products(pairs: Sequence[Pair]) -> Fraction:
    return sum((a * b for a, b in pairs), Fraction(0))
