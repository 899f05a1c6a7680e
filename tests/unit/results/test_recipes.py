"""Metrics, lifts and comparisons from an arm's observations."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.results.comparison_values import Method
from app.results.estimates import lift_percent
from app.results.observed import observations_of
from app.results.values import ArmObservations, Metric, Neighbours, ValueSums
from app.results.words import NO_TEST, NO_VALUES, sentences
from app.stats.reasons import NullReason
from tests.unit.results.arms import arm, built_in, contrast_of, detectable_of, measure_of

_ALL = list(Metric)


def test_measure__two_of_three_users_with_values__non_converters_count_as_zero_in_the_mean() -> None:
    seen = arm(3, 2, values=(4.0, 8.0))

    assert measure_of(Metric.VALUE_PER_USER, seen, 0.95).value == 4.0
    assert measure_of(Metric.AVG_VALUE, seen, 0.95).value == 6.0
    assert measure_of(Metric.CONVERSION_RATE, seen, 0.95).value == 2 / 3
    assert measure_of(Metric.UNIQUE_USERS, seen, 0.95).value == 2
    assert measure_of(Metric.EVENT_COUNT, seen, 0.95).value == 2


@pytest.mark.parametrize("metric", _ALL)
def test_measure__nobody_exposed__null_with_a_reason_or_a_count_of_zero(metric: Metric) -> None:
    found = measure_of(metric, ArmObservations(), 0.95)

    assert found.value == (0 if metric in {Metric.UNIQUE_USERS, Metric.EVENT_COUNT} else None)
    assert (found.lower, found.upper) == (None, None)
    assert found.null_reason is not None


def test_measure__no_event_carries_a_value__says_so() -> None:
    seen = arm(5, 2)

    assert measure_of(Metric.P95_VALUE, seen, 0.95).null_reason == NO_VALUES
    assert measure_of(Metric.AVG_VALUE, seen, 0.95).null_reason == NullReason.ZERO_DENOMINATOR
    assert measure_of(Metric.VALUE_PER_USER, seen, 0.95).value == 0.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_measure__p95__is_numpys(values: list[float]) -> None:
    ordered = sorted(values)
    below, rest = divmod(19 * (len(ordered) - 1), 20)
    above = min(below + 1, len(ordered) - 1)
    seen = ArmObservations(exposed=1, p95=Neighbours(ordered[below], ordered[above], Fraction(rest, 20)))

    found = measure_of(Metric.P95_VALUE, seen, 0.95).value

    assert found == pytest.approx(float(np.percentile(ordered, 95)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("control", "treatment", "percent"),
    [(arm(100, 10), arm(100, 12), 20.0), (arm(300, 90), arm(300, 91), 1.11), (arm(100, 0), arm(100, 5), None)],
)
def test_lift_percent__rates__two_decimals_and_null_over_zero(
    control: ArmObservations, treatment: ArmObservations, percent: float | None
) -> None:
    found = built_in(Metric.CONVERSION_RATE, control, treatment)

    assert lift_percent(found.of(1), found.of(2)) == percent


def test_contrast__rates__pooled_z_with_newcombes_interval() -> None:
    found = contrast_of(Metric.CONVERSION_RATE, arm(260, 168), arm(185, 140), 0.95)

    # statsmodels 0.15: proportions_ztest([140, 168], [185, 260]); confint_proportions_2indep(..., 'newcomb').
    assert found.method is Method.POOLED_Z
    assert found.difference == pytest.approx(140 / 185 - 168 / 260)
    assert found.statistic == pytest.approx(2.49105581, abs=1e-8)
    assert found.lower == pytest.approx(0.02381076, abs=1e-8)
    assert found.upper == pytest.approx(0.19270793, abs=1e-8)
    assert found.null_reason is None


@pytest.mark.parametrize("metric", [Metric.UNIQUE_USERS, Metric.EVENT_COUNT, Metric.P95_VALUE])
def test_contrast__no_test_for_the_metric__shows_the_difference_alone(metric: Metric) -> None:
    control, treatment = (replace(arm(10, users), p95=Neighbours(users, users, Fraction(0))) for users in (4, 5))

    found = contrast_of(metric, control, treatment, 0.95)

    assert (found.difference, found.lift) == (1.0, 0.25)
    assert (found.method, found.p_value, found.lower, found.null_reason) == (Method.NONE, None, None, NO_TEST)


def test_contrast__control_far_from_significant__lift_has_no_interval_but_the_test_stands() -> None:
    found = contrast_of(Metric.CONVERSION_RATE, arm(100, 1), arm(100, 9), 0.95)

    assert found.p_value is not None
    assert (found.lift_lower, found.interval_null_reason) == (None, NullReason.UNBOUNDED)
    assert found.null_reason is None


def test_contrast__control_far_from_0_at_one_look_alone__lift_has_no_always_valid_interval_and_says_so() -> None:
    found = contrast_of(Metric.CONVERSION_RATE, arm(1000, 9), arm(1000, 20), 0.95)

    assert None not in (found.lift_lower, found.lift_upper, found.always_lower, found.always_upper)
    assert (found.always_lift_lower, found.always_lift_upper) == (None, None)
    assert (found.null_reason, found.interval_null_reason) == (None, None)
    assert found.always_null_reason == "ALWAYS_VALID_UNBOUNDED"
    assert "every look" in sentences([found.always_null_reason])[0]


def test_contrast__enough_conversions__always_valid_lift_agrees_with_the_difference() -> None:
    found = contrast_of(Metric.CONVERSION_RATE, arm(10_000, 1000), arm(10_000, 1300), 0.95)

    assert found.always_lift_lower is not None
    assert found.always_lower is not None
    assert (found.always_lift_lower > 0, found.always_lower > 0) == (True, True)
    assert found.always_null_reason is None


@pytest.mark.parametrize("metric", [Metric.VALUE_PER_USER, Metric.AVG_VALUE])
def test_contrast__sums_beyond_a_doubles_range__null_with_a_reason(metric: Metric) -> None:
    huge = ValueSums(
        totals=Fraction(10) ** 308, total_squares=Fraction(10) ** 616, counts=1, count_squares=1, products=Fraction(1)
    )
    treatment = replace(arm(10, 1), sums=huge)

    found = contrast_of(metric, arm(10, 2, values=(1.0, 2.0)), treatment, 0.95)

    assert (found.p_value, found.null_reason) == (None, NullReason.OUT_OF_RANGE)
    assert measure_of(metric, treatment, 0.95).value is not None


def test_detectable_effect__rates__is_where_power_reaches_four_fifths() -> None:
    found = detectable_of(Metric.CONVERSION_RATE, arm(1000, 100), arm(1000, 120), 0.95)

    # The textbook's formula, solved for the effect, says 40.745 % of 10 %.
    assert found == pytest.approx(0.40745, abs=1e-5)


def test_detectable_effect__means__follows_from_the_standard_error() -> None:
    control = arm(100, 100, values=tuple(float(value) for value in range(100)))

    found = detectable_of(Metric.VALUE_PER_USER, control, control, 0.95)

    error = np.std(range(100), ddof=1) * np.sqrt(2 / 100)
    assert found == pytest.approx((1.959964 + 0.841621) * error / 49.5, rel=1e-4)


@pytest.mark.parametrize("metric", _ALL)
@pytest.mark.parametrize("confidence", [1e-8, 0.1, 0.95, 1 - 1e-11])
@pytest.mark.parametrize(
    ("control", "treatment"),
    [
        (arm(0), arm(0)),
        (arm(0), arm(5, 5)),
        (arm(1, 1, values=(1.0,)), arm(1)),
        (arm(2), arm(2)),
        (arm(5, 5, values=(1.0,) * 5), arm(5, 5, values=(1.0,) * 5)),
        (arm(5, 1, values=(-3.0,)), arm(5, 1, values=(1e-300,))),
        (arm(10**6, 1), arm(10**6, 10**6 - 1)),
    ],
)
def test_contrast__odd_arms__every_number_is_finite_or_null(
    metric: Metric, confidence: float, control: ArmObservations, treatment: ArmObservations
) -> None:
    found = contrast_of(metric, control, treatment, confidence)

    numbers = [found.difference, found.lower, found.upper, found.lift, found.lift_lower, found.lift_upper]
    numbers += [found.always_lower, found.always_upper, found.always_p_value]
    numbers += [found.statistic, found.df, found.p_value, detectable_of(metric, control, treatment, confidence)]
    assert all(number is None or np.isfinite(number) for number in numbers)


def test_observations_of__arm_without_events__has_its_users_alone() -> None:
    entry = {"kind": "entry", "variant_id": 7, "bucket_us": 0, "users": 3, "planned": 2}

    seen = observations_of([entry], with_series=False)

    assert seen.of(7) == ArmObservations(exposed=3, exposed_by_plan=2, assigned_by_plan=2)
    assert seen.of(8) == ArmObservations()
