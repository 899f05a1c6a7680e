"""What an answer about results says of users and variants, over HTTP."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from app.results.schema_base import Out


class MetricOut(Out):
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
    prob_best_null_reason: str | None
    steps: Annotated[list[int] | None, Field(description="Of a funnel: the users who got as far as each step.")]
    null_reason: str | None


class SeriesEntryOut(Out):
    """Counted events of one type in one bucket; the interval is of `users` over the users exposed by its end."""

    time: Annotated[datetime, Field(description="Start of the bucket.")]
    event_type: str
    count: int
    users: int
    ci_lower: float | None
    ci_upper: float | None


class VariantOut(Out):
    """One variant."""

    id: int
    key: str
    is_control: bool
    below_min_sample: bool
    metrics: dict[str, MetricOut]
    time_series: list[SeriesEntryOut]


class SrmOut(Out):
    """Sample ratio mismatch: exposed users, overrides left out, against the allocation."""

    observed: dict[str, int]
    expected: dict[str, float]
    statistic: float | None
    df: int | None
    p_value: float | None
    mismatch: bool
    null_reason: str | None


class FamilyOut(Out):
    """Which p-values are adjusted together."""

    comparisons: int
    tested: int
    text: str
