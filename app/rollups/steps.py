"""Steps: the stretches of ingestion time that rollups are made of. Plain functions on plain values, no I/O."""

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import takewhile

import msgspec

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# Before every moment that is accepted, and the start of a minute, an hour and a day. Buckets are counted from here, in
# rollups as in raw rows, and the first step begins here.
ORIGIN = datetime(1900, 1, 1, tzinfo=UTC)


class Step(msgspec.Struct, frozen=True):
    """What was ingested in `[since, until)`: `rows` events and exposures.

    seen: how many invalidations of rows before `until` were known when the step was begun.
    """

    id: int
    since: datetime
    until: datetime
    rows: int
    seen: int

    @property
    def has_days(self) -> bool:
        """Tell whether the step has buckets of days beside those of hours."""
        return self.since == floor(self.since, DAY) and self.until == floor(self.until, DAY)


def floor(moment: datetime, width: timedelta) -> datetime:
    """Return the start of the hour or day."""
    return moment - (moment - ORIGIN) % width


def built_until(steps: Sequence[Step]) -> datetime:
    """Return the ingestion time up to which steps that follow each other reach."""
    return steps[-1].until if steps else ORIGIN


def seen_before(until: datetime, invalidated: Mapping[datetime, int]) -> int:
    """Count the invalidations that concern rows ingested before `until`; there are so many from each moment on."""
    return sum(times for since, times in invalidated.items() if since < until)


def valid_steps(steps: Sequence[Step], invalidated: Mapping[datetime, int]) -> list[Step]:
    """Return the steps, which follow each other, up to the first one that did not know of an invalidation.

    Those behind it go with it: an exposure that came to an earlier step may count events of all later ones.
    """
    later, seen = deque(sorted(invalidated.items())), 0
    valid: list[Step] = []
    for step in steps:
        while later and later[0][0] < step.until:
            seen += later.popleft()[1]
        if step.seen != seen:
            break
        valid.append(step)
    return valid


def steps_below(watermark: datetime, steps: Sequence[Step]) -> list[Step]:
    """Return the steps of which all rows lie below the watermark."""
    return list(takewhile(lambda step: step.until <= watermark, steps))


def next_end(
    since: datetime, closed_until: datetime, rows_by_day: Mapping[datetime, int], *, most_rows: int
) -> datetime:
    """Return where the step that begins at `since` ends.

    It is of whole days as long as there are such, as many as have `most_rows` together but at least the first with
    any rows; then it reaches to the last closed hour. It never holds a part of one day and some of another.
    """
    last_day = floor(closed_until, DAY)
    if since != floor(since, DAY):
        return min(floor(since, DAY) + DAY, closed_until)
    if last_day <= since:
        return closed_until
    rows = 0
    for day in sorted(day for day in rows_by_day if since <= day < last_day):
        if rows and rows + rows_by_day[day] > most_rows:
            return day
        rows += rows_by_day[day]
    return last_day


def stretches(rows_by_day: Mapping[datetime, int], *, most_rows: int) -> list[tuple[datetime, datetime]]:
    """Return stretches of whole days that have all rows between them, each `most_rows` at most or one day's."""
    found: list[tuple[datetime, datetime]] = []
    rows = 0
    for day in sorted(rows_by_day):
        rows += rows_by_day[day]
        if found and rows <= most_rows:
            found[-1] = (found[-1][0], day + DAY)
        else:
            found.append((day, day + DAY))
            rows = rows_by_day[day]
    return found


def mergeable(steps: Sequence[Step]) -> list[Step]:
    """Return the last steps, if they are parts of a day that is over."""
    parts: list[Step] = []
    for step in reversed(steps):
        if step.has_days:
            break
        parts.append(step)
    return parts[::-1] if parts and parts[0].until == floor(parts[0].until, DAY) else []
