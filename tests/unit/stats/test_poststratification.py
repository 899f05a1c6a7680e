"""Post-stratification against weighted regression, and what it is good for."""

import numpy as np
import pytest

from app.stats.means import welch_t_test
from app.stats.poststratification import Stratum, poststratified_difference, poststratified_estimates
from app.stats.reasons import NullReason
from app.stats.samples import MeanSample


def _sample(values: np.ndarray) -> MeanSample:
    return MeanSample.from_sums(n=len(values), sum_values=float(values.sum()), sum_squares=float((values**2).sum()))


def _strata(seed: int, *, units: int = 600, spread: float = 3.0) -> tuple[list[Stratum], np.ndarray]:
    """Return three strata whose means lie apart, and the values with their stratum and arm: (units, 3)."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, units)
    arm = rng.integers(0, 2, units)
    value = rng.normal(spread * group + 0.5 * arm, 1.0)
    strata = [
        Stratum(_sample(value[(group == k) & (arm == 0)]), _sample(value[(group == k) & (arm == 1)])) for k in range(3)
    ]
    return strata, np.column_stack([value, group, arm])


def test_poststratified_difference__three_strata__is_the_weighted_mean_of_the_differences() -> None:
    strata, rows = _strata(1)

    found = poststratified_difference(strata).comparison

    difference = variance = 0.0
    for k in range(3):
        c, t = (rows[(rows[:, 1] == k) & (rows[:, 2] == side), 0] for side in (0, 1))
        weight = (len(c) + len(t)) / len(rows)
        difference += weight * (t.mean() - c.mean())
        variance += weight**2 * (t.var(ddof=1) / len(t) + c.var(ddof=1) / len(c))
    assert found.difference == pytest.approx(difference, rel=1e-9)
    assert found.statistic == pytest.approx(difference / variance**0.5, rel=1e-9)


def test_poststratified_difference__strata_explain_the_metric__variance_falls_as_it_should() -> None:
    ratios = [poststratified_difference(_strata(seed)[0]).variance_ratio for seed in range(20)]

    # Within 1, between 9 times the variance of three even groups: 2/3.
    assert np.mean([ratio for ratio in ratios if ratio is not None]) == pytest.approx(1 / (1 + 6), rel=0.05)


def test_poststratified_difference__many_experiments__interval_covers_the_truth() -> None:
    covered = [
        (found.lower or 0) <= 0.5 <= (found.upper or 0)
        for found in (poststratified_difference(_strata(seed, units=150)[0]).comparison for seed in range(400))
    ]

    assert np.mean(covered) == pytest.approx(0.95, abs=0.04)


def test_poststratified_estimates__one_stratum__are_the_plain_means() -> None:
    strata, _ = _strata(4)
    plain = Stratum(
        strata[0].control + strata[1].control + strata[2].control,
        strata[0].treatment + strata[1].treatment + strata[2].treatment,
    )

    found = poststratified_estimates([plain, Stratum(_sample(np.array([])), _sample(np.array([])))])

    assert found == (plain.control.estimate(), plain.treatment.estimate())
    welch = welch_t_test(plain.control, plain.treatment)
    assert poststratified_difference([plain]).comparison.statistic == pytest.approx(welch.statistic)


@pytest.mark.parametrize(
    ("control", "treatment", "reason"),
    [([], [1.0, 2.0], NullReason.EMPTY_ARM), ([1.0], [1.0, 2.0], NullReason.TOO_FEW_UNITS)],
)
def test_poststratified_difference__stratum_too_small__says_why(
    control: list[float], treatment: list[float], reason: NullReason
) -> None:
    strata = [*_strata(5)[0], Stratum(_sample(np.array(control)), _sample(np.array(treatment)))]

    found = poststratified_difference(strata)

    assert (found.comparison.p_value, found.comparison.null_reason, found.variance_ratio) == (None, reason, None)


def test_poststratified_difference__no_stratum__is_refused() -> None:
    with pytest.raises(ValueError, match="stratum"):
        poststratified_difference([])
