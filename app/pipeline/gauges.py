"""How far ClickHouse is behind, in numbers that alerts can watch."""

import asyncio
from collections.abc import Sequence

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.clickhouse import ClickHouse
from app.core.clock import Clock, utc_now
from app.core.db import Database
from app.core.errors import Unavailable
from app.core.metrics import Metrics
from app.pipeline.lanes import RELAY_LANES, Lane
from app.pipeline.positions import START, Position, Positions, relay_name
from app.pipeline.watermark import watermark

log = structlog.get_logger()

_EVERY_S = 5.0
# Counting must stay cheap when the backlog is long; an alert goes off far below.
_MOST_COUNTED = 100_000

_BACKLOG = text("""
SELECT count(*) AS row_count,
    coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest_age_s
FROM (
    SELECT created_at FROM outbox_events
    WHERE (xid, seq) > (CAST(CAST(:xid AS text) AS xid8), CAST(:seq AS bigint))
    ORDER BY xid, seq LIMIT :most
) AS waiting
""")
_STRAYS = text(
    "SELECT (SELECT count(*) FROM events_default) AS events,"
    " (SELECT count(*) FROM outbox_events_default) AS outbox_events"
)


class Gauges:
    """Keeps the gauges of the pipeline true, also while PostgreSQL or ClickHouse is away.

    What ClickHouse last said then stands, so that a backlog is seen to grow.
    """

    def __init__(
        self,
        database: Database,
        clickhouse: ClickHouse,
        metrics: Metrics,
        *,
        relay: bool,
        lanes: Sequence[Lane] = RELAY_LANES,
        clock: Clock = utc_now,
    ) -> None:
        self._database = database
        self._clickhouse = clickhouse
        self._metrics = metrics
        self._relay = relay
        self._lanes = lanes
        self._clock = clock
        self._position = START
        self._watermark = clock()

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            try:
                await self.refresh()
            except Exception:  # The outermost loop: the gauges must outlive every failure.
                log.exception("pipeline.gauges_failed")
            await asyncio.sleep(_EVERY_S)

    async def refresh(self) -> None:
        """Set every gauge whose source answers."""
        try:
            async with self._database.read() as connection:
                await self._refresh_from(connection)
        except Unavailable:
            pass  # The relay and the heartbeat warn of it.

    async def _refresh_from(self, connection: AsyncConnection) -> None:
        strays = (await connection.execute(_STRAYS)).mappings().one()
        for table, count in strays.items():
            self._metrics.default_partition_rows.labels(table=table).set(count)
        await self._ask_clickhouse(connection)
        self._metrics.watermark_lag.set((self._clock() - self._watermark).total_seconds())
        if self._relay:
            await self._count_backlog(connection, self._position)

    async def _ask_clickhouse(self, connection: AsyncConnection) -> None:
        try:
            self._watermark = await watermark(self._clickhouse, self._lanes) or self._watermark
            if self._relay:
                driver = (await connection.get_raw_connection()).driver_connection
                self._position = await Positions(self._clickhouse, await relay_name(driver)).get()
        except Unavailable:
            pass  # Likewise.

    async def _count_backlog(self, connection: AsyncConnection, position: Position) -> None:
        values = {"xid": str(position.xid), "seq": position.seq, "most": _MOST_COUNTED}
        waiting = (await connection.execute(_BACKLOG, values)).mappings().one()
        self._metrics.outbox_backlog.set(waiting["row_count"])
        self._metrics.outbox_oldest.set(waiting["oldest_age_s"])
