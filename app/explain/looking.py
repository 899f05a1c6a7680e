"""What a store has to be looked at for before the rest of an answer's SQL can be written. Plain functions, no I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from app.explain.statements import Known, Ranks
from app.measurement.plan import Plan, compiled
from app.measurement.precision import repeated
from app.measurement.stores import bounding_ranks
from app.measurement.values import ArmMeasured, Measured
from app.results.measuring import days_of
from app.results.observed import MISSING, PLACES, REST
from app.results.values import Observations, Question, Segment, Wanted


def is_needed(wanted: Wanted) -> bool:
    """Tell whether queries follow from what a store has: from its days, the numbers of its values, or their sizes."""
    return bool(wanted.most_days or _looked_at(wanted).recipes)


def looked_for(question: Question, wanted: Wanted) -> tuple[Question, Wanted]:
    """Return what to observe of a store, and to measure in it; no more than is needed."""
    needed = _looked_at(wanted)
    return (
        replace(
            question,
            metrics=(),
            with_series=wanted.most_days > 0,
            breakdown=question.breakdown if needed.recipes else None,
            cohorts=question.cohorts if needed.recipes else None,
        ),
        needed,
    )


def known_from(question: Question, wanted: Wanted, seen: Observations, until: datetime) -> Known:
    """Return what the queries follow from.

    seen: what `looked_for` has found. until: the moment up to which it is complete.
    """
    whole = compiled(wanted.recipes)
    quantiles = whole.only(measure.index for measure in whole.measures if measure.quantile is not None)
    refinable = whole.only(measure.index for measure in whole.measures if measure.refinable)
    return Known(
        days=days_of(seen, question, wanted, until),
        ranks=_ranks(quantiles, Measured(seen.measured), question),
        ranks_by_segment=_ranks(quantiles, _in_cells(quantiles, seen.segments), question),
        repeated=repeated(refinable, Measured(seen.measured)),
        repeated_by_segment=repeated(refinable, _in_cells(refinable, seen.segments)),
    )


def _looked_at(wanted: Wanted) -> Wanted:
    """Return the quantiles, and by the same days what may have been measured once more."""
    measures = compiled(wanted.recipes).measures
    keys = [measure.key for measure in measures if measure.quantile is not None or measure.refinable]
    most_days = wanted.most_days if any(measure.refinable for measure in measures) else 0
    return Wanted(recipes={key: wanted.recipes[key] for key in keys}, most_days=most_days)


def _ranks(plan: Plan, seen: Measured, question: Question) -> Ranks:
    return bounding_ranks(plan, seen, question.confidence) if plan.measures and seen.metrics else {}


def _in_cells(plan: Plan, segments: Sequence[Segment]) -> Measured:
    """Put the variants of all segments side by side again, as the query by segment has them."""
    found: dict[str, dict[int, ArmMeasured]] = {measure.key: {} for measure in plan.measures}
    for place, segment in _placed(segments):
        for key in found:
            arms = segment.observations.measured.get(key, {})
            found[key] |= {variant_id * PLACES + place: arm for variant_id, arm in arms.items()}
    return Measured(found)


def _placed(segments: Sequence[Segment]) -> Iterator[tuple[int, Segment]]:
    for place, segment in enumerate(segments, start=1):
        if segment.is_rest:
            yield REST, segment
        else:
            is_missing = segment.value is None and segment.since is None
            yield (MISSING if is_missing else place), segment
