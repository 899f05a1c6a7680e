"""How far ClickHouse is behind, and how the pipeline stands, in numbers that alerts can watch."""

import asyncio
import math
from collections.abc import Iterable, Sequence

import structlog

from app.core.clickhouse import ClickHouse, ClickHouseRefused
from app.core.clock import Clock, utc_now
from app.core.db import Database
from app.core.errors import Unavailable
from app.core.metrics import Metrics
from app.pipeline.lanes import RELAY_LANES, Lane
from app.pipeline.marker import Marker, find_marker
from app.pipeline.positions import START, Positions, relay_name
from app.pipeline.soundings import Slot, Soundings
from app.pipeline.watermark import watermark

log = structlog.get_logger()

_EVERY_S = 5.0
# Source: PostgreSQL documentation, "pg_replication_slots".
_WAL_STATES = ("reserved", "extended", "unreserved", "lost")


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
        self._marker: Marker | None = None

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            try:
                await self.refresh()
            except Exception:  # The outermost loop: the gauges must outlive every failure.
                log.exception("pipeline.gauges_failed")
            await asyncio.sleep(_EVERY_S)

    async def refresh(self) -> None:
        """Set every gauge whose source answers; neither server is kept waiting for the other."""
        relay = await self._ask_postgres()
        await self._ask_clickhouse(relay)
        # It rises also while nobody answers.
        self._metrics.watermark_lag.set((self._clock() - self._watermark).total_seconds())
        await self._ask_postgres_of_the_rest()

    async def _ask_postgres(self) -> str | None:
        """Show what PostgreSQL knows, and return the name of the relay in it."""
        try:
            async with self._database.read() as connection:
                soundings = Soundings(connection)
                for table, count in (await soundings.strays()).items():
                    self._metrics.default_partition_rows.labels(table=table).set(count)
                self._show_slots(await soundings.slots())
                return await relay_name((await connection.get_raw_connection()).driver_connection)
        except Unavailable:
            return None  # The relay and the heartbeat warn of it.

    async def _ask_clickhouse(self, relay: str | None) -> None:
        try:
            self._watermark = await watermark(self._clickhouse, self._lanes) or self._watermark
            self._marker = await find_marker(self._clickhouse)
            if self._relay and relay is not None:
                self._position = await Positions(self._clickhouse, relay).get()
        except (Unavailable, ClickHouseRefused):
            pass  # Likewise; and a server that was away from the start has no tables yet.

    async def _ask_postgres_of_the_rest(self) -> None:
        """Show what PostgreSQL knows of the history and the position that ClickHouse spoke of."""
        try:
            async with self._database.read() as connection:
                soundings = Soundings(connection)
                await self._show_reconciliation(soundings)
                await self._show_backlog(soundings)
        except Unavailable:
            pass  # Likewise.

    async def _show_backlog(self, soundings: Soundings) -> None:
        if self._relay:
            backlog = await soundings.backlog(self._position)
            self._metrics.outbox_backlog.set(backlog.row_count)
            self._metrics.outbox_oldest.set(backlog.oldest_age_s)
        else:
            # Which of its rows Kafka has passed on the outbox does not know. Whatever is older than W has arrived.
            self._metrics.outbox_backlog.set(math.nan)
            self._metrics.outbox_oldest.set(max((self._clock() - self._watermark).total_seconds(), 0))

    def _show_slots(self, slots: Iterable[Slot]) -> None:
        metrics = self._metrics
        # One that was dropped must not be shown any more.
        for gauge in (metrics.slot_retained, metrics.slot_flush_lag, metrics.slot_active, metrics.slot_wal_status):
            gauge.clear()
        for slot in slots:
            metrics.slot_retained.labels(slot=slot.name).set(slot.retained_bytes)
            metrics.slot_flush_lag.labels(slot=slot.name).set(slot.confirmed_flush_lag_bytes)
            metrics.slot_active.labels(slot=slot.name).set(slot.active)
            for status in _WAL_STATES:
                metrics.slot_wal_status.labels(slot=slot.name, status=status).set(slot.wal_status == status)

    async def _show_reconciliation(self, soundings: Soundings) -> None:
        """Every process shows the same, whichever of them compares."""
        reconciled = None if self._marker is None else await soundings.reconciled(self._marker.id)
        if reconciled is None:
            return
        self._metrics.mismatched_rows.set(reconciled.missing_rows + reconciled.extra_rows)
        if reconciled.reconciled_at is not None:
            self._metrics.reconciled.set(reconciled.reconciled_at.timestamp())
        if reconciled.reconciled_until is not None:
            self._metrics.reconciled_until.set(reconciled.reconciled_until.timestamp())
