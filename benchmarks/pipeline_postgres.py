"""What the pipeline costs PostgreSQL: log and space for each event, and waiting while the outbox is cleaned."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from app.core.db import Database
from app.core.settings import PipelineSettings
from app.pipeline.locking import WAIT_BRIEFLY
from app.pipeline.maintenance import Maintenance, OutboxDay
from benchmarks.pipeline_writing import EVENTS_PER_TRANSACTION, connect, record, running_postgres, write
from benchmarks.runs import note
from benchmarks.table import Row
from benchmarks.traffic import BenchmarkFailed

_MIB = 1024 * 1024
_TABLES = ("event_ids", "events", "outbox_events")
# What the three rows of an event hold, without their places in pages and without indexes.
_BARE_BYTES = "SELECT sum(size)::float8 FROM ({}) AS sizes".format(
    " UNION ALL ".join(f"SELECT avg(pg_column_size({table}.*)) AS size FROM {table}" for table in _TABLES)
)
# A partitioned table's rows are in its partitions.
_SPACE = """
WITH parts AS (
    SELECT oid FROM unnest($1::text[]) AS asked (name) JOIN pg_class ON oid = name::regclass
    UNION ALL
    SELECT inhrelid FROM unnest($1::text[]) AS asked (name) JOIN pg_inherits ON inhparent = name::regclass
)
SELECT sum(pg_table_size(parts.oid))::bigint AS tables, sum(pg_indexes_size(parts.oid))::bigint AS indexes,
       coalesce(sum(n_dead_tup), 0)::bigint AS dead
FROM parts LEFT JOIN pg_stat_user_tables ON relid = parts.oid
"""
_LOGGED = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8"
# Statistics of a session that has ended are there after a moment.
_STATISTICS_AFTER_S = 1.5

_WRITERS = 2
_EVENTS_PER_REQUEST = 10
_OLDEST_DAY = 100
_DAYS_AHEAD = 7
_MONTHS_AHEAD = 3
_BETWEEN_ROUNDS_S = 0.25
_FILL_DAY = """
INSERT INTO outbox_events (aggregatetype, aggregateid, type, payload, created_at)
SELECT 'event', 'user-' || number, 'event.recorded', jsonb_build_object('filler', repeat('x', 250)), $1
FROM generate_series(1, $2::int) AS number
"""
_MAKE_DAY = "SELECT make_partition('outbox_events', $1, $2, $3, 'created_at')"
# As maintenance has it.
_MAKE_AHEAD = "SELECT make_partitions_ahead($1, $2)"


@dataclass(frozen=True, slots=True)
class _Space:
    tables: int
    indexes: int
    dead: int

    @property
    def total(self) -> int:
        return self.tables + self.indexes


def measure_cost(folder: Path, *, n_events: int) -> list[Row]:
    """Write events through the API's own statement, and look at the log and at the tables."""
    with running_postgres(folder) as url:
        return asyncio.run(_measure_cost(url, n_events))


def measure_cleaning(folder: Path, *, turns: int, days_per_turn: int, rows_per_day: int) -> list[Row]:
    """Let writers work with and without maintenance in turns, and compare how long their transactions take."""
    with running_postgres(folder) as url:
        return asyncio.run(_measure_cleaning(url, turns, days_per_turn, rows_per_day))


async def _measure_cost(url: str, n_events: int) -> list[Row]:
    connection = await connect(url)
    await connection.execute("CHECKPOINT")  # Pages are logged whole when they change first after one.
    before, start = await _space(connection), await connection.fetchval(_LOGGED)
    note(f"writing {n_events:,} events, {EVENTS_PER_TRANSACTION:,} a transaction")
    took_s = await write(url, n_events)
    logged = await connection.fetchval(_LOGGED) - start
    await asyncio.sleep(_STATISTICS_AFTER_S)
    filled = await _space(connection)
    await connection.execute(f"VACUUM (ANALYZE) {', '.join(_TABLES)}")
    vacuumed = await _space(connection)
    bare = await connection.fetchval(_BARE_BYTES)
    note(f"written at {n_events / took_s:,.0f} events/s")
    await connection.close()
    used = (filled.total - before.total) / n_events
    return [
        _bytes_row("write-ahead log for an event", logged / n_events, "its three rows, bare", bare),
        _bytes_row("space for an event, indexes included", used, "its three rows, bare", bare),
        Row(
            f"dead rows after {n_events:,} events",
            f"{filled.dead:,}",
            "space before and after VACUUM",
            f"{filled.total / _MIB:,.0f} / {vacuumed.total / _MIB:,.0f} MiB",
            f"{filled.total / vacuumed.total:.2f}",
        ),
    ]


async def _measure_cleaning(url: str, turns: int, days_per_turn: int, rows_per_day: int) -> list[Row]:
    connection, database = await connect(url), Database.connect(url, pool_size=_WRITERS)
    oldest = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=_OLDEST_DAY)
    *days, waited_for = [oldest + timedelta(days=number) for number in range(turns * days_per_turn + 1)]
    note(f"filling {len(days)} old days of the outbox with {rows_per_day:,} rows each")
    for day in (*days, waited_for):
        await connection.execute(_MAKE_DAY, _name(day), day, day + timedelta(days=1))
        await connection.execute(_FILL_DAY, day, rows_per_day)
    await connection.execute("CHECKPOINT")
    quiet: list[float] = []
    cleaned: list[float] = []
    cleaning = _Cleaning(connection, database)
    for turn in range(turns):
        note(f"writing while days are made and dropped, and while not, turn {turn + 1} of {turns}")
        mine = days[turn * days_per_turn : (turn + 1) * days_per_turn]
        cleaned += await _written_during(database, cleaning.work(mine))
        quiet += await _written_during(database, asyncio.sleep(days_per_turn * _BETWEEN_ROUNDS_S))
    note("writing while a drop waits for a long reader")
    held_up = await _written_during(database, cleaning.wait_for_reader(url, waited_for))
    await database.close()
    await connection.close()
    return [
        _latency_row(
            f"writers, p50 / p99 / max, while {len(days)} days of {rows_per_day:,} rows are dropped and made",
            cleaned,
            quiet,
        ),
        _latency_row("writers, p50 / p99 / max, while a drop waits for a long reader of the outbox", held_up, quiet),
    ]


class _Cleaning:
    """Rounds of maintenance in which one day is made and one is dropped; the clock goes on by a day each time."""

    def __init__(self, connection: asyncpg.Connection, database: Database) -> None:
        self._connection = connection
        self._now = datetime.now(UTC)
        self._made = 0
        settings = PipelineSettings.model_validate({"OUTBOX_RETENTION_DAYS": 1})
        self._maintenance = Maintenance(database, settings, _is_delivered, clock=lambda: self._now)

    async def work(self, days: Sequence[datetime]) -> None:
        for day in days:
            self._now = day + timedelta(days=2)
            self._made += 1
            async with self._connection.transaction():
                await self._connection.execute(WAIT_BRIEFLY)
                await self._connection.execute(_MAKE_AHEAD, _MONTHS_AHEAD, _DAYS_AHEAD + self._made)
            await self._maintenance.tidy(self._connection)
            if await self._connection.fetchval("SELECT to_regclass($1)", _name(day)) is not None:
                raise BenchmarkFailed(f"{_name(day)} was not dropped")
            await asyncio.sleep(_BETWEEN_ROUNDS_S)

    async def wait_for_reader(self, url: str, day: datetime) -> None:
        """Try to drop a day while somebody, such as a backup, has read from the outbox and not ended."""
        self._now = day + timedelta(days=2)
        reader = await connect(url)
        try:
            async with reader.transaction():
                await reader.execute("SELECT FROM outbox_events LIMIT 1")
                await asyncio.sleep(_BETWEEN_ROUNDS_S)
                await self._maintenance.tidy(self._connection)
        finally:
            await reader.close()
        await asyncio.sleep(_BETWEEN_ROUNDS_S)


async def _is_delivered(_connection: asyncpg.Connection, _day: OutboxDay) -> bool:
    return True


async def _written_during(database: Database, other: Awaitable[None]) -> list[float]:
    """Write small batches until the other work is done; returns how long each transaction took, in ms."""
    done = asyncio.Event()
    took_ms: list[float] = []
    writers = [asyncio.create_task(_write_until(done, database, took_ms)) for _ in range(_WRITERS)]
    try:
        await other
    finally:
        done.set()
        await asyncio.gather(*writers)
    return took_ms


async def _write_until(done: asyncio.Event, database: Database, took_ms: list[float]) -> None:
    while not done.is_set():
        began = time.perf_counter()
        await record(database, _EVENTS_PER_REQUEST)
        took_ms.append((time.perf_counter() - began) * 1000)


async def _space(connection: asyncpg.Connection) -> _Space:
    found = await connection.fetchrow(_SPACE, list(_TABLES))
    return _Space(found["tables"], found["indexes"], found["dead"])


def _name(day: datetime) -> str:
    return f"outbox_events_p{day:%Y%m%d}"


def _bytes_row(measure: str, used: float, probe_name: str, bare: float) -> Row:
    return Row(measure, f"{used:,.0f} B", probe_name, f"{bare:,.0f} B", f"{used / bare:.2f}")


def _latency_row(measure: str, took_ms: Sequence[float], quiet_ms: Sequence[float]) -> Row:
    ratios = [one / other for one, other in zip(_points(took_ms), _points(quiet_ms), strict=True)]
    return Row(
        measure, _percentiles(took_ms), "without", _percentiles(quiet_ms), " / ".join(f"{one:.1f}" for one in ratios)
    )


def _points(took_ms: Sequence[float]) -> tuple[float, float, float]:
    percentiles = statistics.quantiles(took_ms, n=100)
    return percentiles[49], percentiles[98], max(took_ms)


def _percentiles(took_ms: Sequence[float]) -> str:
    return " / ".join(f"{point:.1f}" for point in _points(took_ms)) + " ms"
