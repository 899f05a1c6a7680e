"""What an answer about results says of parts of the users, over HTTP."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from app.results.comparison_schemas import ComparisonOut
from app.results.schema_base import Out
from app.results.values import CohortWidth
from app.results.variant_schemas import FamilyOut, SrmOut, VariantOut

_ONE_EACH = Field(description="One for each comparison of the whole answer, in their order.")


class SegmentOut(Out):
    """The users whose stored context has one value under the attribute's name."""

    value: Annotated[str | None, Field(description="Null for users without a value, and for the rest.")]
    is_rest: Annotated[bool, Field(description="The users of all values beyond the 50 with the most users.")]
    users: int
    srm: SrmOut
    variants: Annotated[list[VariantOut], Field(description="Without a time series.")]
    comparisons: list[ComparisonOut]


class HomogeneityOut(Out):
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
    left_out_parts: Annotated[
        list[int], Field(description="Which these are: places in `segments` or `cohorts`, the first of which is 0.")
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


class PoststratifiedOut(Out):
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


class BreakdownOut(Out):
    """The answer for the users of each value of an attribute."""

    attribute: str
    segments: list[SegmentOut]
    family: Annotated[FamilyOut, Field(description="All comparisons of segments are adjusted together.")]
    homogeneity: Annotated[list[HomogeneityOut], _ONE_EACH]
    poststratified: Annotated[list[PoststratifiedOut], _ONE_EACH]


class CohortOut(Out):
    """The users who were exposed first on one UTC day, or in one ISO week."""

    since: Annotated[datetime | None, Field(description="Null of the first cohort if it `is_rest`.")]
    until: Annotated[datetime, Field(description="They were exposed before this.")]
    is_rest: Annotated[bool, Field(description="All users from before the newest 50 days or weeks that had any.")]
    users: int
    srm: SrmOut
    variants: Annotated[list[VariantOut], Field(description="Without a time series.")]
    comparisons: list[ComparisonOut]


class CohortsOut(Out):
    """The answer for the users of each day or week, oldest first; their events count whenever they happened."""

    width: CohortWidth
    cohorts: Annotated[list[CohortOut], Field(description="Days and weeks without users are left out.")]
    family: Annotated[FamilyOut, Field(description="All comparisons of cohorts are adjusted together.")]
    homogeneity: Annotated[list[HomogeneityOut], _ONE_EACH]
    poststratified: Annotated[list[PoststratifiedOut], _ONE_EACH]
