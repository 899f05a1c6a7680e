"""The time series of one arm: its buckets with the empty ones in between. Plain functions, no I/O."""

from bisect import bisect_right
from datetime import datetime, timedelta
from itertools import accumulate

from app.results.values import ArmObservations, Slot
from app.results.variant_values import SeriesEntry
from app.stats.proportions import wilson_interval
from app.stats.samples import Proportion


def length_of(arm: ArmObservations, width: timedelta) -> int:
    """Return how many entries the arm's series has, without making it."""
    if not arm.slots:
        return 0
    times = [slot.time for slot in arm.slots]
    buckets = (max(times) - min(times)) // width + 1
    return buckets * len({slot.event_type for slot in arm.slots})


def series_of(arm: ArmObservations, width: timedelta, confidence: float | None) -> tuple[SeriesEntry, ...]:
    """Return one entry per bucket and event type from the arm's first bucket to its last.

    confidence: `None` leaves the intervals out.
    """
    if not arm.slots:
        return ()
    found = {(slot.time, slot.event_type): slot for slot in arm.slots}
    event_types = sorted({slot.event_type for slot in arm.slots})
    first, last = min(time for time, _ in found), max(time for time, _ in found)
    times = [first + index * width for index in range((last - first) // width + 1)]
    exposed = _exposed_before_ends(arm, times)
    return tuple(
        _entry(found.get((time, event_type)) or Slot(time, event_type, 0, 0), users, confidence)
        for time, users in zip(times, exposed, strict=True)
        for event_type in event_types
    )


def _exposed_before_ends(arm: ArmObservations, starts: list[datetime]) -> list[int]:
    """Return, for each bucket, the users exposed before its end: those who entered in it or in an earlier one."""
    entered = [entries.time for entries in arm.entries]
    so_far = [0, *accumulate(entries.users for entries in arm.entries)]
    return [so_far[bisect_right(entered, start)] for start in starts]


def _entry(slot: Slot, exposed: int, confidence: float | None) -> SeriesEntry:
    interval = None if confidence is None else wilson_interval(Proportion(slot.users, exposed), confidence=confidence)
    return SeriesEntry(
        time=slot.time,
        event_type=slot.event_type,
        count=slot.events,
        users=slot.users,
        ci_lower=None if interval is None else interval.lower,
        ci_upper=None if interval is None else interval.upper,
    )
