"""The answer about the pipeline comes in time, whatever is away, and says what it does not know."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import PipelineSettings, Settings
from app.pipeline.gauges import Gauges
from app.pipeline.lanes import RELAY_LANES, kafka_lanes
from app.pipeline.loader import Loader
from app.pipeline.marker import Standing
from app.pipeline.messages import Message
from app.pipeline.reconciliation import Reconciliation
from app.pipeline.status import Mode, StatusReader
from app.pipeline.watermark import Heartbeat
from tests.pipeline.outbox_run import drain
from tests.pipeline.payloads import record_events

AWAY = "postgresql+asyncpg://nobody@127.0.0.1:9/none"
IN_TIME_S = 2.0


def _reader(database: Database, clickhouse: ClickHouse, *, brokers: str | None = None) -> StatusReader:
    async def group() -> str:
        return "experiments-loader"

    lanes = RELAY_LANES if brokers is None else kafka_lanes()
    return StatusReader(database, clickhouse, lanes=lanes, standing=Standing(database), brokers=brokers, group=group)


@pytest.fixture
async def nobody() -> AsyncIterator[Database]:
    database = Database.connect(AWAY, pool_size=2)
    yield database
    await database.close()


@asynccontextmanager
async def _silent_server() -> AsyncIterator[int]:
    """Accept connections and never say a word, as a server does whose machine hangs."""
    held: list[asyncio.StreamWriter] = []

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await asyncio.Event().wait()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for writer in held:
            writer.close()
        server.close()


async def test_status__all_there__says_it(
    database: Database,
    clickhouse: ClickHouse,
    loader: Loader,
    metrics: Metrics,
    postgres: asyncpg.Connection,
    pipeline_settings: PipelineSettings,
) -> None:
    await Reconciliation(database, clickhouse, loader, pipeline_settings, metrics).round(postgres)
    moment = await Heartbeat(database, clickhouse, pipeline_settings).beat(postgres)
    await loader.load([Message(uuid4(), "event", "nonsense", b"{}")])
    await drain(database, clickhouse)
    await record_events(postgres, [uuid4() for _ in range(7)])

    status = await _reader(database, clickhouse).read()

    assert (status.mode, status.watermark) == (Mode.RELAY, moment)
    assert status.outbox is not None
    assert status.outbox.backlog_rows == 7
    assert status.dead_letters is not None
    assert status.dead_letters.count == 1
    assert status.dead_letters.newest_at is not None
    assert status.reconciliation is not None
    assert status.reconciliation.proven


async def test_status__clickhouse_away__tells_what_postgresql_knows(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLICKHOUSE_HOST", "127.0.0.1")
    monkeypatch.setenv("CLICKHOUSE_PORT", "9")
    clickhouse = await ClickHouse.connect_server(Settings.from_environment().clickhouse)

    status = await _reader(database, clickhouse).read()

    assert not status.clickhouse.reachable
    assert status.watermark is None
    assert status.outbox is not None
    assert status.outbox.backlog_rows is None
    assert status.reasons["watermark"] == status.reasons["dead_letters"] == "ClickHouse does not answer"
    await clickhouse.close()


async def test_status__postgresql_away__tells_what_clickhouse_knows(clickhouse: ClickHouse, nobody: Database) -> None:
    status = await _reader(nobody, clickhouse).read()

    assert status.clickhouse.reachable
    assert status.dead_letters is not None
    assert (status.outbox, status.slot, status.reconciliation) == (None, None, None)
    assert status.reasons["outbox"] == status.reasons["reconciliation"] == "PostgreSQL does not answer"


async def test_status__every_server_hangs__answers_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _silent_server() as port:
        monkeypatch.setenv("CLICKHOUSE_HOST", "127.0.0.1")
        monkeypatch.setenv("CLICKHOUSE_PORT", str(port))
        clickhouse = await ClickHouse.connect_server(Settings.from_environment().clickhouse)
        database = Database.connect(f"postgresql+asyncpg://nobody@127.0.0.1:{port}/none", pool_size=2)
        began_s = time.monotonic()

        status = await _reader(database, clickhouse, brokers=f"127.0.0.1:{port}").read()

        assert time.monotonic() - began_s < IN_TIME_S
        assert status.mode is Mode.KAFKA
        assert status.reasons["consumer_lag"] == "Kafka does not answer"
        assert status.reasons["slot"] == "PostgreSQL does not answer"
        assert status.reasons["watermark"] == "ClickHouse does not answer"
    await database.close()
    await clickhouse.close()


async def test_status__postgresql_alone_hangs__answers_in_time_what_clickhouse_knows(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    pipeline_settings: PipelineSettings,
    loader: Loader,
    metrics: Metrics,
) -> None:
    await Reconciliation(database, clickhouse, loader, pipeline_settings, metrics).round(postgres)
    await Heartbeat(database, clickhouse, pipeline_settings).beat(postgres)
    await drain(database, clickhouse)
    async with _silent_server() as port:
        hanging = Database.connect(f"postgresql+asyncpg://nobody@127.0.0.1:{port}/none", pool_size=2)
        began_s = time.monotonic()

        status = await _reader(hanging, clickhouse).read()

        assert time.monotonic() - began_s < IN_TIME_S
        assert status.clickhouse.reachable
        assert status.dead_letters is not None
        assert status.watermark is None
        assert status.reasons["watermark"] == status.reasons["outbox"] == "PostgreSQL does not answer"
    await hanging.close()


async def test_status__slot_left_behind__shows_what_it_retains(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection, metrics: Metrics
) -> None:
    name = f"slot_{uuid4().hex}"
    await postgres.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", name)
    try:
        await record_events(postgres, [uuid4() for _ in range(100)])

        status = await _reader(database, clickhouse).read()
        await Gauges(database, clickhouse, metrics, relay=True).refresh()

        assert status.slot is not None
        assert (status.slot.name, status.slot.active, status.slot.wal_status) == (name, False, "reserved")
        assert status.slot.retained_bytes > 0
        assert status.slot.confirmed_flush_lag_bytes > 0
        value = metrics.registry.get_sample_value
        assert value("replication_slot_active", {"slot": name}) == 0
        assert value("replication_slot_wal_status", {"slot": name, "status": "reserved"}) == 1
        assert value("replication_slot_wal_status", {"slot": name, "status": "lost"}) == 0
        assert (value("replication_slot_retained_bytes", {"slot": name}) or 0) > 0
    finally:
        await postgres.execute("SELECT pg_drop_replication_slot($1)", name)
    await Gauges(database, clickhouse, metrics, relay=True).refresh()
    assert metrics.registry.get_sample_value("replication_slot_active", {"slot": name}) is None


async def test_gauges__behind_kafka__take_the_oldest_age_from_the_watermark(
    database: Database, clickhouse: ClickHouse, loader: Loader, metrics: Metrics
) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    for lane in kafka_lanes():
        payload = (
            f'{{"schema_version": 1, "lane": {lane.number}, "beat": 1, "watermark": "{noon.isoformat()}",'
            f' "ingested_at": "{noon.isoformat()}"}}'
        )
        await loader.load([Message(uuid4(), "heartbeat", "heartbeat.beat", payload.encode())])

    gauges = Gauges(
        database, clickhouse, metrics, relay=False, lanes=kafka_lanes(), clock=lambda: noon + timedelta(seconds=90)
    )
    await gauges.refresh()

    assert metrics.registry.get_sample_value("outbox_oldest_age_seconds") == 90
    backlog = metrics.registry.get_sample_value("outbox_backlog_rows")
    assert backlog is not None
    assert backlog != backlog  # Not a number: nobody knows.  # noqa: PLR0124
