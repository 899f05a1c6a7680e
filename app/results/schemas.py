"""The answer about results over HTTP."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.experiments.lifecycle import Status
from app.metrics.values import Direction, Kind, Role
from app.results.answer import Results
from app.results.comparison_values import Method
from app.results.rollup_use import RollupReason
from app.results.values import CohortWidth, Granularity, Source
from app.results.verdicts import DecisionCode, DecisionVerdict, Verdict


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class MetricOut(_Out):
    """One metric of one variant. What is undefined is null, and `null_reason` says why."""

    value: int | float | None
    sample_size: Annotated[int, Field(description="Exposed users of the variant.")]
    ci_lower: float | None
    ci_upper: float | None
    lift_vs_control: Annotated[float | None, Field(description="Percent, two decimals.")]
    prob_best: Annotated[
        float | None,
        Field(description="Chance to be the best by this metric, of all variants that have users; null without any."),
    ]
    steps: Annotated[list[int] | None, Field(description="Of a funnel: the users who got as far as each step.")]
    null_reason: str | None


class SeriesEntryOut(_Out):
    """Counted events of one type in one bucket; the interval is of `users` over the users exposed by its end."""

    time: Annotated[datetime, Field(description="Start of the bucket.")]
    event_type: str
    count: int
    users: int
    ci_lower: float | None
    ci_upper: float | None


class VariantOut(_Out):
    """One variant."""

    id: int
    key: str
    is_control: bool
    below_min_sample: bool
    metrics: dict[str, MetricOut]
    time_series: list[SeriesEntryOut]


class PriorOut(_Out):
    """What was believed before the data; a flat prior has no parameters."""

    kind: Annotated[str, Field(description="beta, normal or flat.")]
    alpha: float | None
    beta: float | None
    lift_mean: float | None
    lift_std: float | None


class BayesOut(_Out):
    """What is believed about the difference after the data; better is in the metric's own direction."""

    prob_better: float | None
    expected_loss_if_shipped: Annotated[
        float | None, Field(description="Lost on average by shipping, in the metric's unit; 0 where that is right.")
    ]
    expected_loss_if_kept: float | None
    credible_lower: Annotated[float | None, Field(description="Of the difference, equal-tailed.")]
    credible_upper: float | None
    prior: PriorOut
    null_reason: str | None


class CupedOut(_Out):
    """The comparison after taking out what users did before their exposure."""

    difference: float | None
    difference_ci_lower: float | None
    difference_ci_upper: float | None
    lift: float | None
    lift_ci_lower: float | None
    lift_ci_upper: float | None
    p_value: float | None
    theta: float | None
    variance_reduction_percent: float | None
    null_reason: str | None


class NonInferiorityOut(_Out):
    """Whether a guardrail is worse by less than its margin; one-sided."""

    margin: Annotated[float, Field(description="A share of the control's value: 0.02 is 2 %.")]
    statistic: float | None
    p_value: float | None
    shown: bool
    null_reason: str | None


class ComparisonOut(_Out):
    """One metric of one variant against another, by default the control.

    `p_value` and the interval of the difference are for one look at a fixed horizon, and for this comparison alone.
    """

    variant: str
    control: str
    metric: str
    n_variant: Annotated[int, Field(description="Exposed users of the variant.")]
    n_control: int
    difference: float | None
    difference_ci_lower: float | None
    difference_ci_upper: float | None
    lift: Annotated[float | None, Field(description="A fraction: 0.05 is +5 %.")]
    lift_ci_lower: float | None
    lift_ci_upper: float | None
    statistic: float | None
    df: float | None
    p_value: float | None
    p_value_adjusted: Annotated[
        float | None, Field(description="Holm's, for all comparisons of this answer read together.")
    ]
    p_value_holm: Annotated[float | None, Field(description="The same as `p_value_adjusted`.")]
    p_value_bh: Annotated[float | None, Field(description="Benjamini and Hochberg's, for the same family.")]
    always_valid_p_value: Annotated[float | None, Field(description="Holds however often one looks.")]
    always_valid_ci_lower: Annotated[float | None, Field(description="Of the difference, at every look.")]
    always_valid_ci_upper: float | None
    always_valid_lift_ci_lower: Annotated[float | None, Field(description="Of the lift, at every look.")]
    always_valid_lift_ci_upper: float | None
    bayes: BayesOut
    cuped: CupedOut
    noninferiority: Annotated[
        NonInferiorityOut | None, Field(description="Of guardrails with a margin; null for every other metric.")
    ]
    method: Method
    null_reason: str | None
    notes: Annotated[list[str], Field(description="What is undefined here, in words.")]


class SrmOut(_Out):
    """Sample ratio mismatch: exposed users, overrides left out, against the allocation."""

    observed: dict[str, int]
    expected: dict[str, float]
    statistic: float | None
    df: int | None
    p_value: float | None
    mismatch: bool
    null_reason: str | None


class DecisionReasonOut(_Out):
    """Why, as a code and as a sentence."""

    code: DecisionCode
    text: str


class DecisionRuleOut(_Out):
    """By which rule evidence counted."""

    stopping_rule: Annotated[str, Field(description="fixed, always_valid or group_sequential.")]
    alpha: Annotated[float, Field(description="Two-sided, over all treatments together.")]
    metric: Annotated[str, Field(description="The primary metric.")]
    planned_sample: Annotated[int | None, Field(description="Users of all variants.")]
    information: Annotated[float | None, Field(description="Users over planned users.")]
    look: Annotated[int | None, Field(description="Of a group-sequential plan: the last look that was reached.")]
    looks: int | None
    bound: Annotated[float | None, Field(description="What the z statistic has to reach at that look.")]


class DecisionOut(_Out):
    """What to do: ship `variant`, keep the control, wait, or nothing from these data."""

    verdict: DecisionVerdict
    variant: str | None
    reasons: list[DecisionReasonOut]
    rule: DecisionRuleOut


class SummaryOut(_Out):
    """The outcome by the first metric asked for; the decision by the primary one."""

    status: Status
    winning_variant: str | None
    verdict: Verdict
    metric: str
    confidence_level: float
    minimum_detectable_effect: Annotated[
        float | None,
        Field(description="Smallest relative effect found with 80 % power in as many users: 0.05 is 5 %."),
    ]
    decision: DecisionOut
    users_per_day: Annotated[float | None, Field(description="Exposed, over the last seven days.")]
    remaining_days: Annotated[
        float | None, Field(description="Until the planned sample, or the asked effect, at that rate.")
    ]
    remaining_days_null_reason: str | None


class DefinitionOut(_Out):
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


class EffectPointOut(_Out):
    """The difference by all that had happened by the end of one day."""

    time: Annotated[datetime, Field(description="Start of the day.")]
    difference: float | None
    ci_lower: float | None
    ci_upper: float | None
    always_valid_ci_lower: float | None
    always_valid_ci_upper: float | None
    n_variant: int
    n_control: int


class EffectSeriesOut(_Out):
    """One metric of one treatment against the control, day by day."""

    metric: str
    variant: str
    points: list[EffectPointOut]
    null_reason: str | None


class ExposurePointOut(_Out):
    """Users exposed in one day, and all up to its end."""

    time: Annotated[datetime, Field(description="Start of the day.")]
    users: Annotated[
        int | None, Field(description="Null on the first day after `start_date`: all who came before are in `total`.")
    ]
    total: int


class ExposureSeriesOut(_Out):
    """One variant's users, day by day."""

    variant: str
    points: list[ExposurePointOut]


class FamilyOut(_Out):
    """Which p-values are adjusted together."""

    comparisons: int
    tested: int
    text: str


class SegmentOut(_Out):
    """The users whose stored context has one value under the attribute's name."""

    value: Annotated[str | None, Field(description="Null for users without a value, and for the rest.")]
    is_rest: Annotated[bool, Field(description="The users of all values beyond the 50 with the most users.")]
    users: int
    srm: SrmOut
    variants: Annotated[list[VariantOut], Field(description="Without a time series.")]
    comparisons: list[ComparisonOut]


class HomogeneityOut(_Out):
    """Whether one comparison comes out the same in all parts of the users: Cochran's Q, chi-square.

    Null where fewer than two parts can be compared (TOO_FEW_GROUPS), and of metrics without a test (NO_TEST).
    """

    variant: str
    control: str
    metric: str
    parts: Annotated[int, Field(description="Segments or cohorts whose differences are compared.")]
    left_out: Annotated[
        int,
        Field(description="Those with fewer than `min_sample` users of a variant, or a difference without a variance."),
    ]
    statistic: float | None
    df: int | None
    p_value: Annotated[float | None, Field(description="Small: the effect is not the same in all parts.")]
    p_value_holm: Annotated[float | None, Field(description="Adjusted over all comparisons tested in this way.")]
    i_squared_percent: Annotated[
        float | None, Field(description="Of the variation between the differences, what chance does not explain.")
    ]
    null_reason: str | None
    notes: list[str]


class PoststratifiedOut(_Out):
    """A comparison of all users with the parts as strata: chance imbalances between the variants are taken out.

    Null where a stratum lacks a variant (EMPTY_ARM) or has a single user of one (TOO_FEW_UNITS), and of metrics that
    are no means or ratios (NO_STRATIFIED_FORM). The p-value is for this comparison alone.
    """

    variant: str
    control: str
    metric: str
    strata: Annotated[int, Field(description="Segments or cohorts with a user of either variant.")]
    difference: float | None
    difference_ci_lower: float | None
    difference_ci_upper: float | None
    lift: Annotated[float | None, Field(description="A fraction: 0.05 is +5 %.")]
    lift_ci_lower: float | None
    lift_ci_upper: float | None
    statistic: float | None
    p_value: float | None
    variance_reduction_percent: Annotated[
        float | None, Field(description="30: the variance of the difference is 30 % smaller than that of the raw one.")
    ]
    null_reason: str | None
    notes: list[str]


class BreakdownOut(_Out):
    """The answer for the users of each value of an attribute."""

    attribute: str
    segments: list[SegmentOut]
    family: Annotated[FamilyOut, Field(description="All comparisons of segments are adjusted together.")]
    homogeneity: Annotated[
        list[HomogeneityOut], Field(description="One for each comparison of the whole answer, in their order.")
    ]
    poststratified: Annotated[
        list[PoststratifiedOut], Field(description="One for each comparison of the whole answer, in their order.")
    ]


class CohortOut(_Out):
    """The users who were exposed first on one UTC day, or in one ISO week."""

    since: Annotated[datetime | None, Field(description="Null of the first cohort if it `is_rest`.")]
    until: Annotated[datetime, Field(description="They were exposed before this.")]
    is_rest: Annotated[bool, Field(description="All users from before the newest 50 days or weeks that had any.")]
    users: int
    srm: SrmOut
    variants: Annotated[list[VariantOut], Field(description="Without a time series.")]
    comparisons: list[ComparisonOut]


class CohortsOut(_Out):
    """The answer for the users of each day or week, oldest first; their events count whenever they happened."""

    width: CohortWidth
    cohorts: Annotated[list[CohortOut], Field(description="Days and weeks without users are left out.")]
    family: Annotated[FamilyOut, Field(description="All comparisons of cohorts are adjusted together.")]
    homogeneity: Annotated[
        list[HomogeneityOut], Field(description="One for each comparison of the whole answer, in their order.")
    ]
    poststratified: Annotated[
        list[PoststratifiedOut], Field(description="One for each comparison of the whole answer, in their order.")
    ]


class ProvenanceOut(_Out):
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


class RollupsOut(_Out):
    """Whether part of the answer was counted ahead. It is the same either way."""

    used: bool
    until: Annotated[datetime | None, Field(description="What was ingested before this was counted ahead.")]
    reason: RollupReason


class MetadataOut(_Out):
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


class ResultsOut(_Out):
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
