"""Whether a rate of false positives, and p-values, are those of a test that keeps its level."""

import numpy as np
import pytest
from scipy import stats

from app.calibration.judging import bounds, histogram, uniformity
from app.calibration.values import HISTOGRAM_BINS


@pytest.mark.parametrize(("n", "alpha"), [(100, 0.05), (1000, 0.05), (10_000, 0.01), (137, 0.5)])
def test_bounds__any_number__are_binomial_quantiles(n: int, alpha: float) -> None:
    lower, upper = bounds(n, alpha)
    expected = [stats.binom.ppf(level, n, alpha) / n for level in (0.005, 0.995)]
    assert (lower, upper) == pytest.approx(tuple(expected))


def test_histogram__ends__belong_to_the_first_and_last_bin() -> None:
    counts = histogram([0.0, 0.049, 0.05, 0.999, 1.0])
    assert (counts[0], counts[1], counts[-1], len(counts)) == (2, 1, 2, HISTOGRAM_BINS)


def test_uniformity__p_values__is_close_to_the_exact_test() -> None:
    random = np.random.default_rng(1)
    for sample in (random.random(200), random.random(1000) ** 1.1, random.random(100) ** 2):
        exact = stats.kstest(sample, "uniform").pvalue
        assert uniformity(sample.tolist()) == pytest.approx(exact, abs=0.01)
