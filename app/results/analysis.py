"""From measured metrics to the answer: values, comparisons, sample ratio, winner, decision. Plain functions, no I/O.

`analyse` takes metrics from anywhere; `answer` is the way there from the observations of the built-in ones.
"""

from collections.abc import Sequence

from app.core.errors import Invalid
from app.experiments.lifecycle import Status
from app.experiments.values import Experiment
from app.results.answer import DefinitionResult, Metadata, Results, Summary
from app.results.breakdown import breakdown_of
from app.results.cohorts import cohorts_of
from app.results.comparison_values import ComparisonResult
from app.results.contrasts import detectable_effect
from app.results.daily_values import EffectSeries
from app.results.deciding import decision_on, winner
from app.results.limits import MOST_SERIES_ENTRIES
from app.results.measured import Measured
from app.results.over_time import effects_over_time, exposures_over_time
from app.results.page import Page, page_of
from app.results.parts import comparisons_of, family_of, sample_ratio, variants_of
from app.results.provenance import Provenance, provenance_of
from app.results.reading import PLAIN, Reading
from app.results.recipes import measured
from app.results.runtime import Stream, Target, forecast
from app.results.series import length_of
from app.results.values import Metric, Observations, Question

_FAMILY = (
    "p_value_holm and p_value_bh are adjusted over all comparisons of this answer that were tested: every pair by every"
    " metric. Asking for more pairs or metrics makes the family larger."
)


def answer(
    experiment: Experiment,
    question: Question,
    observations: Observations,
    provenance: Provenance,
    reading: Reading = PLAIN,
) -> Results:
    """Compose the answer about the built-in metrics of the question.

    Raises:
        Invalid: the time series would have too many entries, or a pair names no two variants of the experiment.
    """
    whole, *segments = [
        [measured(Metric(metric), experiment, seen) for metric in question.metrics]
        for seen in (observations, *(segment.observations for segment in observations.segments))
    ]
    return analyse(experiment, question, reading, whole, observations, provenance, segments)


def analyse(
    experiment: Experiment,
    question: Question,
    reading: Reading,
    metrics: Sequence[Measured],
    observations: Observations,
    provenance: Provenance,
    segments: Sequence[Sequence[Measured]] = (),
) -> Results:
    """Compose the answer about metrics, however they were measured; the first one names the winner.

    observations: the users, and what the time series shows. segments: the metrics of each segment of the
    observations, in their order.

    Raises:
        Invalid: the time series would have too many entries, or a pair names no two variants of the experiment.
    """
    page = page_of(experiment, question, reading, metrics, observations, provenance)
    refuse_long_series(sum(length_of(arm.seen, question.granularity.width) for arm in page.arms))
    srm = sample_ratio(page.arms)
    (comparisons,) = comparisons_of([page])
    attribute, width = question.breakdown, question.cohorts
    return Results(
        experiment_id=experiment.id,
        summary=_summary(page, srm_mismatch=srm.mismatch),
        variants=variants_of(page),
        comparisons=comparisons,
        srm=srm,
        definitions=tuple(_definition(metric) for metric in metrics),
        effect_over_time=_effects(page) if question.with_series else (),
        exposures_over_time=tuple(
            exposures_over_time(arm.variant.key, arm.seen, has_lump=question.start is not None) for arm in page.arms
        ),
        breakdown=None if attribute is None else breakdown_of(page, attribute, observations.segments, segments),
        cohorts=None if width is None else cohorts_of(page, width, observations.segments, segments),
        provenance=provenance_of(experiment, question, reading, metrics, observations, provenance),
        metadata=_metadata(page, comparisons),
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


def _summary(page: Page, *, srm_mismatch: bool) -> Summary:
    metric, question, control = page.metrics[0], page.question, page.control
    winning, verdict = winner(page, srm_mismatch=srm_mismatch)
    # By the treatment with the fewest users: as a rule the others' effects are found when they are smaller still.
    smallest = min(page.treatments, key=lambda arm: arm.seen.exposed)
    detectable = detectable_effect(
        metric, metric.of(control.variant.id), metric.of(smallest.variant.id), question.confidence
    )
    runtime = forecast(
        Stream(
            entries=[arm.seen.entries for arm in page.arms],
            width=question.granularity.width,
            started_at=page.experiment.started_at,
            has_lump=question.start is not None,
        ),
        users=page.users,
        now=page.now,
        running=page.experiment.status is Status.RUNNING and not page.has_ended,
        target=Target(users=page.planned_sample, detectable=page.reading.target_mde),
        detectable_now=detectable.effect,
    )
    return Summary(
        status=page.experiment.status.value,
        winning_variant=winning,
        verdict=verdict,
        metric=metric.key,
        confidence_level=question.confidence_level,
        minimum_detectable_effect=detectable.effect,
        minimum_detectable_effect_null_reason=detectable.null_reason,
        decision=decision_on(page, srm_mismatch=srm_mismatch),
        users_per_day=runtime.users_per_day,
        remaining_days=runtime.remaining_days,
        remaining_days_null_reason=runtime.null_reason,
    )


def _effects(page: Page) -> tuple[EffectSeries, ...]:
    confidence = page.question.confidence if page.question.include_ci else None
    return tuple(
        series
        for metric in page.metrics
        for series in effects_over_time(
            metric,
            metric.of(page.control.variant.id),
            {arm.variant.key: metric.of(arm.variant.id) for arm in page.treatments},
            confidence,
        )
    )


def _definition(metric: Measured) -> DefinitionResult:
    return DefinitionResult(
        key=metric.key,
        name=metric.name,
        kind=metric.kind,
        version=metric.version,
        role=metric.role,
        direction=metric.direction,
        unit=metric.unit,
        margin=metric.margin,
        exploratory=metric.exploratory,
        notes=metric.notes,
    )


def _metadata(page: Page, comparisons: Sequence[ComparisonResult]) -> Metadata:
    question, provenance = page.question, page.provenance
    return Metadata(
        start_date=question.start,
        end_date=question.end,
        granularity=question.granularity,
        event_types=question.event_types,
        metrics=tuple(metric.key for metric in page.metrics),
        compare=tuple(str(pair) for pair in page.reading.compare),
        family=family_of(comparisons, _FAMILY),
        confidence_level=question.confidence_level,
        min_sample=question.min_sample,
        include_ci=question.include_ci,
        include_overrides=question.include_overrides,
        cuped_days=question.cuped_days,
        context={wanted.name: wanted.value for wanted in question.context},
        total_users=page.users,
        source=provenance.source,
        rollups=provenance.rollups,
        complete_until=provenance.complete_until,
        computed_at=provenance.computed_at,
    )
