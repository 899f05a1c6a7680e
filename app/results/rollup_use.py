"""Whether rollups can answer a question, as the answer tells it. Plain functions on plain values, no I/O."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from app.results.values import Granularity, Question, Subject
from app.rollups.steps import HOUR, ORIGIN


class RollupReason(StrEnum):
    """Why rollups were used for an answer, or why not."""

    USED = "USED"
    OFF = "OFF"  # ROLLUPS_ENABLED says so.
    NOT_FROM_HISTORY = "NOT_FROM_HISTORY"  # PostgreSQL alone answered.
    NOT_BUILT = "NOT_BUILT"  # None lie below the watermark yet.
    EXPOSURE_EVENTS = "EXPOSURE_EVENTS"  # Users count from an event on, and rollups know of assignments alone.
    CONTEXT_FILTER = "CONTEXT_FILTER"
    OVERRIDES_INCLUDED = "OVERRIDES_INCLUDED"
    FINER_THAN_HOURS = "FINER_THAN_HOURS"
    DATES_WITHIN_HOURS = "DATES_WITHIN_HOURS"


@dataclass(frozen=True, slots=True)
class RollupUse:
    """Which rows an answer took counted ahead: those ingested before `until`; `None`: none."""

    used: bool
    until: datetime | None
    reason: RollupReason


def unused(reason: RollupReason) -> RollupUse:
    return RollupUse(used=False, until=None, reason=reason)


NOT_FROM_HISTORY = unused(RollupReason.NOT_FROM_HISTORY)


def obstacle(subject: Subject, question: Question) -> RollupReason | None:
    """Return why rollups are not exact for the question, `None` if they are.

    A breakdown is none: its segments are counted from raw rows beside the whole.
    """
    if subject.exposed_by_events:
        return RollupReason.EXPOSURE_EVENTS
    if question.context:
        return RollupReason.CONTEXT_FILTER
    if question.include_overrides:
        return RollupReason.OVERRIDES_INCLUDED
    if question.with_series and question.granularity is Granularity.REALTIME:
        return RollupReason.FINER_THAN_HOURS
    if not is_within_bounds(question, HOUR):
        return RollupReason.DATES_WITHIN_HOURS
    return None


def is_within_bounds(question: Question, width: timedelta) -> bool:
    """Tell whether start and end, if there are any, lie between two buckets of this width."""
    bounds = (question.start, question.end)
    return all(bound is None or (bound - ORIGIN) % width == timedelta(0) for bound in bounds)
