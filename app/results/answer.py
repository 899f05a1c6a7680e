"""The answer to a question, as values: what the cache keeps and what every edge of the service shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.results.rollup_use import RollupUse
from app.results.values import Granularity, Metric, Source


class Method(StrEnum):
    """How a comparison was made: its test, which names its interval as well."""

    POOLED_Z = "pooled_z"  # Pooled z test, Newcombe's interval of the difference, Fieller's of the lift.
    WELCH_T = "welch_t"  # Welch's test and interval, Fieller's interval of the lift.
    DELTA_Z = "delta_z"  # Ratio of sums: delta method, normal quantile, Fieller's interval of the lift.
    NONE = "none"  # Counts and percentiles: the difference is shown, nothing is tested.


class Verdict(StrEnum):
    """Why there is the winner that there is, or none."""

    TREATMENT_WINS = "TREATMENT_WINS"
    CONTROL_WINS = "CONTROL_WINS"
    UNDECIDED = "UNDECIDED"
    SRM_MISMATCH = "SRM_MISMATCH"
    BELOW_MIN_SAMPLE = "BELOW_MIN_SAMPLE"
    NO_TEST = "NO_TEST"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """One metric of one variant. What is undefined is null, and `null_reason` says why."""

    value: int | float | None
    sample_size: int
    ci_lower: float | None
    ci_upper: float | None
    # Percent with two decimals.
    lift_vs_control: float | None
    null_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesEntry:
    """Counted events of one type in the bucket that starts at `time`."""

    time: datetime
    event_type: str
    count: int
    users: int
    ci_lower: float | None
    ci_upper: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantResult:
    """One variant."""

    id: int
    key: str
    is_control: bool
    below_min_sample: bool
    metrics: Mapping[Metric, MetricResult]
    time_series: tuple[SeriesEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonResult:
    """One metric of one treatment against the control. `lift` is a fraction.

    `p_value` and the interval of the difference are for one look at a fixed horizon and for this comparison alone;
    `p_value_adjusted` (Holm) is for all comparisons of the answer read together, and what is `always_valid` holds
    however often one looks.
    """

    variant: str
    control: str
    metric: Metric
    difference: float | None
    difference_ci_lower: float | None
    difference_ci_upper: float | None
    lift: float | None
    lift_ci_lower: float | None
    lift_ci_upper: float | None
    statistic: float | None
    df: float | None
    p_value: float | None
    p_value_adjusted: float | None
    always_valid_p_value: float | None
    always_valid_ci_lower: float | None
    always_valid_ci_upper: float | None
    method: Method
    null_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SrmResult:
    """Whether the arms have the shares of users that the allocation gives them; by variant key."""

    observed: Mapping[str, int]
    expected: Mapping[str, float]
    statistic: float | None
    df: int | None
    p_value: float | None
    mismatch: bool
    null_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The outcome at a glance, by the first metric asked for."""

    status: str
    winning_variant: str | None
    verdict: Verdict
    metric: Metric
    confidence_level: float
    # Relative: 0.05 is 5 %.
    minimum_detectable_effect: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What was asked, and where the answer comes from."""

    start_date: datetime | None
    end_date: datetime | None
    granularity: Granularity
    event_types: tuple[str, ...]
    metrics: tuple[Metric, ...]
    confidence_level: float
    min_sample: int
    include_ci: bool
    include_overrides: bool
    context: Mapping[str, str]
    total_users: int
    source: Source
    rollups: RollupUse
    complete_until: datetime
    computed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The whole answer."""

    experiment_id: int
    summary: Summary
    variants: tuple[VariantResult, ...]
    comparisons: tuple[ComparisonResult, ...]
    srm: SrmResult
    metadata: Metadata
