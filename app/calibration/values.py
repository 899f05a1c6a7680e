"""What is calibrated, and what comes of it. Plain values, no I/O."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from app.results.values import Source
from app.results.words import NO_COVARIATE

# The most are enough to tell 5 % from 4 % with certainty; `sizes` says how many may be made of how many numbers.
FEWEST_RESPLITS, MOST_RESPLITS = 100, 10_000
DEFAULT_RESPLITS = 1000
DEFAULT_ALPHA = 0.05
MOST_METRICS = 20
# Halves of fewer users say nothing about a test.
FEWEST_USERS = 20
HISTOGRAM_BINS = 20
# Neither store has what was before the exposures any more.
COVARIATE_DROPPED = "COVARIATE_DROPPED"


class Status(StrEnum):
    """How far a calibration is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a caller wants calibrated. No metrics: those of the experiment.

    event_types: of the built-in metrics; none: all types. split_by: a name in the stored context; users with the same
    value under it stay together. cuped_days: by how many days before the exposure the built-in metrics are adjusted.
    """

    resplits: int = DEFAULT_RESPLITS
    metrics: tuple[str, ...] = ()
    seed: int = 0
    alpha: float = DEFAULT_ALPHA
    event_types: tuple[str, ...] = ()
    split_by: str | None = None
    cuped_days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustedCalibration:
    """The same of the comparison after CUPED, as of the metric itself (see `MetricCalibration`).

    `variance_reduction_percent` is the mean over the resplits.
    """

    undefined: int
    false_positives: int
    false_positive_rate: float | None
    false_positive_rate_ci_lower: float | None
    false_positive_rate_ci_upper: float | None
    lower: float | None
    upper: float | None
    inside: bool | None
    variance_reduction_percent: float | None
    null_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricCalibration:
    """How often the test of one metric found an effect where there is none.

    `lower` and `upper` are the bounds of the rate in which a test that keeps its level lies with 99 % probability, and
    `false_positive_rate_ci_lower`, `_upper` the 95 % interval of the rate that was found. What is undefined is null,
    and `null_reason` says why.

    What has a default was not told by earlier releases, whose results are kept.
    """

    metric: str
    version: int | None
    value: float | None
    resplits: int
    # Resplits in which the test said nothing, such as where both halves have no variance.
    undefined: int
    false_positives: int
    false_positive_rate: float | None
    always_valid_false_positive_rate: float | None
    lower: float | None
    upper: float | None
    inside: bool | None
    # How many p-values lie in each twentieth between 0 and 1.
    p_value_histogram: tuple[int, ...]
    ks_p_value: float | None
    null_reason: str | None
    false_positive_rate_ci_lower: float | None = None
    false_positive_rate_ci_upper: float | None = None
    adjusted: AdjustedCalibration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationResult:
    """What came out. `units` are what was split: users, or groups of them.

    `source` is the store that was read; of ClickHouse, `complete_until` is the ingestion time up to which it was.
    """

    users: int
    units: int
    alpha: float
    metrics: tuple[MetricCalibration, ...]
    source: Source = Source.HOT
    complete_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A calibration as it is stored."""

    id: UUID
    experiment_id: int
    status: Status
    # Between 0 and 1.
    progress: float
    wanted: Wanted
    result: CalibrationResult | None
    # Of a failed one, in words.
    reason: str | None
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A metric whose users' numbers are read: its shape, and what a unit of its numerator and covariate is."""

    metric: str
    version: int | None
    shape: str
    unit: float
    # Which quantile, as numerator and denominator; of quantiles alone.
    quantile: tuple[int, int] | None = None
    # Why nothing from before the exposure adjusts the metric; `None` where something does.
    without_covariate: str | None = NO_COVARIATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the process that splits is told first; `split_by` as the caller wrote it."""

    resplits: int
    seed: int
    alpha: float
    columns: tuple[Column, ...]
    split_by: str | None = None
    source: Source = Source.HOT
    complete_until: datetime | None = None
