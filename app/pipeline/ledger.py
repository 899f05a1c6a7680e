"""What PostgreSQL keeps of comparisons: which hours a history was compared for, and what was found."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from app.core.clickhouse import ClickHouse
from app.pipeline.comparison import Outcome
from app.pipeline.exclusive import advisory_key, take
from app.pipeline.positions import target
from app.pipeline.truth import EVENTS, Digest, Subject

_FIRST_HOUR = """
SELECT date_trunc('hour', least(
    (SELECT created_at FROM installation),
    (SELECT min(ingested_at) FROM events),
    (SELECT min(first.ingested_at) FROM experiments CROSS JOIN LATERAL (
        SELECT ingested_at FROM assignments WHERE experiment_id = experiments.id ORDER BY ingested_at LIMIT 1
    ) AS first),
    (SELECT min(hour) FROM reconciled_hours WHERE subject IN ('events', 'exposures'))
), 'UTC')
"""
# In $2 up to $3, those that lack a row of one subject or the other.
_HOURS_WITHOUT = """
SELECT {wanted} FROM generate_series($2::timestamptz, $3::timestamptz - interval '1 hour', interval '1 hour') AS every (
    hour)
WHERE (SELECT count(*) FROM reconciled_hours AS done WHERE done.history_id = $1 AND done.hour = every.hour
    AND done.subject IN ('events', 'exposures') AND {condition}) < 2
"""
_NOT_COMPARED = _HOURS_WITHOUT.format(wanted="every.hour", condition="true") + "ORDER BY every.hour LIMIT $4"
_RECONCILED_UNTIL = _HOURS_WITHOUT.format(wanted="coalesce(min(every.hour), $3)", condition="done.outcome <> 'open'")
_LACKING = _HOURS_WITHOUT.format(wanted="count(*)", condition="done.missing_rows = 0")
_COMPARED_LONG_AGO = """
SELECT hour, sum(row_count)::bigint AS row_count FROM reconciled_hours
WHERE history_id = $1 AND subject IN ('events', 'exposures')
GROUP BY hour HAVING NOT $2 OR bool_or(missing_rows > 0) ORDER BY min(compared_at) LIMIT $3
"""
_FLOOR = "SELECT max(upper_bound) FROM dropped_partitions"
_RECORDED = """
SELECT DISTINCT ON (hour) hour, row_count, checksum FROM reconciled_hours
WHERE subject = $1 AND hour >= $2 AND hour < $3 ORDER BY hour, compared_at DESC
"""
_COMPARED = """
SELECT hour, row_count, checksum FROM reconciled_hours
WHERE history_id = $1 AND subject = $2 AND hour >= $3 AND hour < $4
"""
_RECORD = """
INSERT INTO reconciled_hours AS kept (history_id, subject, hour, row_count, checksum, missing_rows, extra_rows,
    repaired_rows, differences, compared_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, clock_timestamp())
ON CONFLICT (history_id, subject, hour) DO UPDATE SET row_count = excluded.row_count, checksum = excluded.checksum,
    missing_rows = excluded.missing_rows, extra_rows = excluded.extra_rows,
    repaired_rows = kept.repaired_rows + excluded.repaired_rows,
    differences = CASE WHEN excluded.differences = '{}'::jsonb THEN kept.differences ELSE excluded.differences END,
    compared_at = excluded.compared_at
"""
_STANDING = "SELECT adopted_at, proven_at IS NOT NULL AS proven FROM histories WHERE id = $1"
_FINISHED = """
UPDATE histories SET reconciled_at = clock_timestamp(), reconciled_until = $2,
    proven_at = CASE WHEN $3 THEN coalesce(proven_at, clock_timestamp()) END
WHERE id = $1
"""
_PROVE = "UPDATE histories SET proven_at = clock_timestamp() WHERE id = $1"
_REPAIRING = "UPDATE histories SET repairing_since = least(repairing_since, $2) WHERE id = $1"
_REPAIRED = "UPDATE histories SET repairing_since = NULL WHERE id = $1"
_REPAIRING_SINCE = "SELECT repairing_since FROM histories WHERE id = $1"
_MISSING = "SELECT coalesce(sum(missing_rows), 0)::bigint FROM reconciled_hours WHERE history_id = $1"
_TRY_TO_KEEP = "SELECT pg_try_advisory_lock_shared($1)"
_KEEP_NO_LONGER = "SELECT pg_advisory_unlock_shared($1)"
_TRY_TO_MOVE = "SELECT pg_try_advisory_xact_lock($1)"
_NOTHING_BEFORE = """
SELECT NOT EXISTS (SELECT FROM events WHERE ingested_at < $1)
    AND NOT EXISTS (SELECT FROM assignments WHERE ingested_at < $1)
    AND NOT EXISTS (SELECT FROM overrides WHERE ingested_at < $1)
    AND NOT EXISTS (SELECT FROM experiments WHERE updated_at < $1)
    AND NOT EXISTS (SELECT FROM dropped_partitions)
"""

_FLOOR_KEY = advisory_key("floor-of-events")
_KEEP_POLL_S = 1.0


class Finding(NamedTuple):
    """What a comparison of an hour found."""

    subject: Subject
    hour: datetime
    outcome: Outcome


class HistoryStanding(NamedTuple):
    """Since when a history is known, and whether it is known to lack nothing."""

    adopted_at: datetime
    proven: bool


class Ledger:
    """The record of one history."""

    def __init__(self, connection: asyncpg.Connection, history_id: UUID) -> None:
        self._connection = connection
        self._id = history_id

    async def standing(self) -> HistoryStanding:
        return HistoryStanding(*await self._connection.fetchrow(_STANDING, self._id))

    async def not_compared(self, first: datetime, limit: datetime, most: int) -> list[datetime]:
        """Return the first hours that were never compared."""
        rows = await self._connection.fetch(_NOT_COMPARED, self._id, first, limit, most)
        return [row["hour"] for row in rows]

    async def compared_long_ago(self, *, with_missing: bool, most: int, most_rows: int) -> list[datetime]:
        """Return the hours that nobody has looked at for longest, of all or of those where rows are missing."""
        hours: list[datetime] = []
        row_count = 0
        for row in await self._connection.fetch(_COMPARED_LONG_AGO, self._id, with_missing, most):
            row_count += row["row_count"]
            if hours and row_count > most_rows:
                break
            hours.append(row["hour"])
        return hours

    async def compared(self, subject: Subject, start: datetime, end: datetime) -> Mapping[datetime, Digest]:
        """Return what PostgreSQL held of each hour of the range when that was last compared."""
        rows = await self._connection.fetch(_COMPARED, self._id, subject.table, start, end)
        return _digests(rows)

    async def reconciled_until(self, first: datetime, limit: datetime) -> datetime:
        """Return the first hour that differs or was never compared."""
        found: datetime = await self._connection.fetchval(_RECONCILED_UNTIL, self._id, first, limit)
        return found

    async def lacks(self, first: datetime, limit: datetime) -> bool:
        """Tell whether an hour was never compared, or rows of it are missing."""
        return bool(await self._connection.fetchval(_LACKING, self._id, first, limit))

    async def missing_rows(self) -> int:
        """Count what is known to be missing."""
        count: int = await self._connection.fetchval(_MISSING, self._id)
        return count

    async def record(self, findings: Sequence[Finding]) -> None:
        await self._connection.executemany(_RECORD, [_row_of(self._id, finding) for finding in findings])

    async def prove(self) -> None:
        await self._connection.execute(_PROVE, self._id)

    async def finish(self, until: datetime, *, proven: bool) -> None:
        """Note that a round is done."""
        await self._connection.execute(_FINISHED, self._id, until, proven)

    async def begin_repair(self, since: datetime) -> None:
        """Note, before rows are sent, from when they are."""
        await self._connection.execute(_REPAIRING, self._id, since)

    async def repairing_since(self) -> datetime | None:
        """Return from when the rows are that were sent since the last `end_repair`."""
        found: datetime | None = await self._connection.fetchval(_REPAIRING_SINCE, self._id)
        return found

    async def end_repair(self) -> None:
        """Note that what was counted of those rows is void."""
        await self._connection.execute(_REPAIRED, self._id)


async def first_hour(connection: asyncpg.Connection) -> datetime:
    """Return the hour before which nothing was ever ingested."""
    found: datetime = await connection.fetchval(_FIRST_HOUR)
    return found


async def nothing_before(connection: asyncpg.Connection, moment: datetime) -> bool:
    """Tell whether the installation was empty until then."""
    return bool(await connection.fetchval(_NOTHING_BEFORE, moment))


async def floor_of_events(connection: asyncpg.Connection) -> datetime | None:
    """Return the time of ingestion before which PostgreSQL has dropped events, `None` if it has all."""
    found: datetime | None = await connection.fetchval(_FLOOR)
    return found


@asynccontextmanager
async def keep_floor(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Keep PostgreSQL from dropping events until the block ends; a drop that is under way is waited for."""
    while not await connection.fetchval(_TRY_TO_KEEP, _FLOOR_KEY):  # noqa: ASYNC110  # It would hold back vacuum.
        await asyncio.sleep(_KEEP_POLL_S)
    try:
        yield
    finally:
        await connection.execute(_KEEP_NO_LONGER, _FLOOR_KEY)


async def may_move_floor(connection: asyncpg.Connection) -> bool:
    """Tell whether PostgreSQL may drop events in this transaction; until its end nobody can begin to forbid it."""
    return bool(await connection.fetchval(_TRY_TO_MOVE, _FLOOR_KEY))


async def recorded_digests(
    connection: asyncpg.Connection, subject: Subject, start: datetime, end: datetime
) -> Mapping[datetime, Digest]:
    """Return what is known of rows that PostgreSQL has dropped."""
    floor = await floor_of_events(connection) if subject is EVENTS else None
    if floor is None or start >= floor:
        return {}
    rows = await connection.fetch(_RECORDED, subject.table, start, min(end, floor))
    return _digests(rows)


async def history_key(clickhouse: ClickHouse) -> int:
    """Return the advisory lock of whoever writes into a history out of turn."""
    return advisory_key(f"history:{await target(clickhouse)}")


@asynccontextmanager
async def turn(connection: asyncpg.Connection, clickhouse: ClickHouse) -> AsyncIterator[None]:
    """Wait for whoever writes into this history out of turn, and keep others from it."""
    key = await history_key(clickhouse)
    await take(connection, key)
    try:
        yield
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", key)


def hour_of(moment: datetime) -> datetime:
    """Return the start of the hour."""
    return moment.replace(minute=0, second=0, microsecond=0)


def _digests(rows: Iterable[asyncpg.Record]) -> dict[datetime, Digest]:
    return {row["hour"]: Digest(row["row_count"], int(row["checksum"])) for row in rows}


def _row_of(history_id: UUID, finding: Finding) -> tuple[object, ...]:
    outcome = finding.outcome
    differences = msgspec.json.encode(outcome.differences or {}).decode()
    counts = (outcome.missing, outcome.extra, outcome.repaired)
    return (history_id, finding.subject.table, finding.hour, *outcome.truth, *counts, differences)
