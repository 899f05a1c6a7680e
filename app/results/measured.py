"""A metric as it was measured in every variant: what the analysis takes, whoever measured it.

Two sources make these values: `recipes` from the observations of the built-in metrics, and `measuring` from what the
recipes of stored metrics found. The analysis knows neither; what it says about a metric follows from the values here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.metrics.values import Direction, Kind, Role
from app.stats.intervals import Interval
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, CovariateSample, Sample


class Shape(StrEnum):
    """What kind of number a metric is, which names its intervals and tests."""

    RATE = "rate"  # Share of users; every arm's sample is a `Proportion`.
    MEAN = "mean"  # Mean per user.
    RATIO = "ratio"  # Sum over sum, with users as the units.
    QUANTILE = "quantile"  # An estimate with the variance that users as clusters give it.
    TOTAL = "total"  # A whole number that grows with the arm.


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyArm:
    """An arm by all that had happened by the end of the day that starts at `time`."""

    time: datetime
    sample: Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredArm:
    """A metric in one variant. `sample.estimate().n` are the users exposed."""

    sample: Sample
    # The metric with the same users' number from before their exposure, where there is one.
    covariate: CovariateSample | None = None
    # Why there is none, where there should be one.
    covariate_null_reason: NullReason | None = None
    # Rising in time; days on which nothing changed may be left out.
    daily: tuple[DailyArm, ...] = ()
    # An interval of the value that is better than the one of its variance, such as a quantile's by order statistics.
    interval: Interval | None = None
    # Of a funnel: the users who got as far as each step.
    steps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A metric in every variant of an experiment, by variant id; one that nobody is in may be missing."""

    key: str
    shape: Shape
    arms: Mapping[int, MeasuredArm]
    # Whether differences are tested: not of totals, nor of quantiles without a variance.
    tested: bool = True
    # Of stored metrics, and of built-in ones that are more than a total.
    name: str | None = None
    kind: Kind | None = None
    # `None` where the release defines the metric: it needs no version of its own.
    version: int | None = None
    direction: Direction = Direction.UP
    role: Role = Role.SECONDARY
    # Of guardrails: the largest relative loss that is acceptable.
    margin: float | None = None
    # Attached after the start: it never decides.
    exploratory: bool = False
    unit: str | None = None
    notes: tuple[str, ...] = ()

    def of(self, variant_id: int) -> MeasuredArm:
        return self.arms.get(variant_id, _NOBODY)

    @property
    def sign(self) -> float:
        """Return 1 where more is better, and -1 where less is."""
        return 1.0 if self.direction is Direction.UP else -1.0


_NOBODY = MeasuredArm(sample=ArmEstimate(n=0, value=None, variance=None))
