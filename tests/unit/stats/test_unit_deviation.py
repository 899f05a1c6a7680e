"""The deviations that planning takes, against simulated metrics."""

import numpy as np
import pytest
from scipy import stats

from app.stats.samples import RatioSample
from app.stats.unit_deviation import adjusted_deviation, quantile_deviation, ratio_deviation


def test_ratio_deviation__moments_of_users__is_the_delta_methods() -> None:
    rng = np.random.default_rng(1)
    views = rng.poisson(8, 5000) + 1.0
    clicks = rng.binomial(views.astype(int), 0.3).astype(float)

    found = ratio_deviation(
        ratio=clicks.sum() / views.sum(),
        numerator_std=clicks.std(ddof=1),
        denominator_mean=views.mean(),
        denominator_std=views.std(ddof=1),
        correlation=float(np.corrcoef(clicks, views)[0, 1]),
    )

    variance = (
        RatioSample.from_sums(
            n=5000,
            num_sum=int(clicks.sum()),
            num_sum_squares=int((clicks**2).sum()),
            den_sum=int(views.sum()),
            den_sum_squares=int((views**2).sum()),
            num_den_sum_products=int((clicks * views).sum()),
        )
        .estimate()
        .variance
    )
    assert variance is not None
    assert found == pytest.approx(float(variance * 5000) ** 0.5, rel=1e-9)


def test_quantile_deviation__independent_values__is_what_sampling_shows() -> None:
    values = np.random.default_rng(2).exponential(size=(4000, 2000))

    found = quantile_deviation(quantile=0.9, density=float(stats.expon.pdf(stats.expon.ppf(0.9))))

    assert found == pytest.approx(np.quantile(values, 0.9, axis=1).std() * 2000**0.5, rel=0.05)


def test_quantile_deviation__values_of_one_user_are_alike__as_if_there_were_one_each() -> None:
    one = quantile_deviation(quantile=0.5, density=0.4)

    # Ten copies of a value: correlation 1, so the design effect is ten.
    assert quantile_deviation(quantile=0.5, density=0.4, values_per_user=10, design_effect=10) == pytest.approx(one)


def test_adjusted_deviation__correlation__leaves_one_minus_its_square_of_the_variance() -> None:
    assert adjusted_deviation(2.0, correlation=-0.6) == pytest.approx(1.6)


@pytest.mark.parametrize("correlation", [-1.0, 1.0, 1.5, float("nan")])
def test_adjusted_deviation__nothing_left__is_refused(correlation: float) -> None:
    with pytest.raises(ValueError, match="correlation"):
        adjusted_deviation(2.0, correlation=correlation)


def test_ratio_deviation__nothing_varies__is_refused() -> None:
    with pytest.raises(ValueError, match="deviation"):
        ratio_deviation(ratio=0.5, numerator_std=0, denominator_mean=1, denominator_std=0, correlation=0)
