"""What an answer says of users and variants, as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


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
    prob_best_null_reason: str | None
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
class FamilyResult:
    """Which p-values are adjusted together: all comparisons of the answer that were tested."""

    comparisons: int
    tested: int
    text: str
