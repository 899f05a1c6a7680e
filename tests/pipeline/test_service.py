"""The pipeline as a whole: it starts, keeps up, and ends clean."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from uuid import uuid4

import asyncpg
import pytest
from clickhouse_connect.driver.client import Client
from pydantic import SecretStr

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import Settings
from app.pipeline import service
from app.pipeline.service import Pipeline
from tests.pipeline import clickhouse_http
from tests.pipeline.outbox_run import column, eventually
from tests.pipeline.payloads import record_events

# A stop that has nothing to wait for must not use up the time there is for draining.
DRAIN_S = 5.0


@pytest.fixture
async def pipeline(
    database: Database, clickhouse: ClickHouse, settings: Settings, metrics: Metrics
) -> AsyncIterator[Pipeline]:
    """A pipeline that runs and has a watermark."""
    started = Pipeline(database, clickhouse, settings, metrics)
    await started.start()
    await eventually(lambda: _is_known(started))
    yield started
    await started.stop()


async def test_pipeline__running__watermark_reaches_every_row(
    clickhouse: ClickHouse, postgres: asyncpg.Connection, pipeline: Pipeline
) -> None:
    for _ in range(3):
        await record_events(postgres, [uuid4() for _ in range(100)])
        newest = await postgres.fetchval("SELECT max(ingested_at) FROM events")
        await eventually(partial(_has_passed, pipeline, newest))

    assert await column(clickhouse, "SELECT uniqExact(event_id) FROM events") == [300]


async def test_pipeline__stopped__has_relayed_what_was_committed(
    clickhouse: ClickHouse, postgres: asyncpg.Connection, pipeline: Pipeline
) -> None:
    await record_events(postgres, [uuid4() for _ in range(500)])

    await pipeline.stop()

    assert await column(clickhouse, "SELECT uniqExact(event_id) FROM events") == [500]


async def test_pipeline__transaction_that_never_ends__stops_all_the_same(
    postgres: asyncpg.Connection, pipeline: Pipeline
) -> None:
    transaction = postgres.transaction()
    await transaction.start()
    await record_events(postgres, [uuid4()])
    began = time.monotonic()

    await pipeline.stop()

    assert time.monotonic() - began < DRAIN_S
    await transaction.rollback()


async def test_pipeline__idle__writes_one_heartbeat(postgres: asyncpg.Connection, pipeline: Pipeline) -> None:
    await asyncio.sleep(1)
    await pipeline.stop()

    assert await postgres.fetchval("SELECT count(*) FROM outbox_events") == 1


async def test_pipeline__servers_away_at_start__starts_and_stops(
    settings: Settings, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLICKHOUSE_HOST", "127.0.0.1")
    monkeypatch.setenv("CLICKHOUSE_PORT", "9")  # Nobody listens on the discard port.
    away = Settings.from_environment()
    database = Database.connect("postgresql+asyncpg://nobody@127.0.0.1:9/none", pool_size=2)
    clickhouse = await ClickHouse.connect_server(away.clickhouse)
    pipeline = Pipeline(database, clickhouse, settings, metrics)

    await pipeline.start()
    await asyncio.sleep(0.5)
    began = time.monotonic()
    await pipeline.stop()

    assert time.monotonic() - began < DRAIN_S
    await clickhouse.close()
    await database.close()


async def test_pipeline__new_clickhouse_away_at_start__is_filled_once_it_is_there(
    database: Database,
    postgres: asyncpg.Connection,
    settings: Settings,
    metrics: Metrics,
    connect_engine: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    monkeypatch.setattr(service, "_MAKE_TABLES_EVERY_S", 0.2)
    server = settings.clickhouse.model_copy(
        update={
            "host": "127.0.0.1",
            "port": port,
            "database": f"late_{uuid4().hex}",
            "user": clickhouse_http.USER,
            "password": SecretStr(clickhouse_http.PASSWORD),
        }
    )
    clickhouse = await ClickHouse.connect_server(server)
    pipeline = Pipeline(database, clickhouse, replace(settings, clickhouse=server), metrics)
    await pipeline.start()
    await record_events(postgres, [uuid4() for _ in range(100)])
    await asyncio.sleep(0.5)

    with clickhouse_http.serving(connect_engine, port=port):
        await eventually(lambda: _is_known(pipeline))
        assert await column(clickhouse, "SELECT uniqExact(event_id) FROM events") == [100]
        await pipeline.stop()
        await clickhouse.command(f"DROP DATABASE {clickhouse.database} SYNC")
    await clickhouse.close()


async def test_pipeline__kafka_configured__does_not_relay(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka:9092")
    monkeypatch.setenv("HEARTBEAT_SECONDS", "0.05")
    pipeline = Pipeline(database, clickhouse, Settings.from_environment(), metrics)
    await pipeline.start()
    await record_events(postgres, [uuid4()])

    await eventually(lambda: _has_heartbeats(postgres))
    await pipeline.stop()

    assert await column(clickhouse, "SELECT count() FROM events") == [0]
    assert await column(clickhouse, "SELECT count() FROM heartbeats") == [0]


async def _is_known(pipeline: Pipeline) -> bool:
    return await pipeline.watermark() is not None


async def _has_passed(pipeline: Pipeline, moment: datetime) -> bool:
    proven = await pipeline.watermark()
    return proven is not None and proven > moment


async def _has_heartbeats(postgres: asyncpg.Connection) -> bool:
    count = await postgres.fetchval("SELECT count(*) FROM outbox_events WHERE type = 'heartbeat.beat'")
    return bool(count)
