"""What users spend: distributions with known mean and skewness, many zeros included."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.stats.samples import MeanSample

Values = npt.NDArray[np.float64]

# The tail index of the Pareto values: a variance exists, a third moment does not.
_TAIL_INDEX = 2.5
_WIDE_SIGMA = 2.0
_SPREAD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """Values of users: 0, but for the share of buyers, whose values `draw` makes.

    `moments` are the first three of a buyer's value, about 0; infinite where they do not exist.
    """

    name: str
    buyers: float
    draw: Callable[[np.random.Generator, int], Values]
    moments: tuple[float, float, float]

    @property
    def mean(self) -> float:
        return self.buyers * self.moments[0]

    @property
    def variation(self) -> float:
        """Return the standard deviation over the mean."""
        return math.sqrt(self.buyers * self.moments[1] - self.mean**2) / self.mean

    @property
    def skewness(self) -> float:
        first, second, third = (self.buyers * moment for moment in self.moments)
        variance = second - first**2
        return (third - 3.0 * first * variance - first**3) / (variance * math.sqrt(variance))

    def spent(self, rng: np.random.Generator, n: int) -> Values:
        """Return the values of the buyers among n users; all others spend nothing."""
        return self.draw(rng, n if self.buyers == 1.0 else int(rng.binomial(n, self.buyers)))

    def sample(self, rng: np.random.Generator, n: int) -> MeanSample:
        """Return the statistics of n users."""
        return sample_of(self.spent(rng, n), n)


def sample_of(values: Values, n: int, factor: float = 1.0) -> MeanSample:
    """Return the statistics of n users, of whom some have these values times the factor and all others 0."""
    squares = float(values @ values)
    return MeanSample.from_sums(n=n, sum_values=factor * float(values.sum()), sum_squares=factor**2 * squares)


def normal_sample(rng: np.random.Generator, n: int, mean: float, deviation: float = 1.0) -> MeanSample:
    """Return the statistics of n normal values, drawn as such: their mean and their squared deviations."""
    if n == 0:
        return MeanSample.from_sums(n=0, sum_values=0, sum_squares=0)
    found = float(rng.normal(mean, deviation * n**-0.5))
    squares = deviation**2 * float(rng.chisquare(n - 1)) if n > 1 else 0.0
    return MeanSample.from_sums(n=n, sum_values=n * found, sum_squares=squares + n * found**2)


NORMAL = Population(
    name="normal",
    buyers=1.0,
    draw=lambda rng, n: 1.0 + _SPREAD * rng.standard_normal(n),
    moments=(1.0, 1.0 + _SPREAD**2, 1.0 + 3.0 * _SPREAD**2),
)
EXPONENTIAL = Population(
    name="exponential", buyers=1.0, draw=lambda rng, n: rng.standard_exponential(n), moments=(1.0, 2.0, 6.0)
)
SOME_BUY = Population(
    name="5 % buy, exponential",
    buyers=0.05,
    draw=lambda rng, n: rng.standard_exponential(n),
    moments=(1.0, 2.0, 6.0),
)
WIDE = Population(
    name="5 % buy, lognormal (sigma 2)",
    buyers=0.05,
    draw=lambda rng, n: np.exp(_WIDE_SIGMA * rng.standard_normal(n)),
    moments=(math.exp(_WIDE_SIGMA**2 / 2), math.exp(2 * _WIDE_SIGMA**2), math.exp(4.5 * _WIDE_SIGMA**2)),
)
PARETO = Population(
    name="5 % buy, Pareto (index 2.5)",
    buyers=0.05,
    draw=lambda rng, n: 1.0 + rng.pareto(_TAIL_INDEX, n),
    moments=(_TAIL_INDEX / (_TAIL_INDEX - 1.0), _TAIL_INDEX / (_TAIL_INDEX - 2.0), math.inf),
)
POPULATIONS = (NORMAL, EXPONENTIAL, SOME_BUY, WIDE, PARETO)
