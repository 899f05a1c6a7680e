"""What an answer about results says about one variant against another, over HTTP."""

from typing import Annotated

from pydantic import Field

from app.results.comparison_values import Method
from app.results.schema_base import Out


class PriorOut(Out):
    """What was believed before the data; a flat prior has no parameters."""

    kind: Annotated[str, Field(description="beta, normal or flat.")]
    alpha: float | None
    beta: float | None
    lift_mean: float | None
    lift_std: float | None


class BayesOut(Out):
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


class CupedOut(Out):
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


class NonInferiorityOut(Out):
    """Whether a guardrail is worse by less than its margin; one-sided."""

    margin: Annotated[float, Field(description="A share of the control's value: 0.02 is 2 %.")]
    statistic: float | None
    p_value: float | None
    shown: bool
    null_reason: str | None


class ComparisonOut(Out):
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
