"""What is believed about differences after the data, and which arm is probably the best. Plain functions, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.results.measured import Measured, MeasuredArm
from app.results.reading import Reading
from app.results.words import NO_TEST, NO_VALUES
from app.stats.bayes_best import prob_best_rate, prob_best_value
from app.stats.bayes_difference import bayes_rate_difference
from app.stats.bayes_effect import NormalPrior, bayes_normal
from app.stats.exact import all_finite, to_float
from app.stats.rate_belief import BetaPrior
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, Proportion, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """About a treatment's difference from the control; better is in the metric's direction, losses in its unit."""

    prob_better: float | None = None
    loss_if_shipped: float | None = None
    loss_if_kept: float | None = None
    lower: float | None = None
    upper: float | None = None
    null_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Chance:
    """That an arm is the best of all; without it, why."""

    value: float | None = None
    null_reason: str | None = None


def belief(
    metric: Measured, control: MeasuredArm, treatment: MeasuredArm, reading: Reading, credibility: float
) -> Belief:
    """Return the belief about one comparison.

    Rates have Beta posteriors; every other metric has a normal likelihood, whose prior is on the lift and is brought
    to the metric's unit by the control's value.
    """
    if not metric.tested:
        return Belief(null_reason=NO_TEST)
    c, t = control.sample, treatment.sample
    if isinstance(c, Proportion) and isinstance(t, Proportion):
        return _of_rates(metric, c, t, reading, credibility)
    return _of_values(metric, c.estimate(), t.estimate(), reading, credibility)


def prob_best(metric: Measured, arms: Sequence[MeasuredArm], reading: Reading) -> tuple[Chance, ...]:
    """Return each arm's chance to be the best by the metric, (k,), in its direction.

    The best of those that have users: of an arm without any there is the prior alone, which may well seem better than
    what was seen of the others. Such an arm has none, and takes nothing from the others.

    A prior on lifts says nothing about the arms' own values; for metrics other than rates they have flat ones here.
    """
    if not metric.tested:
        return (Chance(null_reason=NO_TEST),) * len(arms)
    with_users = [arm.sample.estimate().n > 0 for arm in arms]
    samples = [arm.sample for arm, has_users in zip(arms, with_users, strict=True) if has_users]
    # The best of one is no finding.
    found = _prob_best(metric, samples, reading) if len(samples) > 1 else None
    reason = None if found is not None else _of_weakest([sample.estimate() for sample in samples])
    chances = iter(found or ())
    return tuple(
        Chance(next(chances, None), reason) if has_users else Chance(null_reason=NullReason.EMPTY_ARM)
        for has_users in with_users
    )


def _of_weakest(estimates: Sequence[ArmEstimate]) -> str:
    """Return why there is no best of these arms: one that can be compared with none takes the chance from all."""
    if len(estimates) < 2:
        return NullReason.TOO_FEW_ARMS
    for estimate in estimates:
        if estimate.value is None or estimate.variance is None:
            return estimate.null_reason or NO_VALUES
        if estimate.variance == 0:
            return NullReason.ZERO_VARIANCE
    return NullReason.OUT_OF_RANGE


def _prob_best(metric: Measured, samples: Sequence[Sample], reading: Reading) -> tuple[float, ...] | None:
    lowest = metric.sign < 0
    rates = [sample for sample in samples if isinstance(sample, Proportion)]
    if len(rates) == len(samples):
        return prob_best_rate(rates, prior=_beta(reading), lowest=lowest)
    return prob_best_value(samples, lowest=lowest)


def _beta(reading: Reading) -> BetaPrior:
    return BetaPrior(alpha=reading.prior_alpha, beta=reading.prior_beta)


def _of_rates(
    metric: Measured, control: Proportion, treatment: Proportion, reading: Reading, credibility: float
) -> Belief:
    if not (control.trials and treatment.trials):
        # The prior is no finding about a variant that nobody has seen.
        return Belief(null_reason=NullReason.EMPTY_ARM)
    found = bayes_rate_difference(control, treatment, prior=_beta(reading), credibility=credibility)
    return _in_direction(
        metric,
        Belief(
            prob_better=found.prob_treatment_better,
            loss_if_shipped=found.expected_loss_choose_treatment,
            loss_if_kept=found.expected_loss_choose_control,
            lower=found.lower,
            upper=found.upper,
        ),
    )


def _of_values(metric: Measured, control: Sample, treatment: Sample, reading: Reading, credibility: float) -> Belief:
    prior = _prior_on_difference(control, reading)
    if isinstance(prior, NullReason):
        return Belief(null_reason=prior)
    found = bayes_normal(control, treatment, prior=prior, credibility=credibility)
    return _in_direction(
        metric,
        Belief(
            prob_better=found.prob_treatment_better,
            loss_if_shipped=found.expected_loss_choose_treatment,
            loss_if_kept=found.expected_loss_choose_control,
            lower=found.lower,
            upper=found.upper,
            # A quantile of users without values has no reason of its own.
            null_reason=found.null_reason or (NO_VALUES if found.prob_treatment_better is None else None),
        ),
    )


def _prior_on_difference(control: Sample, reading: Reading) -> NormalPrior | NullReason | None:
    """Bring the prior on the lift to the metric's unit, or say why that cannot be done; `None` without a prior.

    A lift is a share of the control's value, with its sign: +20 % of a control below 0 is a difference below 0.
    """
    if reading.prior_lift_std is None:
        return None
    estimate = control.estimate()
    if estimate.value is None:
        return estimate.null_reason or NullReason.ZERO_BASELINE
    baseline = to_float(estimate.value)
    mean, deviation = baseline * reading.prior_lift_mean, baseline * reading.prior_lift_std
    variance = deviation * deviation
    if not all_finite(mean, variance):
        return NullReason.OUT_OF_RANGE
    # What is so small that its square vanishes is as good as 0.
    return NormalPrior(mean=mean, variance=variance) if variance > 0.0 else NullReason.ZERO_BASELINE


def _in_direction(metric: Measured, upward: Belief) -> Belief:
    """Turn what is said about a larger treatment into what is said about a better one."""
    if metric.sign > 0 or upward.prob_better is None:
        return upward
    return Belief(
        prob_better=max(0.0, 1.0 - upward.prob_better),
        loss_if_shipped=upward.loss_if_kept,
        loss_if_kept=upward.loss_if_shipped,
        lower=upward.lower,
        upper=upward.upper,
    )
