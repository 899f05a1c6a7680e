"""What recipes measure for an answer, and how the analysis takes what they found. Plain functions, no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction

from app.experiments.values import Experiment
from app.measurement.precision import are_lost_on_a_day, lost_of
from app.measurement.samples import covariate_sample_of, sample_of
from app.measurement.values import MOST_DAYS, ArmMeasured, Asked, Days, Sums
from app.metrics.values import AttachedMetric, Kind, Recipe, Selection
from app.results.chosen import Chosen
from app.results.measured import DailyArm, Measured, MeasuredArm, Shape
from app.results.recipes import LARGEST_SUM
from app.results.recipes import measured as observed
from app.results.values import METRICS_OF_SUMS, NOTHING_WANTED, Metric, Observations, Question, Subject, Wanted
from app.stats.exact import to_float
from app.stats.intervals import Interval
from app.stats.quantiles import quantile_estimate
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, CovariateSample, Sample

# A longer series of effects is no chart any more; every point of it has intervals that cost time.
MOST_EFFECT_POINTS = 20_000

_SHAPES: Mapping[Kind, Shape] = {
    Kind.CONVERSION: Shape.RATE,
    Kind.RETENTION: Shape.RATE,
    Kind.FUNNEL: Shape.RATE,
    Kind.COUNT: Shape.MEAN,
    Kind.SUM: Shape.MEAN,
    Kind.MEAN: Shape.RATIO,
    Kind.RATIO: Shape.RATIO,
    Kind.TIME_TO_FIRST: Shape.RATIO,
    Kind.QUANTILE: Shape.QUANTILE,
}
_SURELY_IN_RANGE = LARGEST_SUM.bit_length() - 2
# Built-in metrics whose number before the exposure is defined.
_ADJUSTABLE = frozenset({Metric.CONVERSION_RATE, Metric.VALUE_PER_USER})
_WITHOUT_COVARIATES = (
    "The events before the exposures are too old for the stores, which have given them up, so that nothing is adjusted"
    " by them."
)
_COVARIATES_LOST = (
    "One value from before an exposure is so far beyond all others that these are lost in rounding beside it, so that"
    " nothing is adjusted by them."
)
_OWN_EVENTS = "The metric names its events itself: event_type does not narrow it."


def wanted_of(chosen: Sequence[Chosen], question: Question, treatments: int, *, with_values: bool = False) -> Wanted:
    """Return what is measured by recipes; all else is observed.

    Stored metrics are, and the percentile where the experiment uses it, because its interval and test come from there.
    Other built-in metrics are where they are to be followed day by day or adjusted, which takes every user's own
    events; rollups have not got these. with_values: measure those of values as well, as what was observed of them is
    too rough (see `rough_sums`); recipes are measured in finer units where they need them.
    """
    by_days = follows_days(chosen, question)
    recipes = {
        item.key: recipe_of(item.attached, question)
        for item in chosen
        if item.attached is not None
        and (
            not item.is_built_in
            or _is_measured(item, question, by_days)
            or (with_values and item.built_in in METRICS_OF_SUMS)
        )
    }
    if not recipes:
        return NOTHING_WANTED
    return Wanted(
        recipes=recipes,
        most_days=min(MOST_DAYS, max(1, MOST_EFFECT_POINTS // (len(recipes) * treatments))) if by_days else 0,
    )


def follows_days(chosen: Sequence[Chosen], question: Question) -> bool:
    """Tell whether metrics are measured day by day."""
    asked = question.effect_over_time
    return question.with_series and (any(not item.is_built_in for item in chosen) if asked is None else asked)


def _is_measured(item: Chosen, question: Question, by_days: bool) -> bool:  # noqa: FBT001  # A fact, not a mode.
    metric = Metric(item.key)
    if metric is Metric.P95_VALUE:
        return item.is_own
    return by_days or (question.cuped_days is not None and metric in _ADJUSTABLE)


def recipe_of(attached: AttachedMetric, question: Question) -> Recipe:
    """Return a metric's recipe; that of a built-in one is about the events that the question names."""
    metric = attached.metric
    if not Chosen(metric.key, attached).is_built_in:
        return metric.recipe
    recipe = replace(metric.recipe, selections=(Selection(question.event_types),))
    return replace(recipe, covariate_days=question.cuped_days) if metric.key in _ADJUSTABLE else recipe


def without_covariates(wanted: Wanted) -> Wanted:
    """Return what is wanted, but nothing from before the exposures."""
    return replace(
        wanted, recipes={key: replace(recipe, covariate_days=None) for key, recipe in wanted.recipes.items()}
    )


def observed_question(question: Question, wanted: Wanted) -> Question:
    """Return the question with those metrics alone that are not measured."""
    return replace(question, metrics=tuple(key for key in question.metrics if key not in wanted.recipes))


def asked_of(subject: Subject, question: Question, days: Days | None = None) -> Asked:
    """Return the question as recipes are asked it."""
    return Asked(
        project_id=subject.project_id,
        experiment_id=subject.experiment_id,
        start=question.start,
        end=question.end,
        days=days,
    )


def days_of(seen: Observations, question: Question, wanted: Wanted, until: datetime) -> Days | None:
    """Return the days to follow: from the first exposure on, to the last one that has events.

    What came before the first one of a series counts in it, so that one that is cut short begins with all before.
    """
    entries = [entry.time for arm in seen.arms.values() for entry in arm.entries]
    if not (wanted.most_days and entries):
        return None
    first, last = _day_of(min(entries)), _day_of(max(*entries, _last_event(seen, question, until)))
    first = max(first, last - timedelta(days=wanted.most_days - 1))
    return Days(first, (last - first).days + 1)


def _last_event(seen: Observations, question: Question, until: datetime) -> datetime:
    """Return a moment after which no event counts, as early as it is known."""
    if question.event_types:  # Stored metrics may be of others. Events may be a day ahead of the clock.
        latest = until + timedelta(days=1)
        return latest if question.end is None else min(latest, question.end)
    width = question.granularity.width - timedelta(microseconds=1)
    return max((slot.time + width for arm in seen.arms.values() for slot in arm.slots), default=_LONG_AGO)


_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def _day_of(moment: datetime) -> date:
    return moment.astimezone(UTC).date()


def metrics_of(
    chosen: Sequence[Chosen],
    experiment: Experiment,
    question: Question,
    wanted: Wanted,
    observations: Observations,
) -> list[Measured]:
    """Return all metrics as the analysis takes them, wherever they were found.

    wanted: what was measured in the end.
    """
    return [
        _measured(item.attached, experiment, question, wanted, observations)
        if item.attached is not None and item.key in wanted.recipes
        else observed(Metric(item.key), experiment, observations)
        for item in chosen
    ]


def _measured(
    attached: AttachedMetric, experiment: Experiment, question: Question, wanted: Wanted, observations: Observations
) -> Measured:
    metric, recipe = attached.metric, wanted.recipes[attached.metric.key]
    seen = observations.measured.get(metric.key, {})
    found = {variant.id: seen.get(variant.id, _NOBODY) for variant in experiment.variants}
    # What adjusts one arm adjusts all that it is compared with.
    adjusts = not any(lost_of(arm).covariate for arm in found.values())
    arms = {variant_id: _arm(recipe, arm, question.confidence, adjusts=adjusts) for variant_id, arm in found.items()}
    notes = _notes(attached, recipe, question, adjusts=adjusts)
    if Chosen(metric.key, attached).is_built_in:
        whole = observed(Metric(metric.key), experiment, observations)
        return replace(whole, arms=arms, tested=True, kind=recipe.kind, notes=notes)
    return Measured(
        key=metric.key,
        name=metric.name,
        kind=recipe.kind,
        shape=_SHAPES[recipe.kind],
        arms=arms,
        version=metric.version,
        direction=metric.direction,
        role=attached.role,
        margin=attached.margin,
        exploratory=attached.exploratory,
        unit=metric.unit,
        notes=notes,
    )


_NOBODY = ArmMeasured()


def _notes(attached: AttachedMetric, recipe: Recipe, question: Question, *, adjusts: bool) -> tuple[str, ...]:
    is_built_in = Chosen(attached.metric.key, attached).is_built_in
    given_up = recipe.covariate_days is None and recipe_of(attached, question).covariate_days is not None
    return (
        *((_OWN_EVENTS,) if question.event_types and not is_built_in else ()),
        *((_WITHOUT_COVARIATES,) if given_up else ()),
        *(() if adjusts else (_COVARIATES_LOST,)),
    )


def _arm(recipe: Recipe, seen: ArmMeasured, confidence: float, *, adjusts: bool) -> MeasuredArm:
    if recipe.kind is Kind.QUANTILE:
        return _quantile(seen, confidence)
    if lost_of(seen).numbers:
        reason = None if recipe.covariate_days is None else NullReason.PRECISION_LOST
        return MeasuredArm(sample=_lost(seen.sums), covariate_null_reason=reason)
    covariate = _covariate(recipe, seen.sums) if adjusts else None
    return MeasuredArm(
        sample=_sample(recipe, seen.sums),
        covariate=covariate,
        covariate_null_reason=_reason_without_covariate(recipe, covariate, adjusts=adjusts),
        daily=_daily(recipe, seen),
        steps=seen.reached,
    )


def _lost(sums: Sums) -> ArmEstimate:
    return ArmEstimate(n=sums.n, value=None, variance=None, null_reason=NullReason.PRECISION_LOST)


def _sample(recipe: Recipe, sums: Sums) -> Sample:
    if _in_range(sums):
        return sample_of(recipe, sums)
    per = sums.denominator if _SHAPES[recipe.kind] is Shape.RATIO else Fraction(sums.n)
    value = sums.numerator / per if per else None
    return ArmEstimate(n=sums.n, value=value, variance=None, null_reason=NullReason.OUT_OF_RANGE)


def _covariate(recipe: Recipe, sums: Sums) -> CovariateSample | None:
    in_range = _in_range(sums) and _are_small(sums.covariate, sums.covariate_squares, sums.covariate_products)
    return covariate_sample_of(recipe, sums) if in_range else None


def _reason_without_covariate(recipe: Recipe, covariate: CovariateSample | None, *, adjusts: bool) -> NullReason | None:
    if recipe.covariate_days is None or covariate is not None:
        return None
    return NullReason.OUT_OF_RANGE if adjusts else NullReason.PRECISION_LOST


def _in_range(sums: Sums) -> bool:
    return _are_small(sums.numerator, sums.numerator_squares, sums.denominator, sums.denominator_squares, sums.products)


def _are_small(*sums: Fraction) -> bool:
    return all(_is_small(value) or abs(value) <= LARGEST_SUM for value in sums)


def _is_small(value: Fraction) -> bool:
    """Tell by the number of digits alone, which is much quicker, that a value is far from the bound."""
    return value.numerator.bit_length() - value.denominator.bit_length() < _SURELY_IN_RANGE


def _daily(recipe: Recipe, seen: ArmMeasured) -> tuple[DailyArm, ...]:
    """Return the days on which something changed."""
    before = Sums()
    found = []
    for day in seen.daily:
        if day.sums != before:
            sample = _lost(day.sums) if are_lost_on_a_day(seen, day.sums) else _sample(recipe, day.sums)
            found.append(DailyArm(time=datetime.combine(day.day, time(), UTC), sample=sample))
        before = day.sums
    return tuple(found)


def _quantile(seen: ArmMeasured, confidence: float) -> MeasuredArm:
    if seen.quantile is None:
        reason = None if seen.sums.n else NullReason.EMPTY_ARM
        return MeasuredArm(sample=ArmEstimate(n=seen.sums.n, value=None, variance=None, null_reason=reason))
    found = seen.quantile
    return MeasuredArm(
        sample=quantile_estimate(
            found.value, users=seen.sums.n, lower=found.lower, upper=found.upper, confidence=confidence
        ),
        interval=Interval(
            estimate=to_float(found.value),
            lower=found.lower,
            upper=found.upper,
            null_reason=NullReason.TOO_FEW_UNITS if None in (found.lower, found.upper) else None,
        ),
    )
