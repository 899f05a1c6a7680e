"""Lifts against their definitions and statsmodels."""

import pytest
from scipy import optimize, stats
from statsmodels.stats import proportion as reference

from app.stats.effects import Scale, effect_of
from app.stats.lift import LiftMethod, relative_lift
from app.stats.reasons import NullReason
from app.stats.samples import MeanSample, Proportion, RatioSample

CONTROL = MeanSample.from_sums(n=400, sum_values=2000, sum_squares=90000)
TREATMENT = MeanSample.from_sums(n=380, sum_values=2300, sum_squares=120000)


def test_relative_lift__fieller__its_limits_have_the_z_tests_alpha() -> None:
    result = relative_lift(CONTROL, TREATMENT, confidence=0.9)

    c, t = CONTROL.estimate(), TREATMENT.estimate()
    assert c.value is not None
    assert c.variance is not None
    assert t.value is not None
    assert t.variance is not None
    mean_c, mean_t, var_c, var_t = map(float, (c.value, t.value, c.variance, t.variance))

    def p_value(lift: float) -> float:
        z = (mean_t - (1 + lift) * mean_c) / (var_t + (1 + lift) ** 2 * var_c) ** 0.5
        return float(2 * stats.norm.sf(abs(z))) - 0.1

    assert result.lift == pytest.approx(mean_t / mean_c - 1)
    assert result.lower == pytest.approx(optimize.brentq(p_value, -0.9, mean_t / mean_c - 1))
    assert result.upper == pytest.approx(optimize.brentq(p_value, mean_t / mean_c - 1, 5.0))


def test_relative_lift__log_ratio_of_rates__agrees_with_statsmodels() -> None:
    result = relative_lift(
        Proportion(42, 300), Proportion(51, 310), confidence=0.99, method=LiftMethod.LOG_RATIO_NORMAL
    )

    lower, upper = reference.confint_proportions_2indep(51, 310, 42, 300, method="log", compare="ratio", alpha=0.01)
    assert (result.lower, result.upper) == pytest.approx((lower - 1, upper - 1))


@pytest.mark.parametrize("method", LiftMethod)
@pytest.mark.parametrize(
    ("control", "treatment", "reason"),
    [
        (Proportion(0, 0), Proportion(1, 9), NullReason.EMPTY_ARM),
        (Proportion(0, 9), Proportion(1, 9), NullReason.ZERO_BASELINE),
        (Proportion(9, 9), Proportion(9, 9), NullReason.ZERO_VARIANCE),
        (Proportion(3, 9), Proportion(0, 9), NullReason.ZERO_VARIANCE),
    ],
)
def test_relative_lift__undefined__says_why(
    control: Proportion, treatment: Proportion, reason: NullReason, method: LiftMethod
) -> None:
    result = relative_lift(control, treatment, method=method)

    assert result.null_reason is reason
    assert result.lower is None
    assert result.upper is None


def test_relative_lift__control_near_zero__is_unbounded_by_fieller_but_has_a_p_value() -> None:
    result = relative_lift(Proportion(1, 100), Proportion(9, 100), method=LiftMethod.FIELLER_NORMAL)

    assert result.null_reason is NullReason.UNBOUNDED
    assert result.lift == pytest.approx(8.0)
    assert result.p_value is not None
    assert result.p_value < 0.05


def test_relative_lift__treatment_below_zero__has_no_logarithm() -> None:
    negative = MeanSample.from_sums(n=10, sum_values=-5, sum_squares=40)

    result = relative_lift(CONTROL, negative, method=LiftMethod.LOG_RATIO_WELCH_T)

    assert result.null_reason is NullReason.NON_POSITIVE_VALUE


def test_relative_lift__ratio_metric__is_possible() -> None:
    arm = RatioSample.from_sums(
        n=50, num_sum=100, num_sum_squares=400, den_sum=200, den_sum_squares=1000, num_den_sum_products=600
    )

    result = relative_lift(arm, arm)

    assert result.lift == 0.0
    assert result.p_value == 1.0


def test_relative_lift__lift_beyond_doubles__says_so() -> None:
    tiny = MeanSample.from_sums(n=2, sum_values=1e-200, sum_squares=1e-300)
    huge = MeanSample.from_sums(n=2, sum_values=1e149, sum_squares=1e299)

    assert relative_lift(tiny, huge).null_reason is NullReason.OUT_OF_RANGE


def test_effect_of__variance_unknown__keeps_the_estimate() -> None:
    effect = effect_of(MeanSample.from_sums(n=1, sum_values=2, sum_squares=4), TREATMENT, Scale.RELATIVE)

    assert effect.estimate == pytest.approx(2300 / 380 / 2 - 1)
    assert effect.null_reason is NullReason.TOO_FEW_UNITS


@pytest.mark.parametrize(("control", "treatment"), [((30, 100), (0, 100)), ((0, 100), (30, 100))])
def test_relative_lift__an_arm_without_conversions__still_has_the_p_value_of_the_difference(
    control: tuple[int, int], treatment: tuple[int, int]
) -> None:
    result = relative_lift(Proportion(*control), Proportion(*treatment))

    assert result.lower is None
    # 0.3 over the square root of 0.3 * 0.7 / 100.
    assert result.p_value == pytest.approx(2 * stats.norm.sf(0.3 / 0.0458257569495584), rel=1e-12)
