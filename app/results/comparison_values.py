"""What the answer says about one variant against another, as values."""

from dataclasses import dataclass
from enum import StrEnum


class Method(StrEnum):
    """How a comparison was made: its test, which names its interval as well."""

    POOLED_Z = "pooled_z"  # Pooled z test, Newcombe's interval of the difference, Fieller's of the lift.
    WELCH_T = "welch_t"  # Welch's test and interval, Fieller's interval of the lift.
    DELTA_Z = "delta_z"  # Ratio of sums: delta method, normal quantile, Fieller's interval of the lift.
    QUANTILE_Z = "quantile_z"  # Quantiles with users as clusters: normal quantile, Fieller's interval of the lift.
    NONE = "none"  # Totals, and percentiles without a standard error: the difference is shown, nothing is tested.


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
