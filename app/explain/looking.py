"""What a store has to be looked at for before the rest of an answer's SQL can be written. Plain functions, no I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from app.explain.statements import Known, Ranks
from app.measurement.plan import Plan, compiled
from app.measurement.stores import bounding_ranks
from app.measurement.values import ArmMeasured, Measured
from app.metrics.values import Kind
from app.results.measuring import days_of
from app.results.observed import MISSING, PLACES, REST
from app.results.values import Observations, Question, Segment, Wanted


def is_needed(wanted: Wanted) -> bool:
    """Tell whether queries follow from what a store has: from its days, or from the numbers of its values."""
    return bool(wanted.most_days or _quantiles(wanted).recipes)


def looked_for(question: Question, wanted: Wanted) -> tuple[Question, Wanted]:
    """Return what to observe of a store, and to measure in it; no more than is needed."""
    quantiles = _quantiles(wanted)
    return (
        replace(
            question,
            metrics=(),
            with_series=wanted.most_days > 0,
            breakdown=question.breakdown if quantiles.recipes else None,
        ),
        quantiles,
    )


def known_from(question: Question, wanted: Wanted, seen: Observations, until: datetime) -> Known:
    """Return what the queries follow from.

    seen: what `looked_for` has found. until: the moment up to which it is complete.
    """
    plan = compiled(wanted.recipes)
    plan = plan.only(measure.index for measure in plan.measures if measure.quantile is not None)
    return Known(
        days=days_of(seen, question, wanted, until),
        ranks=_ranks(plan, Measured(seen.measured), question),
        ranks_by_segment=_ranks(plan, _in_cells(plan, seen.segments), question),
    )


def _quantiles(wanted: Wanted) -> Wanted:
    return Wanted(recipes={key: recipe for key, recipe in wanted.recipes.items() if recipe.kind is Kind.QUANTILE})


def _ranks(plan: Plan, seen: Measured, question: Question) -> Ranks:
    return bounding_ranks(plan, seen, question.confidence) if plan.measures and seen.metrics else {}


def _in_cells(plan: Plan, segments: Sequence[Segment]) -> Measured:
    """Put the variants of all segments side by side again, as the query by segment has them."""
    found: dict[str, dict[int, ArmMeasured]] = {measure.key: {} for measure in plan.measures}
    for place, segment in _placed(segments):
        for key, arms in segment.observations.measured.items():
            found[key] |= {variant_id * PLACES + place: arm for variant_id, arm in arms.items()}
    return Measured(found)


def _placed(segments: Sequence[Segment]) -> Iterator[tuple[int, Segment]]:
    for place, segment in enumerate(segments, start=1):
        if segment.is_rest:
            yield REST, segment
        else:
            yield (MISSING if segment.value is None else place), segment
