"""Post-stratification against weighted regression, and what it is good for."""

from typing import Any

import numpy as np
import pytest

from app.stats.means import welch_t_test
from app.stats.poststratification import RatioStratum, Stratum, poststratified_difference, poststratified_estimates
from app.stats.reasons import NullReason
from app.stats.samples import MeanSample, RatioSample


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
    _, rows = _strata(4)
    control, treatment = (_sample(rows[rows[:, 2] == which, 0]) for which in (0, 1))
    plain = Stratum(control, treatment)

    found = poststratified_estimates([plain, Stratum(_sample(np.array([])), _sample(np.array([])))])

    assert found == (control.estimate(), treatment.estimate())
    welch = welch_t_test(control, treatment)
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


def _ratio(x: np.ndarray, y: np.ndarray) -> RatioSample:
    return RatioSample.from_sums(
        n=len(x),
        num_sum=float(x.sum()),
        num_sum_squares=float(x @ x),
        den_sum=float(y.sum()),
        den_sum_squares=float(y @ y),
        num_den_sum_products=float(x @ y),
    )


def _ratios(seed: int, *, units: int = 900) -> tuple[list[RatioStratum], np.ndarray]:
    """Return three strata of clicks per view, and clicks, views, stratum and arm of every unit: (units, 4)."""
    rng = np.random.default_rng(seed)
    group, arm = rng.integers(0, 3, units), rng.integers(0, 2, units)
    views = rng.poisson(3 + 4 * group).astype(float)
    clicks = rng.binomial(views.astype(int), 0.1 + 0.2 * group + 0.02 * arm).astype(float)
    strata = [
        RatioStratum(*(_ratio(*(side[(group == k) & (arm == which)] for side in (clicks, views))) for which in (0, 1)))
        for k in range(3)
    ]
    return strata, np.column_stack([clicks, views, group, arm])


def test_poststratified_difference__ratios__are_those_of_the_weighted_means_with_their_first_order_variance() -> None:
    strata, rows = _ratios(7)

    found = poststratified_difference(strata)

    values, variances = [], []
    weights = np.array([(rows[:, 2] == k).mean() for k in range(3)])
    for which in (0, 1):
        parts = [rows[(rows[:, 2] == k) & (rows[:, 3] == which)] for k in range(3)]
        x, y = (sum(w * part[:, side].mean() for w, part in zip(weights, parts, strict=True)) for side in (0, 1))
        values.append(x / y)
        residuals = [part[:, 0] - x / y * part[:, 1] for part in parts]
        variances.append(sum(w**2 * r.var(ddof=1) / len(r) for w, r in zip(weights, residuals, strict=True)) / y**2)
    assert found.comparison.difference == pytest.approx(values[1] - values[0], rel=1e-9)
    assert found.comparison.statistic == pytest.approx((values[1] - values[0]) / sum(variances) ** 0.5, rel=1e-9)
    assert [float(arm.variance or 0) for arm in found.estimates] == pytest.approx(variances, rel=1e-9)


def test_poststratified_difference__ratios_of_one_stratum__are_those_of_the_delta_method() -> None:
    strata, _ = _ratios(8)
    control, treatment = strata[0].control, strata[0].treatment

    found = poststratified_difference([strata[0]])

    assert found.estimates == (control.estimate(), treatment.estimate())
    assert found.variance_ratio == 1.0


def test_poststratified_difference__ratios_in_many_experiments__cover_the_truth() -> None:
    def truth() -> float:
        shares, views = np.array([0.1, 0.3, 0.5]), np.array([3.0, 7.0, 11.0])
        return float(((shares + 0.02) * views).sum() / views.sum() - (shares * views).sum() / views.sum())

    covered = [
        (found.lower or 0) <= truth() <= (found.upper or 0)
        for found in (poststratified_difference(_ratios(seed)[0]).comparison for seed in range(400))
    ]

    assert np.mean(covered) == pytest.approx(0.95, abs=0.04)


@pytest.mark.parametrize("make", [_strata, _ratios])
def test_poststratified_difference__arms_swapped__negates(make: Any) -> None:
    strata, _ = make(9)

    found = poststratified_difference(strata)
    swapped = poststratified_difference([type(one)(one.treatment, one.control) for one in strata])

    assert swapped.comparison.difference == -(found.comparison.difference or 0)
    assert (swapped.comparison.lower, swapped.comparison.upper) == (
        -(found.comparison.upper or 0),
        -(found.comparison.lower or 0),
    )
    assert swapped.comparison.p_value == found.comparison.p_value
    assert swapped.variance_ratio == found.variance_ratio
    assert swapped.estimates == found.estimates[::-1]


@pytest.mark.parametrize("make", [_strata, _ratios])
def test_poststratified_difference__strata_in_any_order__is_the_same_to_the_last_digit(make: Any) -> None:
    strata, _ = make(10)

    assert poststratified_difference(strata[::-1]) == poststratified_difference(strata)


def test_poststratified_difference__arms_of_unequal_size__weighs_by_the_units_of_both() -> None:
    """Weights of one arm's own shares would give the plain difference back, which is 1.5 here."""
    few, many = _sample(np.array([0.0, 2.0])), _sample(np.array([0.0, 2.0] * 3))
    high = _sample(np.array([3.0, 5.0])), _sample(np.array([3.0, 5.0] * 3))
    strata = [Stratum(control=many, treatment=few), Stratum(control=high[0], treatment=high[1])]

    found = poststratified_difference(strata)

    assert found.comparison.difference == 0.0
    assert [arm.value for arm in found.estimates] == [2.5, 2.5]


def test_poststratified_difference__denominator_of_zero__says_so() -> None:
    nothing = _ratio(np.zeros(3), np.zeros(3))

    found = poststratified_difference([RatioStratum(nothing, nothing)] * 2)

    assert (found.comparison.difference, found.comparison.null_reason) == (None, NullReason.ZERO_DENOMINATOR)


def test_poststratified_difference__no_stratum__is_refused() -> None:
    with pytest.raises(ValueError, match="stratum"):
        poststratified_difference([])
