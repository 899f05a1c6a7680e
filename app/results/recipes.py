"""How each built-in metric is made from an arm's observations. Plain functions, no I/O."""

from fractions import Fraction
from typing import assert_never

from app.experiments.values import Experiment
from app.metrics.values import Kind, Role
from app.results.measured import Measured, MeasuredArm, Shape
from app.results.rough_sums import is_lost
from app.results.values import ArmObservations, Metric, Observations, ValueSums
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, MeanSample, Proportion, RatioSample, Sample

# Beyond this the statistics on sums of squares leave the range of a double.
LARGEST_SUM = 10**300

_SHAPES = {
    Metric.CONVERSION_RATE: Shape.RATE,
    Metric.VALUE_PER_USER: Shape.MEAN,
    Metric.AVG_VALUE: Shape.RATIO,
    Metric.UNIQUE_USERS: Shape.TOTAL,
    Metric.EVENT_COUNT: Shape.TOTAL,
    Metric.P95_VALUE: Shape.QUANTILE,
}
_KINDS = {
    Metric.CONVERSION_RATE: Kind.CONVERSION,
    Metric.VALUE_PER_USER: Kind.SUM,
    Metric.AVG_VALUE: Kind.MEAN,
    Metric.P95_VALUE: Kind.QUANTILE,
}
# Totals depend on the allocation, and what was observed of the percentile gives no standard error.
_UNTESTED = frozenset({Metric.UNIQUE_USERS, Metric.EVENT_COUNT, Metric.P95_VALUE})
_UNITS = {
    Metric.CONVERSION_RATE: "share of users",
    Metric.VALUE_PER_USER: "value per user",
    Metric.AVG_VALUE: "value per event",
    Metric.UNIQUE_USERS: "users",
    Metric.EVENT_COUNT: "events",
    Metric.P95_VALUE: "value",
}


def measured(metric: Metric, experiment: Experiment, observations: Observations) -> Measured:
    """Return a built-in metric of an experiment as the analysis takes it, with the role that the plan gives it."""
    planned = next((attached for attached in experiment.metrics if attached.metric.key == metric.value), None)
    return Measured(
        key=metric.value,
        kind=_KINDS.get(metric),
        shape=_SHAPES[metric],
        arms={variant.id: arm_of(metric, observations.of(variant.id)) for variant in experiment.variants},
        tested=metric not in _UNTESTED,
        role=Role.SECONDARY if planned is None else planned.role,
        margin=None if planned is None else planned.margin,
        # Where something was promised, this was not.
        exploratory=any(not item.exploratory for item in experiment.metrics)
        if planned is None
        else planned.exploratory,
        unit=_UNITS[metric],
    )


def arm_of(metric: Metric, arm: ArmObservations) -> MeasuredArm:
    """Return the metric in one arm."""
    return MeasuredArm(sample=_sample(metric, arm))


def _sample(metric: Metric, arm: ArmObservations) -> Sample:
    match metric:
        case Metric.UNIQUE_USERS:
            return _alone(arm, Fraction(arm.converters))
        case Metric.EVENT_COUNT:
            return _alone(arm, Fraction(arm.events))
        case Metric.P95_VALUE:
            return _alone(arm, _percentile(arm))
        case Metric.CONVERSION_RATE:
            return Proportion(arm.converters, arm.exposed)
        case Metric.VALUE_PER_USER:
            return _mean_of(arm)
        case Metric.AVG_VALUE:
            return _ratio_of(arm)
        case _:
            assert_never(metric)


def _alone(arm: ArmObservations, value: Fraction | None) -> ArmEstimate:
    return ArmEstimate(n=arm.exposed, value=value, variance=None)


def _mean_of(arm: ArmObservations) -> Sample:
    """Return the value per exposed user; who has none counts as 0."""
    sums = arm.sums
    if is_lost(sums):
        return _lost(arm)
    if not _in_range(sums):
        return _beyond_range(arm, sums.totals / arm.exposed)
    return MeanSample.from_sums(n=arm.exposed, sum_values=sums.totals, sum_squares=sums.total_squares)


def _ratio_of(arm: ArmObservations) -> Sample:
    """Return the value per event that carries one: a ratio of two sums over users."""
    sums = arm.sums
    if is_lost(sums):
        return _lost(arm)
    if not _in_range(sums):
        return _beyond_range(arm, sums.totals / sums.counts)
    return RatioSample.from_sums(
        n=arm.exposed,
        num_sum=sums.totals,
        num_sum_squares=sums.total_squares,
        den_sum=sums.counts,
        den_sum_squares=sums.count_squares,
        num_den_sum_products=sums.products,
    )


def _in_range(sums: ValueSums) -> bool:
    return max(abs(sums.totals), sums.total_squares, abs(sums.products)) <= LARGEST_SUM


def _beyond_range(arm: ArmObservations, value: Fraction) -> ArmEstimate:
    return ArmEstimate(n=arm.exposed, value=value, variance=None, null_reason=NullReason.OUT_OF_RANGE)


def _lost(arm: ArmObservations) -> ArmEstimate:
    return ArmEstimate(n=arm.exposed, value=None, variance=None, null_reason=NullReason.PRECISION_LOST)


def _percentile(arm: ArmObservations) -> Fraction | None:
    if arm.p95 is None:
        return None
    low = Fraction(arm.p95.low)
    return low + (Fraction(arm.p95.high) - low) * arm.p95.fraction
