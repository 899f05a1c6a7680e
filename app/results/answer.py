"""The answer to a question, as values: what the cache keeps and what every edge of the service shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.metrics.values import Direction, Kind, Role
from app.results.rollup_use import RollupUse
from app.results.values import Granularity, Source
from app.results.verdicts import DecisionResult, Verdict


class Method(StrEnum):
    """How a comparison was made: its test, which names its interval as well."""

    POOLED_Z = "pooled_z"  # Pooled z test, Newcombe's interval of the difference, Fieller's of the lift.
    WELCH_T = "welch_t"  # Welch's test and interval, Fieller's interval of the lift.
    DELTA_Z = "delta_z"  # Ratio of sums: delta method, normal quantile, Fieller's interval of the lift.
    QUANTILE_Z = "quantile_z"  # Quantiles with users as clusters: normal quantile, Fieller's interval of the lift.
    NONE = "none"  # Totals, and percentiles without a standard error: the difference is shown, nothing is tested.


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """One metric of one variant. What is undefined is null, and `null_reason` says why."""

    value: int | float | None
    sample_size: int
    ci_lower: float | None
    ci_upper: float | None
    # Percent with two decimals.
    lift_vs_control: float | None
    # That no other variant's value is better, by the beliefs of `bayes`; null where a variant has none.
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
class PriorResult:
    """What was believed before the data: Beta(alpha, beta) about a rate, or a normal about the lift.

    `kind` is `beta`, `normal` or `flat`; a flat prior has no parameters.
    """

    kind: str
    alpha: float | None
    beta: float | None
    lift_mean: float | None
    lift_std: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BayesResult:
    """What is believed about the difference after the data; better is in the metric's own direction.

    Losses are in the metric's unit: what is lost on average by shipping (keeping) where that is the wrong choice.
    """

    prob_better: float | None
    expected_loss_if_shipped: float | None
    expected_loss_if_kept: float | None
    credible_lower: float | None
    credible_upper: float | None
    prior: PriorResult
    null_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CupedResult:
    """The comparison after taking out what users did before their exposure. `lift` is a fraction."""

    difference: float | None
    difference_ci_lower: float | None
    difference_ci_upper: float | None
    lift: float | None
    lift_ci_lower: float | None
    lift_ci_upper: float | None
    p_value: float | None
    theta: float | None
    # 30 means that the variance of the difference is 30 % smaller than without the covariate.
    variance_reduction_percent: float | None
    null_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NonInferiorityResult:
    """Whether a guardrail is worse by less than its margin, a share of the control's value; one-sided."""

    margin: float
    statistic: float | None
    p_value: float | None
    shown: bool
    null_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonResult:
    """One metric of one variant against another, by default the control. `lift` is a fraction.

    `p_value` and the interval of the difference are for one look at a fixed horizon and for this comparison alone;
    `p_value_adjusted` (Holm) is for all comparisons of the answer read together, and what is `always_valid` holds
    however often one looks.
    """

    variant: str
    control: str
    metric: str
    n_variant: int
    n_control: int
    difference: float | None
    difference_ci_lower: float | None
    difference_ci_upper: float | None
    lift: float | None
    lift_ci_lower: float | None
    lift_ci_upper: float | None
    statistic: float | None
    df: float | None
    p_value: float | None
    # The same number twice: the first name came first.
    p_value_adjusted: float | None
    p_value_holm: float | None
    p_value_bh: float | None
    always_valid_p_value: float | None
    always_valid_ci_lower: float | None
    always_valid_ci_upper: float | None
    always_valid_lift_ci_lower: float | None
    always_valid_lift_ci_upper: float | None
    bayes: BayesResult
    cuped: CupedResult
    # Of guardrails with a margin alone.
    noninferiority: NonInferiorityResult | None
    method: Method
    null_reason: str | None
    # In words: what is undefined, and how that is to be read.
    notes: tuple[str, ...]


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
class EffectPoint:
    """The difference by all that had happened by the end of the day that starts at `time`."""

    time: datetime
    difference: float | None
    ci_lower: float | None
    ci_upper: float | None
    always_valid_ci_lower: float | None
    always_valid_ci_upper: float | None
    n_variant: int
    n_control: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectSeries:
    """One metric of one treatment against the control, day by day."""

    metric: str
    variant: str
    points: tuple[EffectPoint, ...]
    null_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposurePoint:
    """Users exposed in the day that starts at `time`, and all up to its end; `users` is null where it is not known."""

    time: datetime
    users: int | None
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposureSeries:
    """One variant's users, day by day."""

    variant: str
    points: tuple[ExposurePoint, ...]


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
    """A comparison of the whole answer with the segments as strata. `lift` is a fraction.

    Every segment with a user of either variant is a stratum, `strata` of them, with the weight that its users have
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
class BreakdownResult:
    """The answer for the users of each value of an attribute; all comparisons of segments are one family."""

    attribute: str
    segments: tuple[SegmentResult, ...]
    family: FamilyResult
    # One for each comparison of the whole answer, in their order.
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
    # Null where none was asked for.
    breakdown: BreakdownResult | None
    provenance: ProvenanceResult
    metadata: Metadata
