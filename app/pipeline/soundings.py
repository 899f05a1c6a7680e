"""What PostgreSQL knows of the pipeline: waiting rows, replication slots, partitions, reconciliation."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.pipeline.positions import Position

# Counting must stay cheap when the backlog is long; an alert goes off far below.
MOST_COUNTED = 100_000
_MOST_HOURS_SHOWN = 24

_BACKLOG = text("""
SELECT count(*) AS row_count,
    coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest_age_s
FROM (
    SELECT created_at FROM outbox_events
    WHERE (xid, seq) > (CAST(CAST(:xid AS text) AS xid8), CAST(:seq AS bigint))
    ORDER BY xid, seq LIMIT :most
) AS waiting
""")
_SLOTS = text("""
SELECT slot_name AS name, active, coalesce(wal_status, 'unknown') AS wal_status,
    coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint AS retained_bytes,
    coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::bigint AS confirmed_flush_lag_bytes
FROM pg_replication_slots WHERE slot_type = 'logical' AND database = current_database() ORDER BY slot_name
""")
_PARTITIONS = text("""
SELECT parent.relname AS table, count(*) AS count, min(child.relname) AS first, max(child.relname) AS last
FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid JOIN pg_class AS parent ON parent.oid = inhparent
WHERE inhparent IN ('events'::regclass, 'outbox_events'::regclass) AND child.relname NOT LIKE '%\\_default'
GROUP BY parent.relname
""")
_STRAYS = text(
    "SELECT (SELECT count(*) FROM events_default) AS events,"
    " (SELECT count(*) FROM outbox_events_default) AS outbox_events"
)
_FLOOR = text("SELECT max(upper_bound) FROM dropped_partitions")
_RECONCILED = text("""
SELECT reconciled_at, reconciled_until, proven_at IS NOT NULL AS proven,
    coalesce(sum(missing_rows), 0)::bigint AS missing_rows, coalesce(sum(extra_rows), 0)::bigint AS extra_rows,
    coalesce(sum(repaired_rows), 0)::bigint AS repaired_rows
FROM histories LEFT JOIN reconciled_hours ON history_id = id WHERE id = :id GROUP BY id
""")
_LAST_RECONCILED = text("SELECT id FROM histories ORDER BY reconciled_at DESC NULLS LAST, adopted_at DESC LIMIT 1")
_UNEQUAL_HOURS = text("""
SELECT subject, hour, outcome, missing_rows, extra_rows, repaired_rows, compared_at FROM reconciled_hours
WHERE history_id = :id AND outcome <> 'equal' ORDER BY outcome = 'open' DESC, hour DESC LIMIT :most
""")


@dataclass(frozen=True, slots=True)
class Backlog:
    """Rows of the outbox that are not in ClickHouse; counted up to `MOST_COUNTED`."""

    row_count: int
    oldest_age_s: float


@dataclass(frozen=True, slots=True)
class Slot:
    """A logical replication slot of this database."""

    name: str
    active: bool
    wal_status: str
    retained_bytes: int
    confirmed_flush_lag_bytes: int


@dataclass(frozen=True, slots=True)
class Partitions:
    """The partitions of a table by their names' order, and the rows that have none of their own."""

    table: str
    count: int
    first: str
    last: str
    default_rows: int


@dataclass(frozen=True, slots=True)
class UnequalHour:
    """An hour in which something differed, once or still."""

    subject: str
    hour: datetime
    outcome: str
    missing_rows: int
    extra_rows: int
    repaired_rows: int
    compared_at: datetime


@dataclass(frozen=True, slots=True)
class Reconciled:
    """How a history stands. `proven`: nothing lacks of what was there before it."""

    reconciled_at: datetime | None
    reconciled_until: datetime | None
    proven: bool
    missing_rows: int
    extra_rows: int
    repaired_rows: int


class Soundings:
    """Reads what is to be seen; every statement is short."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def backlog(self, after: Position) -> Backlog:
        """Count the rows behind a relay's position."""
        values = {"xid": str(after.xid), "seq": after.seq, "most": MOST_COUNTED}
        return Backlog(*(await self._connection.execute(_BACKLOG, values)).one())

    async def slots(self) -> Sequence[Slot]:
        return [Slot(**row) for row in (await self._connection.execute(_SLOTS)).mappings()]

    async def strays(self) -> dict[str, int]:
        """Count the rows in DEFAULT partitions, by table."""
        return dict((await self._connection.execute(_STRAYS)).mappings().one())

    async def partitions(self) -> Sequence[Partitions]:
        strays = await self.strays()
        rows = (await self._connection.execute(_PARTITIONS)).mappings()
        return [Partitions(**row, default_rows=strays[row["table"]]) for row in rows]

    async def events_kept_since(self) -> datetime | None:
        """Return the ingestion time from which on PostgreSQL has all events, `None` if it never dropped any."""
        found: datetime | None = (await self._connection.execute(_FLOOR)).scalar_one()
        return found

    async def reconciled(self, history_id: UUID) -> Reconciled | None:
        """Return how a history stands, `None` if it is not known."""
        row = (await self._connection.execute(_RECONCILED, {"id": history_id})).mappings().one_or_none()
        return None if row is None else Reconciled(**row)

    async def last_reconciled_history(self) -> UUID | None:
        """Return the history that was looked at last, for when ClickHouse does not say which it is."""
        return (await self._connection.execute(_LAST_RECONCILED)).scalar_one_or_none()

    async def unequal_hours(self, history_id: UUID) -> Sequence[UnequalHour]:
        """Return the newest hours in which something differed, those where it still does first."""
        values = {"id": history_id, "most": _MOST_HOURS_SHOWN}
        return [UnequalHour(**row) for row in (await self._connection.execute(_UNEQUAL_HOURS, values)).mappings()]
