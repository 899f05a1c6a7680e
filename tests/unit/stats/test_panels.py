"""Integration on panels: exact for smooth functions, and near poles where the panels crowd."""

import math

import numpy as np
import pytest

from app.stats.panels import WIDEST_ON_LOGITS, crowded, grid

_RULE = np.polynomial.legendre.leggauss(10)


def test_grid__polynomial__is_integrated_exactly() -> None:
    nodes, weights = grid(np.array([2.0, -1.0, 0.5]), _RULE)

    assert (nodes**7 + 3 * nodes**2) @ weights == pytest.approx((2**8 - 1) / 8 + 8 + 1, rel=1e-14)


def test_grid__widest_panel__bounds_the_distance_of_nodes() -> None:
    nodes, weights = grid(np.array([-690.0, 0.1]), _RULE, widest=WIDEST_ON_LOGITS)

    assert np.max(np.diff(nodes)) < WIDEST_ON_LOGITS / 2
    assert np.sum(weights) == pytest.approx(690.1, rel=1e-14)


@pytest.mark.parametrize("power", [0.05, 0.3, 1.0, 2.5, 11.0])
@pytest.mark.parametrize(("end", "other_end"), [(-1.0, 1.5), (2.0, -0.5), (0.0, 1e-3), (0.0, -1e-3)])
def test_crowded__power_of_the_distance__is_integrated(power: float, end: float, other_end: float) -> None:
    cuts = crowded(end, other_end, power)

    nodes, weights = grid(cuts, _RULE)

    assert cuts.min() == pytest.approx(min(end, other_end))
    assert cuts.max() == pytest.approx(max(end, other_end))
    reach = abs(other_end - end)
    assert np.abs(nodes - end) ** power @ weights == pytest.approx(reach ** (power + 1) / (power + 1), rel=1e-9)


def test_crowded__nothing_between__is_the_end() -> None:
    assert set(crowded(3.0, 3.0, 0.05)) == {3.0}


def test_crowded__far_other_end__reaches_no_further_than_the_widest_panel() -> None:
    assert crowded(0.0, math.inf, 0.05).max() == WIDEST_ON_LOGITS
