"""The pipeline as the service runs it: its tasks, their start and their end."""

import asyncio
import contextlib
from datetime import datetime

import structlog

from app.core.clickhouse import ClickHouse
from app.core.clock import Clock, utc_now
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import Settings
from app.pipeline.gauges import Gauges
from app.pipeline.lanes import RELAY_LANES, kafka_lanes
from app.pipeline.loader import Loader
from app.pipeline.maintenance import Maintenance, delivered_by_kafka, delivered_by_relay
from app.pipeline.relay import Relay
from app.pipeline.watermark import Heartbeat, watermark

log = structlog.get_logger()

# What is left in the outbox after that is relayed at the next start.
_DRAIN_S = 5.0


class Pipeline:
    """Owns the relay, the heartbeat, maintenance and the gauges.

    Where Kafka is configured there is no relay: Debezium and the loader do its work. The tables of ClickHouse
    are made before, by `schema.migrate`.
    """

    def __init__(
        self,
        database: Database,
        clickhouse: ClickHouse,
        settings: Settings,
        metrics: Metrics,
        *,
        clock: Clock = utc_now,
    ) -> None:
        self._clickhouse = clickhouse
        relays = settings.kafka.bootstrap_servers is None
        loader = Loader(clickhouse, metrics, clock=clock)
        self._lanes = RELAY_LANES if relays else kafka_lanes()
        self._relay = Relay(database, clickhouse, loader, settings.pipeline, clock=clock) if relays else None
        self._heartbeat = Heartbeat(database, clickhouse, settings.pipeline, lanes=self._lanes)
        self._maintenance = Maintenance(
            database,
            settings.pipeline,
            delivered_by_relay(clickhouse) if relays else delivered_by_kafka(clickhouse, self._lanes),
            clock=clock,
        )
        self._gauges = Gauges(database, clickhouse, metrics, relay=relays, lanes=self._lanes, clock=clock)
        self._relaying: asyncio.Task[None] | None = None
        self._helpers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start all tasks; servers that are away are waited for, not complained about."""
        if self._relay is not None:
            self._relaying = asyncio.create_task(self._relay.run(), name="pipeline-relay")
        self._helpers = [
            asyncio.create_task(self._heartbeat.run(), name="pipeline-heartbeat"),
            asyncio.create_task(self._maintenance.run(), name="pipeline-maintenance"),
            asyncio.create_task(self._gauges.run(), name="pipeline-gauges"),
        ]

    async def stop(self) -> None:
        """Bring what is committed to ClickHouse, for a few seconds at most, and end all tasks."""
        if self._relay is not None and self._relaying is not None and self._relay.working:
            self._relay.stop()
            _, late = await asyncio.wait([self._relaying], timeout=_DRAIN_S)
            if late:
                log.warning("pipeline.not_drained", after_s=_DRAIN_S)
        tasks = [task for task in (self._relaying, *self._helpers) if task is not None]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def nudge(self) -> None:
        """Relay what is new now rather than after the idle wait."""
        if self._relay is not None:
            self._relay.nudge()

    async def watermark(self) -> datetime | None:
        """Return the ingestion time up to which ClickHouse is complete, or `None` if that is not known.

        Raises:
            ClickHouseUnavailable: it cannot be reached.
        """
        return await watermark(self._clickhouse, self._lanes)
