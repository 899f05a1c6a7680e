"""Sufficient statistics of one arm, and the estimate with its variance that each kind gives.

All of them add up: the statistics of merged data are the sum of the statistics, `a + b`. One unit is one
user.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, Self

from app.stats.exact import Number, exact, is_rounded, without_noise
from app.stats.reasons import NullReason


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmEstimate:
    """What one arm says about its metric: the value, and the variance of that value (squared standard error).

    `value` is None where the metric is undefined, `variance` also where too few units are there to know it;
    `null_reason` then says why.
    """

    n: int
    value: Fraction | None
    variance: Fraction | None
    null_reason: NullReason | None = None

    def estimate(self) -> Self:
        """Return itself: an adjusted estimate can stand wherever a sample can."""
        return self


class Sample(Protocol):
    """Anything that gives an arm's estimate: the statistics below, or an estimate made from them."""

    def estimate(self) -> ArmEstimate:
        """Return the value of the metric and the variance of that value."""
        ...


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    # No store returns a wider counter than 64 bits.
    if not 0 <= value < 2**64:
        raise ValueError(f"{name} must lie in 0..2**64-1, got {value!r}")


def _undefined(n: int, reason: NullReason) -> ArmEstimate:
    return ArmEstimate(n=n, value=None, variance=None, null_reason=reason)


def mean_like(n: int, value: Fraction, squared_deviations: Fraction) -> ArmEstimate:
    """Return the estimate of a mean per unit whose sample variance is squared_deviations / (n - 1).

    Source: Cochran, "Sampling Techniques" (3rd ed., 1977), chapter 2, of a population without end.
    """
    if n < 2:
        return ArmEstimate(n=n, value=value, variance=None, null_reason=NullReason.TOO_FEW_UNITS)
    return ArmEstimate(n=n, value=value, variance=squared_deviations / (n * (n - 1)))


@dataclass(frozen=True, slots=True)
class Proportion:
    """How many of an arm's units converted.

    Raises:
        TypeError: a count is not an int.
        ValueError: not 0 <= successes <= trials.
    """

    successes: int
    trials: int

    def __post_init__(self) -> None:
        _check_count("successes", self.successes)
        _check_count("trials", self.trials)
        if self.successes > self.trials:
            raise ValueError(f"{self.successes} successes in {self.trials} trials")

    def __add__(self, other: Self) -> "Proportion":
        return Proportion(self.successes + other.successes, self.trials + other.trials)

    def estimate(self) -> ArmEstimate:
        """Return the rate p and its variance p(1 - p)/n, without a small-sample correction.

        Source: the binomial distribution's own variance, at the observed rate.
        """
        if self.trials == 0:
            return _undefined(0, NullReason.EMPTY_ARM)
        rate = Fraction(self.successes, self.trials)
        return ArmEstimate(n=self.trials, value=rate, variance=rate * (1 - rate) / self.trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanSample:
    """Number of units, sum and sum of squares of one value per unit; made by `from_sums`.

    `rounded` says that the sums came as doubles, which may have lost their last digits.

    Raises:
        TypeError: n is not an int.
        ValueError: n is out of range, or no real numbers have these sums.
    """

    n: int
    sum_values: Fraction
    sum_squares: Fraction
    rounded: bool = False

    def __post_init__(self) -> None:
        _check_count("n", self.n)
        if self.n == 0 and (self.sum_values or self.sum_squares):
            raise ValueError("an arm without units has no sums")
        if self.sum_squares < 0:
            raise ValueError("sum_squares is negative")
        self.squared_deviations()

    @classmethod
    def from_sums(cls, *, n: int, sum_values: Number, sum_squares: Number) -> Self:
        """Take over the sums; an int, Decimal or Fraction counts as exact, a float as rounded.

        Raises:
            TypeError: n is not an int.
            ValueError: a sum is not finite or above 1e300, or no real numbers have these sums.
        """
        return cls(
            n=n,
            sum_values=exact("sum_values", sum_values),
            sum_squares=exact("sum_squares", sum_squares),
            rounded=is_rounded(sum_values) or is_rounded(sum_squares),
        )

    def __add__(self, other: Self) -> "MeanSample":
        return MeanSample(
            n=self.n + other.n,
            sum_values=self.sum_values + other.sum_values,
            sum_squares=self.sum_squares + other.sum_squares,
            rounded=self.rounded or other.rounded,
        )

    def squared_deviations(self) -> Fraction:
        """Return the sum of squared deviations from the mean, exactly."""
        if self.n == 0:
            return Fraction(0)
        difference = self.sum_squares - self.sum_values**2 / self.n
        return without_noise("sum_values, sum_squares", difference, magnitude=self.sum_squares, rounded=self.rounded)

    def estimate(self) -> ArmEstimate:
        """Return the mean and its variance s**2/n, s**2 with n - 1 in the denominator.

        Source: see mean_like.
        """
        if self.n == 0:
            return _undefined(0, NullReason.EMPTY_ARM)
        return mean_like(self.n, self.sum_values / self.n, self.squared_deviations())


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedSums:
    """Sums of two values per unit, and of their products; `first` and `second` describe the same units.

    Raises:
        ValueError: the two counts differ, or no real numbers have these sums.
    """

    first: MeanSample
    second: MeanSample
    products: Fraction
    rounded: bool = False

    def __post_init__(self) -> None:
        if self.first.n != self.second.n:
            raise ValueError(f"one value counts {self.first.n} units, the other {self.second.n}")
        squares = self.first.sum_squares * self.second.sum_squares
        # Cauchy and Schwarz: no sum of products is larger.
        without_noise("products", squares - self.products**2, magnitude=squares, rounded=False)

    @classmethod
    def of(cls, *, first: MeanSample, second: MeanSample, products: Number) -> Self:
        """Join the moments of two values of the same units with the sum of their products.

        Raises:
            ValueError: products is not finite or above 1e300, or see the class.
        """
        rounded = first.rounded or second.rounded or is_rounded(products)
        return cls(first=first, second=second, products=exact("products", products), rounded=rounded)

    def __add__(self, other: Self) -> "PairedSums":
        return PairedSums(
            first=self.first + other.first,
            second=self.second + other.second,
            products=self.products + other.products,
            rounded=self.rounded or other.rounded,
        )

    @property
    def n(self) -> int:
        """Return the number of units."""
        return self.first.n

    def co_deviations(self) -> Fraction:
        """Return the sum of the products of both values' deviations from their means, exactly."""
        if self.n == 0:
            return Fraction(0)
        return self.products - self.first.sum_values * self.second.sum_values / self.n

    def residual_deviations(self, slope: Fraction) -> Fraction:
        """Return the sum of squared deviations of `first - slope * second` from its mean, exactly."""
        if self.n == 0:
            return Fraction(0)
        terms = self.first.sum_squares, 2 * slope * self.products, slope**2 * self.second.sum_squares
        total = self.first.sum_values - slope * self.second.sum_values
        difference = terms[0] - terms[1] + terms[2] - total**2 / self.n
        magnitude = terms[0] + abs(terms[1]) + terms[2]
        return without_noise("products", difference, magnitude=magnitude, rounded=self.rounded)


@dataclass(frozen=True, slots=True)
class RatioSample:
    """A sum over a sum, such as clicks per view, where the unit of randomisation is the user.

    `sums.first` is the numerator and `sums.second` the denominator; made by `from_sums`.
    """

    sums: PairedSums

    @classmethod
    def from_sums(
        cls,
        *,
        n: int,
        num_sum: Number,
        num_sum_squares: Number,
        den_sum: Number,
        den_sum_squares: Number,
        num_den_sum_products: Number,
    ) -> Self:
        """Take over the sums over users of the numerator, of the denominator, of their squares and products.

        Raises:
            TypeError: n is not an int.
            ValueError: a sum is not finite or above 1e300, or no real numbers have these sums.
        """
        numerator = MeanSample.from_sums(n=n, sum_values=num_sum, sum_squares=num_sum_squares)
        denominator = MeanSample.from_sums(n=n, sum_values=den_sum, sum_squares=den_sum_squares)
        return cls(PairedSums.of(first=numerator, second=denominator, products=num_den_sum_products))

    def __add__(self, other: Self) -> "RatioSample":
        return RatioSample(self.sums + other.sums)

    def estimate(self) -> ArmEstimate:
        """Return R = sum(num)/sum(den) and its delta-method variance var(num - R den) / (n mean(den)**2).

        Source: Deng, Knoblich, Lu, "Applying the Delta Method in Metric Analytics" (KDD 2018), section 3: the
        first-order variance of a ratio of two means over the same users.
        """
        n = self.sums.n
        denominator = self.sums.second.sum_values
        if n == 0:
            return _undefined(0, NullReason.EMPTY_ARM)
        if denominator == 0:
            return _undefined(n, NullReason.ZERO_DENOMINATOR)
        ratio = self.sums.first.sum_values / denominator
        return mean_like(n, ratio, self.sums.residual_deviations(ratio) / (denominator / n) ** 2)


@dataclass(frozen=True, slots=True)
class CovariateSample:
    """A value per unit with a covariate from before the exposure, for CUPED.

    `sums.first` is the value and `sums.second` the covariate; made by `from_sums`.
    """

    sums: PairedSums

    @classmethod
    def from_sums(
        cls,
        *,
        n: int,
        post_sum: Number,
        post_sum_squares: Number,
        pre_sum: Number,
        pre_sum_squares: Number,
        post_pre_sum_products: Number,
    ) -> Self:
        """Take over the sums over users of the value (post), the covariate (pre), their squares and products.

        Raises:
            TypeError: n is not an int.
            ValueError: a sum is not finite or above 1e300, or no real numbers have these sums.
        """
        post = MeanSample.from_sums(n=n, sum_values=post_sum, sum_squares=post_sum_squares)
        pre = MeanSample.from_sums(n=n, sum_values=pre_sum, sum_squares=pre_sum_squares)
        return cls(PairedSums.of(first=post, second=pre, products=post_pre_sum_products))

    def __add__(self, other: Self) -> "CovariateSample":
        return CovariateSample(self.sums + other.sums)
