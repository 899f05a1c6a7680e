"""The comparisons of a whole answer, post-stratified by the segments of its breakdown. Plain functions, no I/O."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

from app.experiments.values import Variant
from app.results.contrasts import Adjusted, adjusted_by
from app.results.measured import Measured, MeasuredArm, Shape
from app.results.page import Page
from app.results.part_values import PoststratifiedResult
from app.results.words import sentences
from app.stats.lift import LiftMethod, relative_lift
from app.stats.poststratification import RatioStratum, Strata, Stratum, poststratified_difference
from app.stats.reasons import NullReason
from app.stats.samples import MeanSample, Proportion, RatioSample, Sample

# Totals and quantiles are no means that could be weighted by groups.
NO_STRATIFIED_FORM = "NO_STRATIFIED_FORM"
_WITH_FORM = frozenset({Shape.RATE, Shape.MEAN, Shape.RATIO})
# What these codes mean where the whole has users enough.
_OF_STRATA: Mapping[str, str] = {
    NO_STRATIFIED_FORM: "The metric is a total or a quantile, which cannot be put together from parts of the users.",
    NullReason.EMPTY_ARM: "One of the two variants has no user in some segment, so that nothing is compared there.",
    NullReason.TOO_FEW_UNITS: "One of the two variants has a single user in some segment, and a variance needs two.",
}


def poststratified_of(whole: Page, segments: Sequence[Sequence[Measured]]) -> tuple[PoststratifiedResult, ...]:
    """Return the estimate of every comparison of the whole answer, in their order.

    segments: of each segment the metrics, in the order of the whole answer's. Users are in exactly one segment.
    """
    return tuple(
        _poststratified(whole, metric, variant, control, [own[index] for own in segments])
        for variant, control in whole.pairs
        for index, metric in enumerate(whole.metrics)
    )


def _poststratified(
    whole: Page, metric: Measured, variant: Variant, control: Variant, groups: Sequence[Measured]
) -> PoststratifiedResult:
    arms = [(own.of(control.id), own.of(variant.id)) for own in groups]
    # A segment with users of other variants alone has no weight here.
    used = [pair for pair in arms if any(arm.sample.estimate().n for arm in pair)]
    seen = _found(metric, used, whole.question.confidence)
    found = seen if whole.question.include_ci else seen.without_intervals()
    return PoststratifiedResult(
        variant=variant.key,
        control=control.key,
        metric=metric.key,
        strata=len(used),
        difference=found.difference,
        difference_ci_lower=found.lower,
        difference_ci_upper=found.upper,
        lift=found.lift,
        lift_ci_lower=found.lift_lower,
        lift_ci_upper=found.lift_upper,
        statistic=found.statistic,
        p_value=found.p_value,
        variance_reduction_percent=found.variance_reduction_percent,
        null_reason=found.null_reason or found.interval_null_reason,
        notes=_notes([found.null_reason, found.interval_null_reason]),
    )


def _notes(reasons: Sequence[str | None]) -> tuple[str, ...]:
    known = dict.fromkeys(reason for reason in reasons if reason is not None)
    own = [_OF_STRATA[reason] for reason in known if reason in _OF_STRATA]
    return (*own, *sentences(reason for reason in known if reason not in _OF_STRATA))


def _found(metric: Measured, arms: Sequence[tuple[MeasuredArm, MeasuredArm]], confidence: float) -> Adjusted:
    if metric.shape not in _WITH_FORM:
        return Adjusted(null_reason=NO_STRATIFIED_FORM)
    if not arms:
        return Adjusted(null_reason=NullReason.EMPTY_ARM)
    strata = _strata([(control.sample, treatment.sample) for control, treatment in arms])
    if strata is None:
        return Adjusted(null_reason=_reason_without_sums(arms))
    found = poststratified_difference(strata, confidence=confidence)
    lift = relative_lift(*found.estimates, confidence=confidence, method=LiftMethod.FIELLER_NORMAL)
    return adjusted_by(found.comparison, lift, found.variance_ratio)


def _strata(pairs: Sequence[tuple[Sample, Sample]]) -> Strata | None:
    """Return the sums over the users of every segment, `None` where some are not known."""
    means: list[Stratum] = []
    ratios: list[RatioStratum] = []
    for pair in pairs:
        match tuple(map(_per_user, pair)):
            case MeanSample() as control, MeanSample() as treatment:
                means.append(Stratum(control, treatment))
            case RatioSample() as control, RatioSample() as treatment:
                ratios.append(RatioStratum(control, treatment))
            case _:
                return None
    return means or ratios


def _per_user(sample: Sample) -> Sample:
    """Return a rate as the mean of its users' zeros and ones."""
    if not isinstance(sample, Proportion):
        return sample
    ones = Fraction(sample.successes)
    return MeanSample(n=sample.trials, sum_values=ones, sum_squares=ones)


def _reason_without_sums(arms: Sequence[tuple[MeasuredArm, MeasuredArm]]) -> NullReason:
    """Return why sums are not known: nobody is there, they are lost beside a far larger value, or too large."""
    estimates = [arm.sample.estimate() for pair in arms for arm in pair]
    if any(not estimate.n for estimate in estimates):
        return NullReason.EMPTY_ARM
    is_lost = any(estimate.null_reason is NullReason.PRECISION_LOST for estimate in estimates)
    return NullReason.PRECISION_LOST if is_lost else NullReason.OUT_OF_RANGE
