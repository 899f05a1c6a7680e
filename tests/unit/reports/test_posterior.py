"""Densities: they hold all the probability, and as much on each side as the answer says."""

import numpy as np
import pytest
from scipy import stats

from app.reports.posterior import Beta, Density, density_of_normal, density_of_rates
from app.stats.bayes_difference import bayes_rate_difference
from app.stats.rate_belief import BetaPrior
from app.stats.samples import Proportion


def _share_between(density: Density, low: float, high: float) -> float:
    places, heights = np.array(density.places), np.array(density.heights)
    inner = (places > low) & (places < high)
    ends = np.interp([low, high], places, heights)
    at = np.concatenate([[low], places[inner], [high]])
    return float(np.trapezoid(np.concatenate([ends[:1], heights[inner], ends[1:]]), at))


@pytest.mark.parametrize(
    ("control", "treatment"),
    [((100, 1000), (130, 1000)), ((0, 20), (3, 25)), ((5, 5), (5, 5)), ((10, 100_000), (14, 90_000)), ((0, 1), (1, 1))],
)
@pytest.mark.parametrize("prior", [(1.0, 1.0), (2.0, 50.0)])
def test_density_of_rates__any_counts__agrees_with_the_answer(
    control: tuple[int, int], treatment: tuple[int, int], prior: tuple[float, float]
) -> None:
    alpha, beta = prior
    arms = [Beta(alpha=alpha + s, beta=beta + n - s) for s, n in (control, treatment)]
    density = density_of_rates(*arms)
    found = bayes_rate_difference(
        Proportion(*control), Proportion(*treatment), prior=BetaPrior(alpha=alpha, beta=beta), credibility=0.9
    )
    assert density is not None
    assert found.lower is not None
    assert found.upper is not None
    assert min(density.heights) >= 0
    assert _share_between(density, density.places[0], density.places[-1]) == pytest.approx(1, abs=0.01)
    assert _share_between(density, found.lower, found.upper) == pytest.approx(0.9, abs=0.01)
    assert _share_between(density, max(0.0, density.places[0]), density.places[-1]) == pytest.approx(
        found.prob_treatment_better, abs=0.01
    )


def test_density_of_normal__interval__is_its_own() -> None:
    density = density_of_normal(-1.0, 3.0, 0.95)
    assert density is not None
    expected = stats.norm(1, 2 / stats.norm.isf(0.025)).pdf(density.places)
    assert density.heights == pytest.approx(expected.tolist())
    assert _share_between(density, -1.0, 3.0) == pytest.approx(0.95, abs=0.001)


def test_density__nothing_to_draw__is_none() -> None:
    assert density_of_normal(1.0, 1.0, 0.95) is None
    assert density_of_normal(-1e308, 1e308, 0.95) is None
