"""Retention of PostgreSQL's events: a month is dropped once it is old enough and ClickHouse has all of it for sure.

For sure means: each of its hours was compared with ClickHouse after it was closed, and nothing differed or what did
was repaired; and ClickHouse still holds all of it now, since a comparison may be old and a month is dropped once. What
the hours held stays on record, so that ClickHouse can still be held to it. The ids of the events stay, too: one that is
sent again after years is still a duplicate. How many were, at times before the month's end, is forgotten right after.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import structlog

from app.core.clickhouse import ClickHouse
from app.core.clock import Clock, utc_now
from app.pipeline.dropped_duplicates import forget_duplicates
from app.pipeline.history import History
from app.pipeline.history_retention import given_up_before
from app.pipeline.ledger import Ledger, may_move_floor
from app.pipeline.locking import WAIT_BRIEFLY
from app.pipeline.marker import Marker, find_marker
from app.pipeline.truth import EVENTS, NOTHING, Digest, Unit

log = structlog.get_logger()

# Counting a month reads all of it.
_TIMEOUT_S = 600.0
# What ClickHouse is asked to describe at once.
_STRETCH = timedelta(days=1)

_MONTHS = r"""
SELECT child.relname AS name
FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
WHERE inhparent = 'events'::regclass AND child.relname ~ '^events_p\d{6}$'
ORDER BY name
"""
_IS_PROVEN = "SELECT proven_at IS NOT NULL AND generation <= $2 FROM histories WHERE id = $1"
# An hour that was never compared counts as one that differs.
_RECORDED = """
SELECT coalesce(sum(done.row_count), 0)::bigint AS row_count,
    count(*) FILTER (WHERE done.outcome IS NULL OR done.outcome = 'open') AS unequal
FROM generate_series($2::timestamptz, $3::timestamptz - interval '1 hour', interval '1 hour') AS every (hour)
LEFT JOIN reconciled_hours AS done
    ON done.history_id = $1 AND done.subject = 'events' AND done.hour = every.hour
WHERE every.hour >= (SELECT min(hour) FROM reconciled_hours WHERE history_id = $1 AND subject = 'events')
"""
_DROPPED = "INSERT INTO dropped_partitions (name, upper_bound, row_count) VALUES ($1, $2, $3)"
_DROPPED_BEFORE = "SELECT max(upper_bound) FROM dropped_partitions"


@dataclass(frozen=True, slots=True)
class _Month:
    name: str
    start: datetime
    end: datetime

    @classmethod
    def of(cls, name: str) -> "_Month":
        start = datetime.strptime(name.removeprefix("events_p"), "%Y%m").replace(tzinfo=UTC)
        return cls(name, start, (start + timedelta(days=32)).replace(day=1))


class EventsRetention:
    """Drops months, the oldest first and none out of turn, so that PostgreSQL has all events since some moment."""

    def __init__(self, clickhouse: ClickHouse, retention_days: int, *, clock: Clock = utc_now) -> None:
        self._clickhouse = clickhouse
        self._retention = timedelta(days=retention_days)
        self._clock = clock

    async def enforce(self, connection: asyncpg.Connection) -> None:
        """Drop what may be dropped.

        Raises:
            ClickHouseUnavailable: it cannot be reached, so nobody knows whether it has the events.
        """
        await self._drop_old(connection)
        # Apart from the drop, because it takes its time; and each time, because a drop may have been the last thing
        # that a process did, and counts of that time may have come since.
        if (before := await connection.fetchval(_DROPPED_BEFORE)) is not None:
            await forget_duplicates(connection, before)

    async def _drop_old(self, connection: asyncpg.Connection) -> None:
        limit = self._clock() - self._retention
        for row in await connection.fetch(_MONTHS):
            month = _Month.of(row["name"])
            if month.end > limit:
                return
            if (reason := await self._drop(connection, month)) is not None:
                log.warning("maintenance.events_month_kept", partition=month.name, reason=reason)
                return
            log.info("maintenance.events_month_dropped", partition=month.name)

    async def _drop(self, connection: asyncpg.Connection, month: _Month) -> str | None:
        """Drop a month, or return the reason why not."""
        marker = await find_marker(self._clickhouse)
        if marker is None or not await connection.fetchval(_IS_PROVEN, *marker):
            return "ClickHouse is not known to be complete"
        # Before the month is locked, because it takes its time.
        if (differing := await self._hours_that_differ(connection, marker, month)) > 0:
            return f"{differing} hours are not in ClickHouse as they were when they were compared"
        async with connection.transaction():
            await connection.execute(WAIT_BRIEFLY)
            if not await may_move_floor(connection):
                return "ClickHouse's tables are being rebuilt"
            # Waits for whoever still writes into that month, so that what is counted stays true until the drop.
            await connection.execute(f"LOCK TABLE {month.name} IN SHARE MODE")
            count = f"SELECT count(*) FROM {month.name}"  # noqa: S608  # From pg_class.
            row_count: int = await connection.fetchval(count, timeout=_TIMEOUT_S)
            if (reason := await self._reason_to_keep(connection, marker, month, row_count)) is not None:
                return reason
            await connection.execute(_DROPPED, month.name, month.end, row_count)
            # Last, because from here to the commit it locks all others out of the whole table.
            await connection.execute(f"DROP TABLE {month.name}")
        return None

    async def _hours_that_differ(self, connection: asyncpg.Connection, marker: Marker, month: _Month) -> int:
        """Compare what ClickHouse holds now with what PostgreSQL was found to hold."""
        history, ledger = History(self._clickhouse), Ledger(connection, marker.id)
        given_up = await given_up_before(self._clickhouse)
        start = month.start if given_up is None else max(month.start, given_up)
        differing = 0
        while start < month.end:
            end = min(start + _STRETCH, month.end)
            held: dict[datetime, Digest] = {}
            for piece, digest in (await history.digests(EVENTS, start, end, Unit.HOUR)).items():
                held[piece.start] = held.get(piece.start, NOTHING).plus(digest)
            compared = await ledger.compared(EVENTS, start, end)
            differing += sum(held.get(hour, NOTHING) != digest for hour, digest in compared.items())
            start = end
        return differing

    async def _reason_to_keep(
        self, connection: asyncpg.Connection, marker: Marker, month: _Month, row_count: int
    ) -> str | None:
        now = await find_marker(self._clickhouse)
        if now is None or now.id != marker.id or not await connection.fetchval(_IS_PROVEN, *now):
            return "ClickHouse is not known to be complete"
        recorded = await connection.fetchrow(_RECORDED, marker.id, month.start, month.end)
        if recorded["unequal"]:
            return f"{recorded['unequal']} hours differ or were never compared"
        if recorded["row_count"] != row_count:
            return "rows came after its hours were compared"
        return None
