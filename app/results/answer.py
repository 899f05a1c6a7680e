"""The answer to a question, as values: what the cache keeps and what every edge of the service shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from app.metrics.values import Direction, Kind, Role
from app.results.comparison_values import ComparisonResult
from app.results.daily_values import EffectSeries, ExposureSeries
from app.results.part_values import BreakdownResult, CohortsResult
from app.results.rollup_use import RollupUse
from app.results.values import Granularity, Source
from app.results.variant_values import FamilyResult, SrmResult, VariantResult
from app.results.verdicts import DecisionResult, Verdict


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
    minimum_detectable_effect_null_reason: str | None
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
