"""Partitions: made before they are needed, dropped when nobody needs them any more; and what else is left behind."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import structlog

from app.core.clickhouse import ClickHouse
from app.core.clock import Clock, utc_now
from app.core.db import Database
from app.core.errors import Unavailable
from app.core.online_schema import SUPERSEDED
from app.core.settings import PipelineSettings
from app.pipeline.dropped_duplicates import fold_duplicates
from app.pipeline.events_retention import EventsRetention
from app.pipeline.exclusive import Exclusive, Progress
from app.pipeline.history_retention import HistoryRetention
from app.pipeline.lanes import RELAY_LANES, Lane
from app.pipeline.locking import ATTEMPTS, BETWEEN_ATTEMPTS_S, WAIT_BRIEFLY
from app.pipeline.positions import Position, Positions, relay_name
from app.pipeline.watermark import watermark

log = structlog.get_logger()

_EVERY_S = 600.0
_MONTHS_AHEAD = 3
_DAYS_AHEAD = 7
# A row's ingested_at and created_at are two readings of the clock in one transaction. Before a whole day counts as
# ingested before the watermark, this much is allowed between them, and for a clock that was set right.
_BETWEEN_CLOCKS = timedelta(hours=1)

_MAKE_AHEAD = "SELECT make_partitions_ahead($1, $2)"
_MAKE = "SELECT make_partition($1, $2, $3, $4, $5)"
# More than these in one round would mean a clock gone wild.
_MOST_STRAYS = 31

_OUTBOX_DAYS = r"""
SELECT child.relname AS name
FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
WHERE inhparent = 'outbox_events'::regclass AND child.relname ~ '^outbox_events_p\d{8}$'
ORDER BY name
"""
# Indexes that a migration could not drop, because somebody was reading all the time.
_SUPERSEDED_INDEXES = """
SELECT class.relname AS name FROM pg_index JOIN pg_class AS class ON class.oid = indexrelid
WHERE indrelid = 'events'::regclass AND right(class.relname, length($1)) = $1
"""


@dataclass(frozen=True, slots=True)
class _Partitioned:
    """A partitioned table: how its partitions are named and bounded."""

    table: str
    key: str
    unit: str
    name_format: str


_PARTITIONED = (
    _Partitioned("events", "ingested_at", "month", "YYYYMM"),
    _Partitioned("outbox_events", "created_at", "day", "YYYYMMDD"),
)


@dataclass(frozen=True, slots=True)
class OutboxDay:
    """A day's partition of the outbox; `end` is not part of it."""

    name: str
    end: datetime


IsDelivered = Callable[[asyncpg.Connection, OutboxDay], Awaitable[bool]]


class Maintenance:
    """Looks after partitions now and then; one process at a time does, for everybody."""

    def __init__(
        self,
        database: Database,
        settings: PipelineSettings,
        is_delivered: IsDelivered,
        *,
        events: EventsRetention | None = None,
        history: HistoryRetention | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self._events = events
        self._history = history
        self._retention = timedelta(days=settings.outbox_retention_days)
        self._is_delivered = is_delivered
        self._clock = clock
        self._exclusive = Exclusive(database, self._keep_tidy, name="maintenance", lock=_lock)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._exclusive.run()

    async def tidy(self, connection: asyncpg.Connection) -> None:
        """Do one round; what would wait for a lock, or for ClickHouse, too long is left for the next."""
        steps = (
            self._make_ahead,
            self._empty_defaults,
            self._drop_old_days,
            self._drop_old_months,
            self._drop_old_history,
            self._drop_superseded_indexes,
            fold_duplicates,
        )
        for step in steps:
            await _attempt(step, connection)

    async def _keep_tidy(self, connection: asyncpg.Connection, progressed: Progress) -> None:
        while True:
            await self.tidy(connection)
            progressed()
            await asyncio.sleep(_EVERY_S)

    @staticmethod
    async def _make_ahead(connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            await connection.execute(WAIT_BRIEFLY)
            made = await connection.fetchval(_MAKE_AHEAD, _MONTHS_AHEAD, _DAYS_AHEAD)
        if made:
            log.info("maintenance.partitions_made", count=made)

    @staticmethod
    async def _empty_defaults(connection: asyncpg.Connection) -> None:
        for partitioned in _PARTITIONED:
            await _empty_default(connection, partitioned)

    async def _drop_old_days(self, connection: asyncpg.Connection) -> None:
        limit = self._clock() - self._retention
        for row in await connection.fetch(_OUTBOX_DAYS):
            day = _outbox_day(row["name"])
            if day.end > limit:
                return
            if await self._drop_if_delivered(connection, day):
                log.info("maintenance.outbox_day_dropped", partition=day.name)
            else:
                log.warning("maintenance.outbox_day_kept", partition=day.name, reason="not in ClickHouse yet")

    async def _drop_old_months(self, connection: asyncpg.Connection) -> None:
        if self._events is not None:
            await self._events.enforce(connection)

    async def _drop_old_history(self, connection: asyncpg.Connection) -> None:
        if self._history is not None:
            await self._history.enforce(connection)

    @staticmethod
    async def _drop_superseded_indexes(connection: asyncpg.Connection) -> None:
        for row in await connection.fetch(_SUPERSEDED_INDEXES, SUPERSEDED):
            async with connection.transaction():
                await connection.execute(WAIT_BRIEFLY)
                await connection.execute(f"DROP INDEX {row['name']}")
            log.info("maintenance.index_dropped", index=row["name"])

    async def _drop_if_delivered(self, connection: asyncpg.Connection, day: OutboxDay) -> bool:
        async with connection.transaction():
            await connection.execute(WAIT_BRIEFLY)
            # Waits for whoever still writes into that day, so that the answer stays true until the drop.
            await connection.execute(f"LOCK TABLE {day.name} IN SHARE MODE")
            if not await self._is_delivered(connection, day):
                return False
            await connection.execute(f"DROP TABLE {day.name}")
        return True


async def _attempt(step: Callable[[asyncpg.Connection], Awaitable[None]], connection: asyncpg.Connection) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await step(connection)
        except (asyncpg.LockNotAvailableError, asyncpg.CheckViolationError) as error:
            reason = str(error)
        except Unavailable as error:
            reason = error.detail
            break
        except (TimeoutError, asyncpg.QueryCanceledError) as error:
            # It would not be faster at once, and the steps after it are not to wait for it.
            reason = str(error) or "it takes too long"
            break
        else:
            return
        if attempt < ATTEMPTS:
            await asyncio.sleep(BETWEEN_ATTEMPTS_S)
    log.warning("maintenance.postponed", step=step.__name__.strip("_"), error=reason)


def delivered_by_relay(clickhouse: ClickHouse) -> IsDelivered:
    """Ask whether the relay has gone past the last row of a day."""

    async def is_delivered(connection: asyncpg.Connection, day: OutboxDay) -> bool:
        last = await connection.fetchrow(
            f"SELECT xid::text::bigint AS xid, seq FROM {day.name} AS day"  # noqa: S608  # From pg_class.
            " ORDER BY day.xid DESC, seq DESC LIMIT 1"
        )
        if last is None:
            return True
        positions = Positions(clickhouse, await relay_name(connection))
        return Position(last["xid"], last["seq"]) <= await positions.get()

    return is_delivered


def delivered_by_kafka(clickhouse: ClickHouse, lanes: Sequence[Lane] = RELAY_LANES) -> IsDelivered:
    """Ask whether the watermark has gone past a day: Kafka's offsets say nothing about the outbox's rows."""

    async def is_delivered(_connection: asyncpg.Connection, day: OutboxDay) -> bool:
        proven = await watermark(clickhouse, lanes)
        return proven is not None and day.end + _BETWEEN_CLOCKS <= proven

    return is_delivered


async def _empty_default(connection: asyncpg.Connection, partitioned: _Partitioned) -> None:
    """Give the rows in DEFAULT the partitions that they lacked."""
    table, key = partitioned.table, partitioned.key
    default = f"{table}_default"
    if not await connection.fetchval(f"SELECT EXISTS (SELECT FROM {default})"):  # noqa: S608  # Constants.
        return
    starts = await connection.fetch(
        f"SELECT DISTINCT date_trunc($1, {key}, 'UTC') AS start FROM {default} ORDER BY start LIMIT $2",  # noqa: S608
        partitioned.unit,
        _MOST_STRAYS,
    )
    for row in starts:
        async with connection.transaction():
            await connection.execute(WAIT_BRIEFLY)
            # Rows that went into DEFAULT meanwhile would make attaching the new partition fail.
            await connection.execute(f"LOCK TABLE {default} IN SHARE ROW EXCLUSIVE MODE")
            await _make_partition(connection, partitioned, row["start"])
    log.warning("maintenance.default_emptied", table=table, partitions=len(starts))


async def _make_partition(connection: asyncpg.Connection, partitioned: _Partitioned, start: datetime) -> None:
    bounds = await connection.fetchrow(
        "SELECT $1 || '_p' || to_char($2 AT TIME ZONE 'UTC', $3) AS name,"
        " date_add($2, CAST('1 ' || $4 AS interval), 'UTC') AS upper_bound",
        partitioned.table,
        start,
        partitioned.name_format,
        partitioned.unit,
    )
    assert bounds is not None  # noqa: S101  # A query without FROM has one row.
    await connection.execute(_MAKE, partitioned.table, bounds["name"], start, bounds["upper_bound"], partitioned.key)


def _outbox_day(name: str) -> OutboxDay:
    start = datetime.strptime(name.removeprefix("outbox_events_p"), "%Y%m%d").replace(tzinfo=UTC)
    return OutboxDay(name, start + timedelta(days=1))


async def _lock() -> str:
    return "maintenance"
