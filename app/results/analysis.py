"""From observations to the answer: metrics, comparisons, sample ratio, winner. Plain functions, no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.core.errors import Invalid
from app.experiments.values import Experiment, Variant
from app.results.answer import (
    ComparisonResult,
    Metadata,
    MetricResult,
    Results,
    SrmResult,
    Summary,
    VariantResult,
    Verdict,
)
from app.results.contrasts import TESTED, Contrast, contrast, detectable_effect
from app.results.recipes import lift_percent, measure
from app.results.rollup_use import NOT_FROM_HISTORY, RollupUse
from app.results.series import length_of, series_of
from app.results.values import ArmObservations, Metric, Observations, Question, Source
from app.stats.multiple import adjust_p_values
from app.stats.srm import srm_chi_square

# A longer series is no chart any more, and its answer would be megabytes.
MOST_SERIES_ENTRIES = 20_000


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where observations come from, and how far they reach."""

    source: Source
    complete_until: datetime
    computed_at: datetime
    rollups: RollupUse = NOT_FROM_HISTORY


@dataclass(frozen=True, slots=True)
class _Arm:
    variant: Variant
    seen: ArmObservations


def answer(experiment: Experiment, question: Question, observations: Observations, provenance: Provenance) -> Results:
    """Compose the answer.

    Raises:
        Invalid: the time series would have too many entries.
    """
    arms = [_Arm(variant, observations.of(variant.id)) for variant in experiment.variants]
    refuse_long_series(sum(length_of(arm.seen, question.granularity.width) for arm in arms))
    control = next(arm for arm in arms if arm.variant.is_control)
    treatments = [arm for arm in arms if arm is not control]
    contrasts = {
        (arm.variant.key, metric): contrast(metric, control.seen, arm.seen, question.confidence)
        for arm in treatments
        for metric in question.metrics
    }
    srm = _sample_ratio(arms)
    return Results(
        experiment_id=experiment.id,
        summary=_summary(experiment, question, control, treatments, contrasts, srm_mismatch=srm.mismatch),
        variants=tuple(_variant(arm, control, question) for arm in arms),
        comparisons=_comparisons(contrasts, control.variant.key, include_ci=question.include_ci),
        srm=srm,
        metadata=_metadata(question, provenance, total_users=sum(arm.seen.exposed for arm in arms)),
    )


def refuse_long_series(entries: int) -> None:
    """Refuse a time series that is too long.

    Raises:
        Invalid: it is.
    """
    if entries > MOST_SERIES_ENTRIES:
        raise Invalid.field(
            "granularity",
            f"the time series would have more than {MOST_SERIES_ENTRIES:,} entries; choose a coarser granularity"
            " (day, hour), narrow start_date and end_date, or name event types",
        )


def decide(
    contrasts: Mapping[str, Contrast], control: str, *, srm_mismatch: bool, below_min_sample: bool
) -> tuple[str | None, Verdict]:
    """Name the winner: the best arm whose interval of the difference lies above 0, the control when all lie below.

    contrasts: each treatment's, by variant key, for the metric that decides.
    """
    if srm_mismatch:
        return None, Verdict.SRM_MISMATCH
    if below_min_sample:
        return None, Verdict.BELOW_MIN_SAMPLE
    better = {
        key: found.difference
        for key, found in contrasts.items()
        if found.difference is not None and found.lower is not None and found.lower > 0
    }
    if better:
        return max(better, key=lambda key: better[key]), Verdict.TREATMENT_WINS
    if contrasts and all(found.upper is not None and found.upper < 0 for found in contrasts.values()):
        return control, Verdict.CONTROL_WINS
    return None, Verdict.UNDECIDED


def _summary(
    experiment: Experiment,
    question: Question,
    control: _Arm,
    treatments: Sequence[_Arm],
    contrasts: Mapping[tuple[str, Metric], Contrast],
    *,
    srm_mismatch: bool,
) -> Summary:
    metric = question.metrics[0]
    deciding = {arm.variant.key: contrasts[arm.variant.key, metric] for arm in treatments}
    winner, verdict = (
        decide(
            deciding,
            control.variant.key,
            srm_mismatch=srm_mismatch,
            below_min_sample=any(_below(arm, question) for arm in (control, *treatments)),
        )
        if metric in TESTED
        else (None, Verdict.NO_TEST)
    )
    # Of several treatments the smallest: what is detectable there is detectable in all.
    smallest = min(treatments, key=lambda arm: arm.seen.exposed)
    return Summary(
        status=experiment.status.value,
        winning_variant=winner,
        verdict=verdict,
        metric=metric,
        confidence_level=question.confidence_level,
        minimum_detectable_effect=detectable_effect(metric, control.seen, smallest.seen, question.confidence),
    )


def _below(arm: _Arm, question: Question) -> bool:
    return arm.seen.exposed < question.min_sample


def _variant(arm: _Arm, control: _Arm, question: Question) -> VariantResult:
    confidence = question.confidence if question.include_ci else None
    return VariantResult(
        id=arm.variant.id,
        key=arm.variant.key,
        is_control=arm.variant.is_control,
        below_min_sample=_below(arm, question),
        metrics={metric: _metric(metric, arm, control, question) for metric in question.metrics},
        time_series=series_of(arm.seen, question.granularity.width, confidence),
    )


def _metric(metric: Metric, arm: _Arm, control: _Arm, question: Question) -> MetricResult:
    found = measure(metric, arm.seen, question.confidence)
    return MetricResult(
        value=found.value,
        sample_size=arm.seen.exposed,
        ci_lower=found.lower if question.include_ci else None,
        ci_upper=found.upper if question.include_ci else None,
        lift_vs_control=None if arm is control else lift_percent(metric, control.seen, arm.seen),
        # A reason that concerns the interval alone is of interest only where an interval was wanted.
        null_reason=found.null_reason if question.include_ci or found.value is None else None,
    )


def _comparisons(
    contrasts: Mapping[tuple[str, Metric], Contrast], control: str, *, include_ci: bool
) -> tuple[ComparisonResult, ...]:
    adjusted = adjust_p_values([found.p_value for found in contrasts.values()]).adjusted
    return tuple(
        ComparisonResult(
            variant=key,
            control=control,
            metric=metric,
            difference=found.difference,
            difference_ci_lower=found.lower if include_ci else None,
            difference_ci_upper=found.upper if include_ci else None,
            lift=found.lift,
            lift_ci_lower=found.lift_lower if include_ci else None,
            lift_ci_upper=found.lift_upper if include_ci else None,
            statistic=found.statistic,
            df=found.df,
            p_value=found.p_value,
            p_value_adjusted=p_value_adjusted,
            always_valid_p_value=found.always_p_value,
            always_valid_ci_lower=found.always_lower if include_ci else None,
            always_valid_ci_upper=found.always_upper if include_ci else None,
            method=found.method,
            null_reason=found.null_reason or (found.interval_null_reason if include_ci else None),
        )
        for ((key, metric), found), p_value_adjusted in zip(contrasts.items(), adjusted, strict=True)
    )


def _sample_ratio(arms: Sequence[_Arm]) -> SrmResult:
    test = srm_chi_square([arm.seen.exposed_by_plan for arm in arms], [arm.variant.allocation_pct for arm in arms])
    return SrmResult(
        observed={arm.variant.key: arm.seen.exposed_by_plan for arm in arms},
        expected={arm.variant.key: users for arm, users in zip(arms, test.expected, strict=True)},
        statistic=test.statistic,
        df=test.df,
        p_value=test.p_value,
        mismatch=test.mismatch,
        null_reason=test.null_reason,
    )


def _metadata(question: Question, provenance: Provenance, *, total_users: int) -> Metadata:
    return Metadata(
        start_date=question.start,
        end_date=question.end,
        granularity=question.granularity,
        event_types=question.event_types,
        metrics=question.metrics,
        confidence_level=question.confidence_level,
        min_sample=question.min_sample,
        include_ci=question.include_ci,
        include_overrides=question.include_overrides,
        context={wanted.name: wanted.value for wanted in question.context},
        total_users=total_users,
        source=provenance.source,
        rollups=provenance.rollups,
        complete_until=provenance.complete_until,
        computed_at=provenance.computed_at,
    )
