"""The value of a metric in one arm, and its lift over another. Plain functions, no I/O."""

from dataclasses import dataclass
from fractions import Fraction

from app.results.measured import Measured, MeasuredArm, Shape
from app.results.words import NO_INTERVAL, NO_VALUES
from app.stats.distributions import Distribution
from app.stats.exact import all_finite, to_float
from app.stats.intervals import Interval
from app.stats.means import value_interval
from app.stats.proportions import wilson_interval
from app.stats.samples import Proportion


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric's value in one arm with its interval; what is undefined is None, and `null_reason` says why."""

    value: int | float | None
    lower: float | None
    upper: float | None
    null_reason: str | None


def measure(metric: Measured, arm: MeasuredArm, confidence: float) -> Measure:
    """Return the metric's value in an arm, with the interval that its shape has."""
    if not metric.tested:
        return _value_alone(metric.shape, arm.sample.estimate().value)
    if metric.shape is Shape.QUANTILE and arm.sample.estimate().value is None:
        return Measure(None, None, None, arm.sample.estimate().null_reason or NO_VALUES)
    if arm.interval is not None:
        return _measure(arm.interval)
    if metric.shape is Shape.RATE and isinstance(arm.sample, Proportion):
        return _measure(wilson_interval(arm.sample, confidence=confidence))
    distribution = Distribution.WELCH_T if metric.shape is Shape.MEAN else Distribution.NORMAL
    return _measure(value_interval(arm.sample, confidence=confidence, distribution=distribution))


def lift_percent(control: MeasuredArm, treatment: MeasuredArm) -> float | None:
    """Return the lift in percent with two decimals."""
    lift = shown(exact_lift(control.sample.estimate().value, treatment.sample.estimate().value))
    percent = None if lift is None else round(lift * 100, 2)
    # Adding 0 turns a negative zero, left by rounding, into an ordinary one.
    return percent + 0.0 if percent is not None and all_finite(percent) else None


def exact_lift(control: Fraction | None, treatment: Fraction | None) -> Fraction | None:
    """Return the treatment's value over the control's, minus 1; `None` where the control's is 0 or undefined."""
    return (treatment - control) / control if control and treatment is not None else None


def shown(value: Fraction | None) -> float | None:
    """Return the nearest double, `None` where there is none."""
    rounded = None if value is None else to_float(value)
    return rounded if rounded is not None and all_finite(rounded) else None


def _value_alone(shape: Shape, value: Fraction | None) -> Measure:
    if value is None:
        return Measure(None, None, None, NO_VALUES)
    return Measure(int(value) if shape is Shape.TOTAL else shown(value), None, None, NO_INTERVAL)


def _measure(interval: Interval) -> Measure:
    return Measure(interval.estimate, interval.lower, interval.upper, interval.null_reason)
