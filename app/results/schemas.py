"""The answer about results over HTTP."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from app.experiments.lifecycle import Status
from app.metrics.values import Direction, Kind, Role
from app.results.answer import Results
from app.results.comparison_schemas import ComparisonOut
from app.results.daily_schemas import EffectSeriesOut, ExposureSeriesOut
from app.results.part_schemas import BreakdownOut, CohortsOut
from app.results.rollup_use import RollupReason
from app.results.schema_base import Out
from app.results.values import Granularity, Source
from app.results.variant_schemas import FamilyOut, SrmOut, VariantOut
from app.results.verdicts import DecisionCode, DecisionVerdict, Verdict


class DecisionReasonOut(Out):
    """Why, as a code and as a sentence."""

    code: DecisionCode
    text: str


class DecisionRuleOut(Out):
    """By which rule evidence counted."""

    stopping_rule: Annotated[str, Field(description="fixed, always_valid or group_sequential.")]
    alpha: Annotated[float, Field(description="Two-sided, over all treatments together.")]
    metric: Annotated[str, Field(description="The primary metric.")]
    planned_sample: Annotated[int | None, Field(description="Users of all variants.")]
    information: Annotated[float | None, Field(description="Users over planned users.")]
    look: Annotated[int | None, Field(description="Of a group-sequential plan: the last look that was reached.")]
    looks: int | None
    bound: Annotated[float | None, Field(description="What the z statistic has to reach at that look.")]


class DecisionOut(Out):
    """What to do: ship `variant`, keep the control, wait, or nothing from these data."""

    verdict: DecisionVerdict
    variant: str | None
    reasons: list[DecisionReasonOut]
    rule: DecisionRuleOut


class SummaryOut(Out):
    """The outcome by the first metric asked for; the decision by the primary one."""

    status: Status
    winning_variant: str | None
    verdict: Verdict
    metric: str
    confidence_level: float
    minimum_detectable_effect: Annotated[
        float | None,
        Field(
            description="Smallest relative effect found with 80 % power in as many users, by the treatment with the"
            " fewest: 0.05 is 5 %."
        ),
    ]
    minimum_detectable_effect_null_reason: str | None
    decision: DecisionOut
    users_per_day: Annotated[float | None, Field(description="Exposed, over the last seven days.")]
    remaining_days: Annotated[
        float | None, Field(description="Until the planned sample, or the asked effect, at that rate.")
    ]
    remaining_days_null_reason: str | None


class DefinitionOut(Out):
    """What a metric of this answer is."""

    key: str
    name: Annotated[str | None, Field(description="Null for a built-in metric.")]
    kind: Annotated[Kind | None, Field(description="Null for a total.")]
    version: Annotated[int | None, Field(description="Null for a built-in metric.")]
    role: Role
    direction: Annotated[Direction, Field(description="Which way is good.")]
    unit: str | None
    margin: float | None
    exploratory: bool
    notes: list[str]


class ProvenanceOut(Out):
    """Where the numbers come from. What is not known is null, and `null_reasons` says why, by the field's name."""

    sources: Annotated[list[str], Field(description="postgresql, clickhouse.")]
    complete_until: Annotated[datetime, Field(description="Everything ingested before this is in the answer.")]
    lag_seconds: float
    events_counted: int
    duplicates_dropped: Annotated[
        int | None,
        Field(
            description="Events of the asked types and hours, from the first assignment on, that were sent again under"
            " a known `event_id` and dropped where they arrived: those that name this experiment or none."
        ),
    ]
    late_events: Annotated[int | None, Field(description="Counted events ingested over an hour after their time.")]
    users_excluded: Annotated[dict[str, int], Field(description="Users who do not count, by reason.")]
    experiment_version: int
    metric_versions: dict[str, int | None]
    query_hash: Annotated[str, Field(description="SHA-256 of the question and of the versions it was asked of.")]
    answer_id: Annotated[
        str | None, Field(description="`GET .../results/{answer_id}` shows this very answer for 30 days.")
    ]
    null_reasons: dict[str, str]


class RollupsOut(Out):
    """Whether part of the answer was counted ahead. It is the same either way."""

    used: bool
    until: Annotated[datetime | None, Field(description="What was ingested before this was counted ahead.")]
    reason: RollupReason


class MetadataOut(Out):
    """What was asked, and where the answer comes from."""

    start_date: datetime | None
    end_date: datetime | None
    granularity: Granularity
    event_types: list[str]
    metrics: list[str]
    compare: list[str]
    family: FamilyOut
    confidence_level: float
    min_sample: int
    include_ci: bool
    include_overrides: bool
    cuped_days: int | None
    context: dict[str, str]
    total_users: int
    source: Source
    rollups: RollupsOut
    complete_until: Annotated[datetime, Field(description="Everything ingested before this is in the answer.")]
    computed_at: datetime


class ResultsOut(Out):
    """The results of an experiment."""

    experiment_id: int
    summary: SummaryOut
    variants: list[VariantOut]
    comparisons: list[ComparisonOut]
    srm: SrmOut
    definitions: list[DefinitionOut]
    effect_over_time: list[EffectSeriesOut]
    exposures_over_time: list[ExposureSeriesOut]
    breakdown: Annotated[BreakdownOut | None, Field(description="Null where none was asked for.")]
    cohorts: Annotated[CohortsOut | None, Field(description="Null where none were asked for.")]
    provenance: ProvenanceOut
    metadata: MetadataOut

    @classmethod
    def of(cls, results: Results) -> "ResultsOut":
        return cls.model_validate(results)
