"""Whether users differed before their exposure, and whether an effect lasts."""

import math
from collections.abc import Iterator
from fractions import Fraction

from app.diagnosis.comparing import ALPHA, Tested, compared
from app.diagnosis.facts import Facts, Phases, Prior
from app.diagnosis.values import Code, Finding, Severity, Unchecked
from app.diagnosis.wording import count, p_value, percent
from app.stats.distributions import Alternative, Distribution
from app.stats.distributions import p_value as p_value_of
from app.stats.exact import all_finite, to_float
from app.stats.multiple import Correction, adjust_p_values
from app.stats.samples import ArmEstimate, MeanSample

# As strict as the check of the arms' sizes: a finding stops an experiment.
_GRAVE_ALPHA = 0.001
_WORTH_A_LOOK = 0.01
# A test of users' numbers needs some of these to be something else than 0.
_FEWEST_ACTIVE = 20


def pre_exposure_difference(facts: Facts) -> list[Finding] | Unchecked:
    """Compare what users did before their exposure, when no variant can have had an effect."""
    if isinstance(facts.priors, Unchecked):
        return facts.priors
    tested = [one for prior in facts.priors for one in _of_prior(facts, prior)]
    if not tested:
        return Unchecked("Too few users did anything in the days before their exposure.")
    holm = adjust_p_values([one.p for one in tested], method=Correction.HOLM, alpha=ALPHA).adjusted
    worst = min(range(len(tested)), key=lambda index: tested[index].p)
    one, adjusted = tested[worst], holm[worst]
    if adjusted is None or adjusted >= _WORTH_A_LOOK:
        return []
    return [
        Finding(
            code=Code.PRE_EXPOSURE_DIFFERENCE,
            severity=Severity.CRITICAL if adjusted < _GRAVE_ALPHA else Severity.WARNING,
            title="The variants differed before the experiment began",
            evidence={
                "measure": one.metric,
                "variant": one.variant,
                "days": facts.priors[0].days,
                "control_value": one.comparison.control,
                "variant_value": one.comparison.treatment,
                "p_value": one.p,
                "p_value_holm": adjusted,
                "tests": len(tested),
            },
            text=(
                f"In the {facts.priors[0].days} days before their exposure users of {one.variant} already differed from"
                f" the control in {one.metric}: {one.comparison.treatment:.4g} against {one.comparison.control:.4g}"
                f" ({p_value(adjusted)} after Holm's correction)."
            ),
            action=(
                "Look for a reason why other users get into this variant: an earlier experiment with the same seed, an"
                " assignment that depends on behaviour, or lost exposures. CUPED takes out a difference of chance, but"
                " not its cause; a restart with a new seed does."
            ),
        )
    ]


def novelty(facts: Facts) -> list[Finding] | Unchecked:
    """Compare the lift in the first days after the exposure with the lift in as many days after these."""
    if isinstance(facts.phases, Unchecked):
        return facts.phases
    tested = [
        (key, facts.arms[arm].key, phases, *found)
        for key, phases in facts.phases.items()
        for arm in range(1, len(facts.arms))
        if (found := _change_of_lift(phases, arm)) is not None
    ]
    if not tested:
        return Unchecked("Too few users with events in both phases.")
    holm = adjust_p_values([one[5] for one in tested], method=Correction.HOLM, alpha=_WORTH_A_LOOK).adjusted
    return [
        Finding(
            code=Code.NOVELTY,
            severity=Severity.WARNING,
            title=f"The effect on {key} changes after the first days",
            evidence={
                "metric": key,
                "variant": variant,
                "days": phases.days,
                "lift_first": first,
                "lift_later": later,
                "p_value": p,
                "p_value_holm": adjusted,
            },
            text=(
                f"In the first {count(phases.days, 'day')} after their exposure users of {variant} have a lift of"
                f" {percent(first)}, in the {count(phases.days, 'day')} after these one of {percent(later)}"
                f" ({p_value(adjusted)} after Holm's correction)."
            ),
            action=(
                "Let it run until the later days have settled, and decide by them: a metric whose window begins after"
                " the first days measures what stays."
            ),
        )
        for (key, variant, phases, first, later, p), adjusted in zip(tested, holm, strict=True)
        if adjusted is not None and adjusted < _WORTH_A_LOOK
    ]


def _of_prior(facts: Facts, prior: Prior) -> Iterator[Tested]:
    for arm in range(1, len(facts.arms)):
        control, treatment = prior.samples[0], prior.samples[arm]
        both = control + treatment
        if both.n == 0 or _effective_users(both) * min(control.n, treatment.n) / both.n < _FEWEST_ACTIVE:
            continue
        pair = _with_one_variance(control, both), _with_one_variance(treatment, both)
        yield from compared(prior.name, facts.arms[arm].key, *pair, Distribution.WELCH_T)


def _with_one_variance(sample: MeanSample, both: MeanSample) -> ArmEstimate:
    """Return an arm's mean with the variance that it has if both arms' users are of one kind.

    That is the hypothesis here. An arm's own variance would be far too small where its few active users are missing.
    """
    variance = both.squared_deviations() / ((both.n - 1) * sample.n)
    return ArmEstimate(n=sample.n, value=_mean(sample), variance=variance)


def _effective_users(sample: MeanSample) -> float:
    """Return how many users with equal numbers would have the same sum and sum of squares."""
    return to_float(sample.sum_values**2 / sample.sum_squares) if sample.sum_squares else 0.0


def _change_of_lift(phases: Phases, arm: int) -> tuple[float, float, float] | None:
    """Return the lift in the first phase, the lift in the later one, and the p-value that they are the same.

    With an effect that stays, the treatment's ratio of the first phase to the later one is the control's: the test
    is of the difference of the logarithms of these two ratios of means over the same users.

    Source: the delta method for a ratio of means, Deng, Knoblich, Lu, "Applying the Delta Method in Metric Analytics"
    (KDD 2018), section 3.
    """
    control, treatment = _log_ratio(phases, 0), _log_ratio(phases, arm)
    if control is None or treatment is None:
        return None
    error = math.sqrt(control[1] + treatment[1])
    lift_first = to_float(_mean(phases.first[arm]) / _mean(phases.first[0])) - 1
    lift_later = to_float(_mean(phases.later[arm]) / _mean(phases.later[0])) - 1
    if error == 0 or not all_finite(error, lift_first, lift_later):
        return None
    return lift_first, lift_later, p_value_of((treatment[0] - control[0]) / error, Alternative.TWO_SIDED)


def _log_ratio(phases: Phases, arm: int) -> tuple[float, float] | None:
    """Return log(mean of the first phase / mean of the later one) with its variance."""
    first, later, both = phases.first[arm], phases.later[arm], phases.both[arm]
    if min(_effective_users(first), _effective_users(later)) < _FEWEST_ACTIVE:
        return None
    x, y = _mean(first), _mean(later)
    if x <= 0 or y <= 0:
        return None
    xx, yy = first.squared_deviations(), later.squared_deviations()
    # What both phases share is what the sum varies more than its parts do.
    xy = (both.squared_deviations() - xx - yy) / 2
    spread = xx / x**2 + yy / y**2 - 2 * xy / (x * y)
    ratio = to_float(x / y)
    if ratio == 0 or not all_finite(ratio):
        return None
    return math.log(ratio), to_float(spread / (first.n * (first.n - 1)))


def _mean(sample: MeanSample) -> Fraction:
    return sample.sum_values / sample.n
