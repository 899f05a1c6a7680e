"""The watermark W: every row ingested before it is in ClickHouse, and this is how that is known.

A heartbeat is a message in the outbox that carries a time t. Its writer

1. reads the clock: t;
2. takes a transaction id: x. Whoever ingested a row before t had taken an id before reading the clock (see the
   database's function `ingestion_time`), so that id is below x;
3. waits until no transaction below x is running. Now every row ingested before t is committed;
4. appends the heartbeat, in a transaction of its own, whose id is above x.

So those rows come before the heartbeat in the order of transaction ids, in which the relay reads, and in the
order of commits, in which Debezium does. The loader inserts a heartbeat after everything else in its batch. Once
the heartbeat is in ClickHouse, so is every row ingested before t.

Where the stream has several lanes (see `app.pipeline.lanes`), step 4 appends one row for each, in one transaction.
Then W is the lowest of the lanes' times, and unknown until each lane has one.

The snapshot's xmax would not do as x: it is one above the last *completed* id, and transactions with higher ids may
be running.

When the clock steps back, rows are ingested below W that are not in ClickHouse yet. They are not lost, only seen
once the relay has brought them. The next heartbeat lowers W again, because the last one holds and not the highest.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg
import structlog

from app.core.clickhouse import ClickHouse, ClickHouseUnavailable
from app.core.db import Database
from app.core.settings import PipelineSettings
from app.pipeline.exclusive import Exclusive, Progress
from app.pipeline.lanes import RELAY_LANES, Lane
from app.pipeline.messages import BEAT

log = structlog.get_logger()

# While nothing happens W may fall behind by this much; the rows after it are none.
_QUIET_S = 5.0
_FIRST_LOOK_AFTER_S = 0.005
_LOOK_EVERY_S = 0.25

# Whoever ingests a row after this moment has an id of at least `oldest`: the snapshot is taken before the clock is
# read, and no transaction that is running or will ever run is below it.
_CLOCK = "SELECT clock_timestamp() AS moment, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS oldest"
_TAKE_XID = "SELECT pg_current_xact_id()::text::bigint"
_ALL_BELOW_ENDED = "SELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1::text::xid8"
_APPEND = f"""
INSERT INTO outbox_events (aggregatetype, aggregateid, type, payload)
SELECT aggregatetype, aggregateid, '{BEAT}', jsonb_build_object('schema_version', 1, 'lane', lane,
    'beat', $1::bigint, 'watermark', $2::timestamptz, 'ingested_at', ingestion_time())
FROM unnest($3::int[], $4::text[], $5::text[]) AS lanes (lane, aggregatetype, aggregateid)
"""  # noqa: S608  # Made of constants.
# Rows that the last beat does not speak of: ingested after its time, also by transactions that had begun before,
# or by later transactions while the clock stepped back.
_ANYTHING_SINCE = f"""
SELECT EXISTS (
    SELECT FROM outbox_events
    WHERE xid >= $1::text::xid8 AND (created_at >= $2 OR xid >= $3::text::xid8) AND type <> '{BEAT}'
)
"""  # noqa: S608  # Made of constants.

_LAST_BEAT = "SELECT max(beat) AS beat FROM heartbeats"
# The slowest lane decides, and one that is silent leaves W unknown.
_WATERMARK = (
    "SELECT if(count() = length({lanes:Array(Int32)}), minOrNull(watermark), NULL) AS watermark FROM"
    " (SELECT argMax(watermark, beat) AS watermark FROM heartbeats WHERE lane IN {lanes:Array(Int32)} GROUP BY lane)"
)


@dataclass(frozen=True, slots=True)
class _Beat:
    oldest: int
    moment: datetime
    xid: int
    at_s: float


async def watermark(clickhouse: ClickHouse, lanes: Sequence[Lane] = RELAY_LANES) -> datetime | None:
    """Return W, or `None` when one of these lanes has proven nothing yet.

    Raises:
        ClickHouseUnavailable: it cannot be reached.
    """
    rows = await clickhouse.rows(_WATERMARK, {"lanes": [lane.number for lane in lanes]})
    moment: datetime | None = rows[0]["watermark"]
    return moment


async def lanes_heard_from(clickhouse: ClickHouse) -> frozenset[int]:
    """Return the lanes of which ClickHouse holds a beat.

    Raises:
        ClickHouseUnavailable: it cannot be reached.
    """
    rows = await clickhouse.rows("SELECT DISTINCT lane FROM heartbeats")
    return frozenset(row["lane"] for row in rows)


class Heartbeat:
    """Writes heartbeats; one process at a time does, for everybody."""

    def __init__(
        self,
        database: Database,
        clickhouse: ClickHouse,
        settings: PipelineSettings,
        *,
        lanes: Sequence[Lane] = RELAY_LANES,
    ) -> None:
        self._clickhouse = clickhouse
        self._every_s = settings.heartbeat_s
        # In columns, as the statement takes them: numbers, aggregate types, aggregate ids.
        self._lanes = [list(column) for column in zip(*lanes, strict=True)]
        self._last: _Beat | None = None
        self._number = 0
        self._exclusive = Exclusive(database, self._keep_beating, name="heartbeat", lock=_lock)

    async def run(self) -> None:
        """Beat until cancelled."""
        await self._exclusive.run()

    async def beat(self, connection: asyncpg.Connection) -> datetime:
        """Write one heartbeat to every lane and return its time; waits for the transactions that are running now."""
        clock = await connection.fetchrow(_CLOCK)
        moment: datetime = clock["moment"]
        at_s = time.monotonic()
        xid: int = await connection.fetchval(_TAKE_XID)
        pause_s = _FIRST_LOOK_AFTER_S
        while not await connection.fetchval(_ALL_BELOW_ENDED, str(xid)):
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LOOK_EVERY_S)
        self._number = max(xid, self._number + 1)
        await connection.execute(_APPEND, self._number, moment, *self._lanes)
        self._last = _Beat(clock["oldest"], moment, xid, at_s)
        return moment

    async def beat_if_needed(self, connection: asyncpg.Connection) -> None:
        """Write a heartbeat if there is something new, or the last one is old."""
        if await self._is_needed(connection):
            await self.beat(connection)

    async def _is_needed(self, connection: asyncpg.Connection) -> bool:
        if self._last is None or time.monotonic() - self._last.at_s >= _QUIET_S:
            return True
        last = self._last
        return bool(await connection.fetchval(_ANYTHING_SINCE, str(last.oldest), last.moment, str(last.xid)))

    async def _keep_beating(self, connection: asyncpg.Connection, progressed: Progress) -> None:
        await self._continue_numbers()
        while True:
            await self.beat_if_needed(connection)
            progressed()
            await asyncio.sleep(self._every_s)

    async def _continue_numbers(self) -> None:
        """Go on above the numbers in ClickHouse: transaction ids may be lower after PostgreSQL was restored."""
        try:
            rows = await self._clickhouse.rows(_LAST_BEAT)
        except ClickHouseUnavailable:
            return  # Ids of transactions rise all the same, in all but that rare case.
        self._number = max(self._number, rows[0]["beat"])


async def _lock() -> str:
    return "heartbeat"
