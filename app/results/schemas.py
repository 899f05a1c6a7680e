"""The answer about results over HTTP."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.experiments.lifecycle import Status
from app.results.answer import Method, Results, Verdict
from app.results.rollup_use import RollupReason
from app.results.values import Granularity, Metric, Source


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class MetricOut(_Out):
    """One metric of one variant. What is undefined is null, and `null_reason` says why."""

    value: int | float | None
    sample_size: Annotated[int, Field(description="Exposed users of the variant.")]
    ci_lower: float | None
    ci_upper: float | None
    lift_vs_control: Annotated[float | None, Field(description="Percent, two decimals.")]
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
    metrics: dict[Metric, MetricOut]
    time_series: list[SeriesEntryOut]


class ComparisonOut(_Out):
    """One metric of one treatment against the control.

    `p_value` and the interval of the difference are for one look at a fixed horizon, and for this comparison alone.
    """

    variant: str
    control: str
    metric: Metric
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
    always_valid_p_value: Annotated[float | None, Field(description="Holds however often one looks.")]
    always_valid_ci_lower: Annotated[float | None, Field(description="Of the difference, at every look.")]
    always_valid_ci_upper: float | None
    method: Method
    null_reason: str | None


class SrmOut(_Out):
    """Sample ratio mismatch: exposed users, overrides left out, against the allocation."""

    observed: dict[str, int]
    expected: dict[str, float]
    statistic: float | None
    df: int | None
    p_value: float | None
    mismatch: bool
    null_reason: str | None


class SummaryOut(_Out):
    """The outcome by the first metric asked for."""

    status: Status
    winning_variant: str | None
    verdict: Verdict
    metric: Metric
    confidence_level: float
    minimum_detectable_effect: Annotated[
        float | None,
        Field(description="Smallest relative effect found with 80 % power in as many users: 0.05 is 5 %."),
    ]


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
    metrics: list[Metric]
    confidence_level: float
    min_sample: int
    include_ci: bool
    include_overrides: bool
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
    metadata: MetadataOut

    @classmethod
    def of(cls, results: Results) -> "ResultsOut":
        return cls.model_validate(results)
