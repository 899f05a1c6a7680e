"""One comparison as the answer shows it. Plain functions, no I/O."""

from app.experiments.values import Variant
from app.results.beliefs import Belief, belief
from app.results.comparison_values import (
    BayesResult,
    ComparisonResult,
    CupedResult,
    NonInferiorityResult,
    PriorResult,
)
from app.results.contrasts import Adjusted, Contrast
from app.results.measured import Measured, Shape
from app.results.reading import Reading
from app.results.values import Question
from app.results.words import NEGATIVE_BASELINE, sentences
from app.stats.noninferiority import NonInferiority


def comparison(
    metric: Measured,
    variant: Variant,
    control: Variant,
    found: Contrast,
    reading: Reading,
    question: Question,
    *,
    holm: float | None,
    bh: float | None,
) -> ComparisonResult:
    """Return what the answer says about a variant against another by a metric.

    holm, bh: its p-value adjusted with all others of the answer.
    """
    shown = found if question.include_ci else found.without_intervals()
    treatment_arm, control_arm = metric.of(variant.id), metric.of(control.id)
    baseline = control_arm.sample.estimate().value
    turned = NEGATIVE_BASELINE if baseline is not None and baseline < 0 and shown.lift is not None else None
    thought = belief(metric, control_arm, treatment_arm, reading, question.confidence)
    return ComparisonResult(
        variant=variant.key,
        control=control.key,
        metric=metric.key,
        n_variant=treatment_arm.sample.estimate().n,
        n_control=control_arm.sample.estimate().n,
        difference=shown.difference,
        difference_ci_lower=shown.lower,
        difference_ci_upper=shown.upper,
        lift=shown.lift,
        lift_ci_lower=shown.lift_lower,
        lift_ci_upper=shown.lift_upper,
        statistic=shown.statistic,
        df=shown.df,
        p_value=shown.p_value,
        p_value_adjusted=holm,
        p_value_holm=holm,
        p_value_bh=bh,
        always_valid_p_value=shown.always_p_value,
        always_valid_ci_lower=shown.always_lower,
        always_valid_ci_upper=shown.always_upper,
        always_valid_lift_ci_lower=shown.always_lift_lower,
        always_valid_lift_ci_upper=shown.always_lift_upper,
        bayes=_bayes(metric, thought, reading, wanted=question.include_ci),
        cuped=_cuped(shown.adjusted),
        noninferiority=_noninferiority(metric, shown.noninferiority),
        method=shown.method,
        null_reason=shown.null_reason or shown.interval_null_reason,
        notes=sentences([shown.null_reason, shown.interval_null_reason, shown.always_null_reason, turned]),
    )


def _bayes(metric: Measured, thought: Belief, reading: Reading, *, wanted: bool) -> BayesResult:
    return BayesResult(
        prob_better=thought.prob_better,
        expected_loss_if_shipped=thought.loss_if_shipped,
        expected_loss_if_kept=thought.loss_if_kept,
        credible_lower=thought.lower if wanted else None,
        credible_upper=thought.upper if wanted else None,
        prior=_prior(metric, reading),
        null_reason=thought.null_reason,
    )


def _prior(metric: Measured, reading: Reading) -> PriorResult:
    if metric.shape is Shape.RATE:
        return PriorResult(
            kind="beta", alpha=reading.prior_alpha, beta=reading.prior_beta, lift_mean=None, lift_std=None
        )
    if reading.prior_lift_std is None:
        return PriorResult(kind="flat", alpha=None, beta=None, lift_mean=None, lift_std=None)
    return PriorResult(
        kind="normal",
        alpha=None,
        beta=None,
        lift_mean=reading.prior_lift_mean,
        lift_std=reading.prior_lift_std,
    )


def _cuped(found: Adjusted) -> CupedResult:
    return CupedResult(
        difference=found.difference,
        difference_ci_lower=found.lower,
        difference_ci_upper=found.upper,
        lift=found.lift,
        lift_ci_lower=found.lift_lower,
        lift_ci_upper=found.lift_upper,
        p_value=found.p_value,
        theta=found.theta,
        variance_reduction_percent=found.variance_reduction_percent,
        null_reason=found.null_reason or found.interval_null_reason,
    )


def _noninferiority(metric: Measured, found: NonInferiority | None) -> NonInferiorityResult | None:
    if found is None or metric.margin is None:
        return None
    return NonInferiorityResult(
        margin=metric.margin,
        statistic=found.statistic,
        p_value=found.p_value,
        shown=found.shown,
        null_reason=found.null_reason,
    )
