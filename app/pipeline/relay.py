"""The relay: it reads the outbox in order and loads it into ClickHouse, in place of Debezium and Kafka."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import asyncpg

from app.core.clickhouse import ClickHouse
from app.core.clock import Clock, utc_now
from app.core.db import Database
from app.core.settings import PipelineSettings
from app.pipeline.exclusive import Exclusive, Progress
from app.pipeline.loader import Loader
from app.pipeline.messages import Message
from app.pipeline.positions import Position, Positions, relay_name, target

# However often it is nudged: each batch is an insert into every table, and ClickHouse wants few of them.
_SHORTEST_IDLE_S = 0.1

# A transaction takes its id early and commits late, so rows appear below others that were read long ago. But once
# every transaction below some id has ended, nothing can appear below it any more. That id is the snapshot's xmin:
# each transaction still running has an id of at least xmin. Stopping below it, no row is ever stepped over.
# The payload is turned into bytes by the server, which saves decoding and encoding each of them here.
_READ = """
SELECT id, aggregatetype, type, convert_to(payload::text, 'UTF8') AS payload, xid::text::bigint AS xid, seq
FROM outbox_events
WHERE (xid, seq) > ($1::text::xid8, $2) AND xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY outbox_events.xid, seq
LIMIT $3
"""

# A partition that was filled a moment ago has no statistics, and the planner would rather sort all of it for every
# batch than walk along the index.
_WALK_THE_INDEX = "SET enable_sort = off; SET enable_seqscan = off; SET enable_bitmapscan = off"


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows in the outbox's order, and the position of the last one."""

    rows: Sequence[asyncpg.Record]
    end: Position

    def messages(self) -> Iterator[Message]:
        """Make the messages one by one, so that the loader decides when the event loop gets its turn."""
        return (Message(row["id"], row["aggregatetype"], row["type"], row["payload"]) for row in self.rows)


class Relay:
    """Moves rows from the outbox to ClickHouse, at least once and in order, until it is stopped."""

    def __init__(
        self,
        database: Database,
        clickhouse: ClickHouse,
        loader: Loader,
        settings: PipelineSettings,
        *,
        clock: Clock = utc_now,
    ) -> None:
        self._clickhouse = clickhouse
        self._loader = loader
        self._batch_rows = settings.relay_batch_rows
        self._idle_s = settings.relay_idle_s
        self._clock = clock
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._exclusive = Exclusive(database, self.relay, name="relay", lock=self._target)

    def nudge(self) -> None:
        """Look for new rows now rather than after the idle wait."""
        self._wake.set()

    async def run(self) -> None:
        """Relay until `stop` is called and every row committed before is in ClickHouse."""
        await self._exclusive.run()

    @property
    def working(self) -> bool:
        """Whether this process is the one that relays, and its servers are there."""
        return self._exclusive.working

    def stop(self) -> None:
        """Have `run` return once the outbox is drained."""
        self._stopping.set()
        self._wake.set()

    async def relay(self, connection: asyncpg.Connection, progressed: Progress) -> None:
        """Relay on this connection until stopped."""
        positions = Positions(self._clickhouse, await relay_name(connection), clock=self._clock)
        await connection.execute(_WALK_THE_INDEX)
        batch = await self._read(connection, await positions.get())
        while batch.rows or not self._stopping.is_set():
            if len(batch.rows) == self._batch_rows:
                # There is more: PostgreSQL reads while ClickHouse writes.
                _, batch = await asyncio.gather(self._load(batch, positions), self._read(connection, batch.end))
            else:
                await self._load(batch, positions)
                await self._idle()
                batch = await self._read(connection, batch.end)
            progressed()

    async def _read(self, connection: asyncpg.Connection, after: Position) -> _Batch:
        rows = await connection.fetch(_READ, str(after.xid), after.seq, self._batch_rows)
        return _Batch(rows, Position(rows[-1]["xid"], rows[-1]["seq"]) if rows else after)

    async def _load(self, batch: _Batch, positions: Positions) -> None:
        """Load first, move on second: a crash in between repeats the batch instead of losing it."""
        if batch.rows:
            await self._loader.load(batch.messages())
            await positions.put(batch.end)

    async def _idle(self) -> None:
        if not self._stopping.is_set():
            await asyncio.sleep(min(_SHORTEST_IDLE_S, self._idle_s))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(self._idle_s - _SHORTEST_IDLE_S, 0))
        self._wake.clear()

    async def _target(self) -> str:
        # One relay for each ClickHouse, however many share one PostgreSQL.
        return f"relay:{await target(self._clickhouse)}"
