"""The answer to a question, as values: what the cache keeps and what every edge of the service shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from app.metrics.values import Direction, Kind, Role
from app.results.comparison_values import ComparisonResult
from app.results.daily_values import EffectSeries, ExposureSeries
from app.results.rollup_use import RollupUse
from app.results.values import CohortWidth, Granularity, Source
from app.results.verdicts import DecisionResult, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """One metric of one variant. What is undefined is null, and `null_reason` says why."""

    value: int | float | None
    sample_size: int
    ci_lower: float | None
    ci_upper: float | None
    # Percent with two decimals.
    lift_vs_control: float | None
    # That no other variant with users has a better value, by the beliefs of `bayes`; null where one of these has none,
    # and for a variant without users.
    prob_best: float | None
    # Of a funnel: the users who got as far as each step, in their order.
    steps: tuple[int, ...] | None
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
    metrics: Mapping[str, MetricResult]
    time_series: tuple[SeriesEntry, ...]


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
    """The outcome at a glance, by the first metric asked for; the decision is by the primary one."""

    status: str
    winning_variant: str | None
    verdict: Verdict
    metric: str
    confidence_level: float
    # Relative: 0.05 is 5 %.
    minimum_detectable_effect: float | None
    decision: DecisionResult
    # Exposed users a day, over the last days; until the planned sample is there that many days remain.
    users_per_day: float | None
    remaining_days: float | None
    remaining_days_null_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinitionResult:
    """What a metric of the answer is. `version` and `name` are null for a built-in metric, `kind` for a total."""

    key: str
    name: str | None
    kind: Kind | None
    version: int | None
    role: Role
    direction: Direction
    unit: str | None
    margin: float | None
    exploratory: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyResult:
    """Which p-values are adjusted together: all comparisons of the answer that were tested."""

    comparisons: int
    tested: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenanceResult:
    """Where the numbers come from, so that they can be had, traced and made again.

    What is not known is null, and `null_reasons` says why, by the field's name.
    """

    # By their names: postgresql, clickhouse.
    sources: tuple[str, ...]
    complete_until: datetime
    lag_seconds: float
    events_counted: int
    duplicates_dropped: int | None
    late_events: int | None
    # Users who would have counted, by the reason why they do not.
    users_excluded: Mapping[str, int]
    experiment_version: int
    # Null for a built-in metric.
    metric_versions: Mapping[str, int | None]
    # SHA-256 of the question with the versions above, in hexadecimal: equal for equal questions of equal meaning.
    query_hash: str
    answer_id: str | None
    null_reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentResult:
    """The users whose context has one value, or none (`value` null), or a value beyond those shown (`is_rest`)."""

    value: str | None
    is_rest: bool
    users: int
    srm: SrmResult
    # Without a time series.
    variants: tuple[VariantResult, ...]
    comparisons: tuple[ComparisonResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoststratifiedResult:
    """A comparison of the whole answer with the segments or cohorts as strata. `lift` is a fraction.

    Every one with a user of either variant is a stratum, `strata` of them, with the weight that its users have
    among those of both variants.
    """

    variant: str
    control: str
    metric: str
    strata: int
    difference: float | None
    difference_ci_lower: float | None
    difference_ci_upper: float | None
    lift: float | None
    lift_ci_lower: float | None
    lift_ci_upper: float | None
    statistic: float | None
    p_value: float | None
    # 30 means that the variance of the difference is 30 % smaller than that of the raw one.
    variance_reduction_percent: float | None
    null_reason: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HomogeneityResult:
    """Whether one comparison comes out the same in all parts of the users: Cochran's Q.

    It is about `parts` parts; `left_out` more have fewer than the least sample of users in one of the two variants, or
    a difference without a variance. `p_value_holm` is adjusted over all comparisons that were tested in this way.
    """

    variant: str
    control: str
    metric: str
    parts: int
    left_out: int
    statistic: float | None
    df: int | None
    p_value: float | None
    p_value_holm: float | None
    # 0 to 100: how much of the variation between the parts' differences chance does not explain.
    i_squared_percent: float | None
    null_reason: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakdownResult:
    """The answer for the users of each value of an attribute; all comparisons of segments are one family."""

    attribute: str
    segments: tuple[SegmentResult, ...]
    family: FamilyResult
    # One for each comparison of the whole answer, in their order.
    homogeneity: tuple[HomogeneityResult, ...]
    poststratified: tuple[PoststratifiedResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortResult:
    """The users who were exposed first in `[since, until)`; of the rest, all who were before `until`."""

    since: datetime | None
    until: datetime
    is_rest: bool
    users: int
    srm: SrmResult
    # Without a time series.
    variants: tuple[VariantResult, ...]
    comparisons: tuple[ComparisonResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortsResult:
    """The answer for the users of each day or week, in the order of time; all their comparisons are one family."""

    width: CohortWidth
    cohorts: tuple[CohortResult, ...]
    family: FamilyResult
    # One for each comparison of the whole answer, in their order.
    homogeneity: tuple[HomogeneityResult, ...]
    poststratified: tuple[PoststratifiedResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What was asked, and where the answer comes from."""

    start_date: datetime | None
    end_date: datetime | None
    granularity: Granularity
    event_types: tuple[str, ...]
    metrics: tuple[str, ...]
    compare: tuple[str, ...]
    family: FamilyResult
    confidence_level: float
    min_sample: int
    include_ci: bool
    include_overrides: bool
    cuped_days: int | None
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
    definitions: tuple[DefinitionResult, ...]
    effect_over_time: tuple[EffectSeries, ...]
    exposures_over_time: tuple[ExposureSeries, ...]
    # Null where they were not asked for.
    breakdown: BreakdownResult | None
    cohorts: CohortsResult | None
    provenance: ProvenanceResult
    metadata: Metadata
