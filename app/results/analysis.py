"""From measured metrics to the answer: values, comparisons, sample ratio, winner, decision. Plain functions, no I/O.

`analyse` takes metrics from anywhere; `answer` is the way there from the observations of the built-in ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from app.core.errors import Invalid
from app.experiments.lifecycle import Status
from app.experiments.values import Experiment, Variant
from app.metrics.values import Role
from app.results.answer import (
    ComparisonResult,
    DecisionResult,
    DefinitionResult,
    EffectSeries,
    FamilyResult,
    Metadata,
    MetricResult,
    Results,
    SrmResult,
    Summary,
    VariantResult,
    Verdict,
)
from app.results.beliefs import prob_best
from app.results.comparing import comparison
from app.results.contrasts import Contrast, contrast, detectable_effect
from app.results.decision import Circumstances, Evidence, decide_on
from app.results.estimates import lift_percent, measure
from app.results.measured import Measured
from app.results.over_time import effects_over_time, exposures_over_time
from app.results.provenance import Provenance, provenance_of
from app.results.reading import PLAIN, Pair, Reading
from app.results.recipes import measured
from app.results.runtime import Target, forecast
from app.results.series import length_of, series_of
from app.results.values import ArmObservations, Exclusion, Observations, Question
from app.stats.group_sequential import Spending
from app.stats.multiple import Correction, adjust_p_values
from app.stats.srm import srm_chi_square

# A longer series is no chart any more, and its answer would be megabytes.
MOST_SERIES_ENTRIES = 20_000

_FAMILY = (
    "p_value_holm and p_value_bh are adjusted over all comparisons of this answer that were tested: every pair by every"
    " metric. Asking for more pairs or metrics makes the family larger."
)


@dataclass(frozen=True, slots=True)
class _Arm:
    variant: Variant
    seen: ArmObservations


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """All that the parts of an answer are made of."""

    experiment: Experiment
    question: Question
    reading: Reading
    metrics: Sequence[Measured]
    arms: Sequence[_Arm]
    provenance: Provenance
    # Every pair that is compared: the treatments against the control first, then those asked for besides.
    pairs: Sequence[tuple[Variant, Variant]]
    # By the metric's key and the pair's variant and control keys.
    contrasts: Mapping[tuple[str, Pair], Contrast] = field(default_factory=dict)

    @property
    def control(self) -> _Arm:
        return next(arm for arm in self.arms if arm.variant.is_control)

    @property
    def treatments(self) -> Sequence[_Arm]:
        return [arm for arm in self.arms if not arm.variant.is_control]

    @property
    def users(self) -> int:
        return sum(arm.seen.exposed for arm in self.arms)

    def below_min_sample(self, arm: _Arm) -> bool:
        return arm.seen.exposed < self.question.min_sample

    def against_control(self, arm: _Arm) -> Pair:
        return Pair(arm.variant.key, self.control.variant.key)


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
    metrics = [measured(metric, experiment, observations) for metric in question.metrics]
    return analyse(experiment, question, reading, metrics, observations, provenance)


def analyse(
    experiment: Experiment,
    question: Question,
    reading: Reading,
    metrics: Sequence[Measured],
    observations: Observations,
    provenance: Provenance,
) -> Results:
    """Compose the answer about metrics, however they were measured; the first one names the winner.

    observations: the users, and what the time series shows.

    Raises:
        Invalid: the time series would have too many entries, or a pair names no two variants of the experiment.
    """
    arms = [_Arm(variant, observations.of(variant.id)) for variant in experiment.variants]
    refuse_long_series(sum(length_of(arm.seen, question.granularity.width) for arm in arms))
    pairs = _pairs(experiment, reading)
    page = _Page(
        experiment=experiment,
        question=question,
        reading=reading,
        metrics=metrics,
        arms=arms,
        provenance=provenance,
        pairs=pairs,
        contrasts={
            (metric.key, Pair(variant.key, control.key)): contrast(
                metric, metric.of(control.id), metric.of(variant.id), question.confidence
            )
            for variant, control in pairs
            for metric in metrics
        },
    )
    srm = _sample_ratio(arms)
    comparisons = _comparisons(page)
    return Results(
        experiment_id=experiment.id,
        summary=_summary(page, srm_mismatch=srm.mismatch),
        variants=_variants(page),
        comparisons=comparisons,
        srm=srm,
        definitions=tuple(_definition(metric) for metric in metrics),
        effect_over_time=_effects(page) if question.with_series else (),
        exposures_over_time=tuple(exposures_over_time(arm.variant.key, arm.seen) for arm in arms),
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


def decide(
    contrasts: Mapping[str, Contrast], control: str, *, srm_mismatch: bool, below_min_sample: bool, sign: float = 1.0
) -> tuple[str | None, Verdict]:
    """Name the winner: the best arm whose interval of the difference lies above 0, the control when all lie below.

    contrasts: each treatment's, by variant key, for the metric that decides. sign: -1 where less is better, which
    turns above into below.
    """
    if srm_mismatch:
        return None, Verdict.SRM_MISMATCH
    if below_min_sample:
        return None, Verdict.BELOW_MIN_SAMPLE
    better = {
        key: sign * found.difference
        for key, found in contrasts.items()
        if found.difference is not None and _lies(found, sign)
    }
    if better:
        return max(better, key=lambda key: better[key]), Verdict.TREATMENT_WINS
    if contrasts and all(_lies(found, -sign) for found in contrasts.values()):
        return control, Verdict.CONTROL_WINS
    return None, Verdict.UNDECIDED


def _lies(found: Contrast, sign: float) -> bool:
    """Tell whether the interval lies above 0, or below it for a negative sign."""
    end = found.lower if sign > 0 else found.upper
    return end is not None and sign * end > 0


def _pairs(experiment: Experiment, reading: Reading) -> list[tuple[Variant, Variant]]:
    control = experiment.control
    found = [(variant, control) for variant in experiment.variants if not variant.is_control]
    for pair in reading.compare:
        variant, against = (_named(experiment, key) for key in (pair.variant, pair.control))
        if variant is against:
            raise Invalid.field("compare", f"{pair} names one variant twice; name two, as <variant>:<against>")
        if (variant, against) not in found:
            found.append((variant, against))
    return found


def _named(experiment: Experiment, key: str) -> Variant:
    if (variant := experiment.variant_with_key(key)) is not None:
        return variant
    known = ", ".join(variant.key for variant in experiment.variants)
    raise Invalid.field("compare", f"there is no variant {key!r}; the experiment has {known}")


def _summary(page: _Page, *, srm_mismatch: bool) -> Summary:
    metric, question, control = page.metrics[0], page.question, page.control
    winner, verdict = (
        decide(
            {arm.variant.key: page.contrasts[metric.key, page.against_control(arm)] for arm in page.treatments},
            control.variant.key,
            srm_mismatch=srm_mismatch,
            below_min_sample=any(page.below_min_sample(arm) for arm in page.arms),
            sign=metric.sign,
        )
        if metric.tested
        else (None, Verdict.NO_TEST)
    )
    # Of several treatments the smallest: what is detectable there is detectable in all.
    smallest = min(page.treatments, key=lambda arm: arm.seen.exposed)
    detectable = detectable_effect(
        metric, metric.of(control.variant.id), metric.of(smallest.variant.id), question.confidence
    )
    runtime = forecast(
        [arm.seen.entries for arm in page.arms],
        users=page.users,
        now=_now(page),
        running=page.experiment.status is Status.RUNNING and not _has_ended(page),
        target=Target(users=_planned_sample(page), detectable=page.reading.target_mde),
        detectable_now=detectable,
    )
    return Summary(
        status=page.experiment.status.value,
        winning_variant=winner,
        verdict=verdict,
        metric=metric.key,
        confidence_level=question.confidence_level,
        minimum_detectable_effect=detectable,
        decision=_decision(page, srm_mismatch=srm_mismatch),
        users_per_day=runtime.users_per_day,
        remaining_days=runtime.remaining_days,
        remaining_days_null_reason=runtime.null_reason,
    )


def _decision(page: _Page, *, srm_mismatch: bool) -> DecisionResult:
    """Decide by the plan's primary metric and guardrails, without a plan by the first metric alone."""
    question, plan, attached = page.question, page.experiment.plan, page.experiment.metrics
    promised = {item.metric.key: item for item in attached if not item.exploratory}
    planned = next((key for key, item in promised.items() if item.role is Role.PRIMARY), None)
    by_key = {metric.key: metric for metric in page.metrics}
    primary = by_key.get(planned or page.metrics[0].key)
    guards = [key for key, item in promised.items() if item.role is Role.GUARDRAIL]
    tested = primary is not None and primary.tested
    return decide_on(
        Circumstances(
            metric=planned or page.metrics[0].key,
            alpha=1 - question.confidence,
            started=page.experiment.started_at is not None,
            ended=_has_ended(page),
            srm_mismatch=srm_mismatch,
            share_in_two_variants=_share_in_two_variants(page),
            below_min_sample=any(page.below_min_sample(arm) for arm in page.arms),
            tested=tested,
            users=page.users,
            planned_sample=_planned_sample(page),
            stopping_rule=plan.stopping_rule,
            looks=plan.looks,
            spending=Spending.OBRIEN_FLEMING if plan.spending is None else Spending(plan.spending.value),
            primary_not_asked=primary is None,
            guardrails_not_asked=tuple(key for key in guards if key not in by_key),
            part_of_the_data=_is_part(question, planned=planned is not None),
        ),
        page.control.variant.key,
        {} if primary is None else _evidence(page, primary),
        {key: _evidence(page, by_key[key]) for key in guards if key in by_key},
    )


def _is_part(question: Question, *, planned: bool) -> bool:
    """Tell whether the answer is about less, or more, than the experiment as it was planned."""
    narrowed = bool(question.context) or question.start is not None or question.end is not None
    # Without a plan, event types are what the caller means by the metric.
    return narrowed or question.include_overrides or (planned and bool(question.event_types))


def _evidence(page: _Page, metric: Measured) -> dict[str, Evidence]:
    return {
        arm.variant.key: _evidence_of(metric, page.contrasts[metric.key, page.against_control(arm)])
        for arm in page.treatments
    }


def _evidence_of(metric: Measured, found: Contrast) -> Evidence:
    """Turn a contrast so that above 0 is better."""
    margin, shown = metric.margin, found.noninferiority
    worst = found.always_lift_lower if metric.sign > 0 else found.always_lift_upper
    return Evidence(
        gain=None if found.difference is None else metric.sign * found.difference,
        statistic=None if found.statistic is None else metric.sign * found.statistic,
        p_value=found.p_value,
        always_p_value=found.always_p_value,
        margin_statistic=None if shown is None else shown.statistic,
        margin_shown=None if shown is None else shown.shown,
        margin_always_shown=None
        if margin is None
        else worst is not None and shown is not None and shown.null_reason is None and metric.sign * worst > -margin,
    )


def _planned_sample(page: _Page) -> int | None:
    planned = page.experiment.plan.sample_size
    return page.reading.planned_sample if planned is None else planned


def _share_in_two_variants(page: _Page) -> float:
    strayed = sum(arm.seen.excluded.get(Exclusion.TWO_VARIANTS, 0) for arm in page.arms)
    return strayed / (page.users + strayed) if strayed else 0.0


def _now(page: _Page) -> datetime:
    """Return the minute up to which users can have come into the answer.

    A rate by the day needs no seconds, and without them answers of one moment from different stores are the same.
    """
    end, now = page.question.end, page.provenance.computed_at
    return (now if end is None else min(end, now)).replace(second=0, microsecond=0)


def _has_ended(page: _Page) -> bool:
    experiment = page.experiment
    over = experiment.ends_at is not None and experiment.ends_at <= page.provenance.computed_at
    return over or experiment.status in {Status.COMPLETED, Status.ARCHIVED}


def _variants(page: _Page) -> tuple[VariantResult, ...]:
    confidence = page.question.confidence if page.question.include_ci else None
    best = {
        metric.key: prob_best(metric, [metric.of(arm.variant.id) for arm in page.arms], page.reading)
        for metric in page.metrics
    }
    return tuple(
        VariantResult(
            id=arm.variant.id,
            key=arm.variant.key,
            is_control=arm.variant.is_control,
            below_min_sample=page.below_min_sample(arm),
            metrics={metric.key: _metric(page, metric, arm, _at(best[metric.key], index)) for metric in page.metrics},
            time_series=series_of(arm.seen, page.question.granularity.width, confidence),
        )
        for index, arm in enumerate(page.arms)
    )


def _effects(page: _Page) -> tuple[EffectSeries, ...]:
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


def _at(chances: Sequence[float] | None, index: int) -> float | None:
    return None if chances is None else chances[index]


def _metric(page: _Page, metric: Measured, arm: _Arm, chance: float | None) -> MetricResult:
    own, control, wanted = metric.of(arm.variant.id), metric.of(page.control.variant.id), page.question.include_ci
    found = measure(metric, own, page.question.confidence)
    return MetricResult(
        value=found.value,
        sample_size=arm.seen.exposed,
        ci_lower=found.lower if wanted else None,
        ci_upper=found.upper if wanted else None,
        lift_vs_control=None if arm.variant.is_control else lift_percent(control, own),
        prob_best=chance,
        # A reason that concerns the interval alone is of interest only where an interval was wanted.
        null_reason=found.null_reason if wanted or found.value is None else None,
    )


def _comparisons(page: _Page) -> tuple[ComparisonResult, ...]:
    p_values = [found.p_value for found in page.contrasts.values()]
    holm = adjust_p_values(p_values).adjusted
    bh = adjust_p_values(p_values, method=Correction.BENJAMINI_HOCHBERG).adjusted
    asked = [(variant, control, metric) for variant, control in page.pairs for metric in page.metrics]
    return tuple(
        comparison(
            metric,
            variant,
            control,
            found,
            page.reading,
            page.question,
            holm=by_holm,
            bh=by_bh,
        )
        for (variant, control, metric), found, by_holm, by_bh in zip(
            asked, page.contrasts.values(), holm, bh, strict=True
        )
    )


def _definition(metric: Measured) -> DefinitionResult:
    return DefinitionResult(
        key=metric.key,
        version=metric.version,
        role=metric.role,
        direction=metric.direction,
        unit=metric.unit,
        margin=metric.margin,
        exploratory=metric.exploratory,
        notes=metric.notes,
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


def _metadata(page: _Page, comparisons: Sequence[ComparisonResult]) -> Metadata:
    question, provenance = page.question, page.provenance
    return Metadata(
        start_date=question.start,
        end_date=question.end,
        granularity=question.granularity,
        event_types=question.event_types,
        metrics=tuple(metric.key for metric in page.metrics),
        compare=tuple(str(pair) for pair in page.reading.compare),
        family=FamilyResult(
            comparisons=len(comparisons),
            tested=sum(found.p_value is not None for found in comparisons),
            text=_FAMILY,
        ),
        confidence_level=question.confidence_level,
        min_sample=question.min_sample,
        include_ci=question.include_ci,
        include_overrides=question.include_overrides,
        context={wanted.name: wanted.value for wanted in question.context},
        total_users=page.users,
        source=provenance.source,
        rollups=provenance.rollups,
        complete_until=provenance.complete_until,
        computed_at=provenance.computed_at,
    )
