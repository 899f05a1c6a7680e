"""What an answer says of parts of the users, as values."""

from dataclasses import dataclass
from datetime import datetime

from app.results.comparison_values import ComparisonResult
from app.results.values import CohortWidth
from app.results.variant_values import FamilyResult, SrmResult, VariantResult


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
    a difference without a variance: those at `left_out_parts`, counted from 0, of the segments or cohorts.
    `p_value_holm` is adjusted over all comparisons that were tested in this way.
    """

    variant: str
    control: str
    metric: str
    parts: int
    left_out: int
    left_out_parts: tuple[int, ...]
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
