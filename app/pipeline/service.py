"""The pipeline as the service runs it: its tasks, their start and their end."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial

import structlog

from app.core.clickhouse import ClickHouse, ClickHouseRefused, ClickHouseUnavailable
from app.core.clock import Clock, utc_now
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import Settings
from app.pipeline import schema
from app.pipeline.consumer import Consumer, own_group
from app.pipeline.events_retention import EventsRetention
from app.pipeline.gauges import Gauges
from app.pipeline.history_retention import HistoryRetention
from app.pipeline.lanes import RELAY_LANES, kafka_lanes
from app.pipeline.loader import Loader
from app.pipeline.maintenance import Maintenance, delivered_by_kafka, delivered_by_relay
from app.pipeline.marker import Standing, find_marker
from app.pipeline.reconciliation import Reconciliation
from app.pipeline.relay import Relay
from app.pipeline.rollups import RollupBuilder
from app.pipeline.status import Status, StatusReader
from app.pipeline.watermark import Heartbeat, watermark

log = structlog.get_logger()

# What is left in the outbox, or in Kafka, after that is brought at the next start.
_DRAIN_S = 5.0
# For leaving Kafka in good order, on top of that.
_STOP_S = _DRAIN_S + 3.0
# How soon a ClickHouse that was away at the start is found.
_MAKE_TABLES_EVERY_S = 5.0


class Pipeline:
    """Owns what brings rows to ClickHouse, the heartbeat, reconciliation, maintenance and the gauges.

    Where Kafka is configured there is no relay: Debezium does its work, and a consumer the rest. The consumer is in
    this process where ClickHouse's engine is; with a ClickHouse server it is a process of its own
    (`app.workers.loader`). What reads or fills ClickHouse's tables begins once they are made.
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
        brokers = settings.kafka.bootstrap_servers
        relays = brokers is None
        self._lanes = RELAY_LANES if relays else kafka_lanes()
        self._relay: Relay | None = None
        self._consumer: Consumer | None = None
        loader = Loader(clickhouse, metrics, clock=clock)
        if brokers is None:
            self._relay = Relay(database, clickhouse, loader, settings.pipeline, clock=clock)
        elif settings.clickhouse.host is None:
            self._consumer = Consumer(brokers, clickhouse, settings.loader, metrics, drain_s=_DRAIN_S)
        self._heartbeat = Heartbeat(database, clickhouse, settings.pipeline, lanes=self._lanes)
        self._standing = Standing(database)
        self._reconciliation = Reconciliation(
            database, clickhouse, loader, settings.pipeline, metrics, lanes=self._lanes
        )
        events_days = settings.pipeline.events_retention_days
        retention_days = settings.pipeline.history_retention_days
        self._maintenance = Maintenance(
            database,
            settings.pipeline,
            delivered_by_relay(clickhouse) if relays else delivered_by_kafka(clickhouse, self._lanes),
            events=None if events_days is None else EventsRetention(clickhouse, events_days, clock=clock),
            history=None if retention_days is None else HistoryRetention(clickhouse, retention_days, clock=clock),
            clock=clock,
        )
        self._rollups: RollupBuilder | None = None
        if settings.pipeline.rollups_enabled:
            self._rollups = RollupBuilder(database, clickhouse, settings.pipeline, metrics, self.watermark, clock=clock)
        self._gauges = Gauges(database, clickhouse, metrics, relay=relays, lanes=self._lanes, clock=clock)
        self._status = StatusReader(
            database,
            clickhouse,
            lanes=self._lanes,
            standing=self._standing,
            brokers=brokers,
            group=partial(own_group, clickhouse, settings.loader),
            clock=clock,
        )
        self._bringing: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._has_tables = asyncio.Event()

    async def start(self) -> None:
        """Start all tasks; servers that are away are waited for, not complained about.

        Raises:
            SchemaError, ClickHouseRefused: ClickHouse is there, and its tables cannot be made as they should be.
        """
        try:
            await self._make_tables()
        except ClickHouseUnavailable as error:
            log.warning("clickhouse.unavailable_at_start", error=error.detail)
            self._tasks.append(asyncio.create_task(self._make_tables_later(), name="pipeline-tables"))
        if (bringer := self._relay or self._consumer) is not None:
            self._bringing = asyncio.create_task(self._with_tables(bringer.run), name="pipeline-bringer")
        waiting = {"heartbeat": self._heartbeat.run, "reconciliation": self._reconciliation.run}
        if self._rollups is not None:
            waiting["rollups"] = self._rollups.run
        self._tasks += [
            *(asyncio.create_task(self._with_tables(run), name=f"pipeline-{name}") for name, run in waiting.items()),
            asyncio.create_task(self._maintenance.run(), name="pipeline-maintenance"),
            asyncio.create_task(self._gauges.run(), name="pipeline-gauges"),
        ]

    async def _make_tables(self) -> None:
        await schema.migrate(self._clickhouse)
        self._has_tables.set()

    async def _make_tables_later(self) -> None:
        while not self._has_tables.is_set():
            await asyncio.sleep(_MAKE_TABLES_EVERY_S)
            try:
                await self._make_tables()
            except ClickHouseUnavailable:
                continue
            except (schema.SchemaError, ClickHouseRefused):
                log.exception("clickhouse.not_migrated")
            else:
                log.info("clickhouse.available")

    async def _with_tables(self, run: Callable[[], Awaitable[None]]) -> None:
        await self._has_tables.wait()
        await run()

    async def stop(self) -> None:
        """Bring what is committed to ClickHouse, for a few seconds at most, and end all tasks."""
        bringer = self._relay or self._consumer
        if bringer is not None and self._bringing is not None and bringer.working:
            bringer.stop()
            _, late = await asyncio.wait([self._bringing], timeout=_STOP_S)
            if late:
                log.warning("pipeline.not_drained", after_s=_STOP_S)
        tasks = [task for task in (self._bringing, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def nudge(self) -> None:
        """Relay what is new now rather than after the idle wait."""
        if self._relay is not None:
            self._relay.nudge()

    async def status(self) -> Status:
        """Return how everything stands, as far as it can be told within two seconds."""
        return await self._status.read()

    async def watermark(self) -> datetime | None:
        """Return the ingestion time up to which ClickHouse is complete, or `None` if that is not known.

        Raises:
            ClickHouseUnavailable: it cannot be reached.
        """
        if not self._has_tables.is_set():
            return None
        moment, marker = await asyncio.gather(watermark(self._clickhouse, self._lanes), find_marker(self._clickhouse))
        return moment if await self._standing.is_proven(marker) else None
