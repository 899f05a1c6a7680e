"""Partitions are there in time, nothing stays in DEFAULT, and the outbox is dropped only when delivered."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import PipelineSettings
from app.pipeline import dropped_duplicates
from app.pipeline.gauges import Gauges
from app.pipeline.maintenance import Maintenance, delivered_by_kafka, delivered_by_relay
from app.pipeline.watermark import Heartbeat
from tests.pipeline.outbox_run import drain
from tests.pipeline.payloads import record_events

PARTITIONS = "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::regclass"
OLD_DAYS = 10
# The wait for the lock, and as much again as a busy machine may add.
LOCK_WAIT_S = 1.0
INSERT_DATED = (
    "INSERT INTO outbox_events (aggregatetype, aggregateid, type, payload, created_at)"
    " VALUES ('event', 'u', 'event.recorded', '{}', $1)"
)


@pytest.fixture
def maintenance(database: Database, clickhouse: ClickHouse, pipeline_settings: PipelineSettings) -> Maintenance:
    return Maintenance(database, pipeline_settings, delivered_by_relay(clickhouse))


@pytest.fixture
async def old_day(postgres: asyncpg.Connection) -> str:
    """The name of an outbox partition older than the retention, with a row in it."""
    start = _day(-OLD_DAYS)
    name = f"outbox_events_p{start:%Y%m%d}"
    await postgres.execute(
        "SELECT make_partition('outbox_events', $1, $2, $3, 'created_at')", name, start, start + timedelta(days=1)
    )
    await postgres.execute(INSERT_DATED, start + timedelta(hours=1))
    return name


async def test_tidy__partition_missing_ahead__makes_it(postgres: asyncpg.Connection, maintenance: Maintenance) -> None:
    tomorrow = f"outbox_events_p{_day(1):%Y%m%d}"
    await postgres.execute(f"DROP TABLE {tomorrow}")

    await maintenance.tidy(postgres)

    assert tomorrow in await _partitions(postgres, "outbox_events")


async def test_tidy__rows_in_default__gives_them_their_partitions_and_keeps_their_order(
    postgres: asyncpg.Connection, maintenance: Maintenance
) -> None:
    for offset in (30, 31, 30):
        await postgres.execute(INSERT_DATED, _day(offset) + timedelta(hours=23, minutes=59))
    await postgres.execute(
        "INSERT INTO events (project_id, event_id, user_id, event_type, ts, ingested_at)"
        " VALUES (1, gen_random_uuid(), 'u', 'view', now(), '2031-05-31 23:59:59.999999Z')"
    )
    before = await postgres.fetch("SELECT id, xid::text, seq, created_at FROM outbox_events ORDER BY xid, seq")

    await maintenance.tidy(postgres)

    assert await postgres.fetchval("SELECT count(*) FROM outbox_events_default") == 0
    assert await postgres.fetchval("SELECT count(*) FROM events_default") == 0
    assert await postgres.fetchval("SELECT count(*) FROM events_p203105") == 1
    assert f"outbox_events_p{_day(31):%Y%m%d}" in await _partitions(postgres, "outbox_events")
    assert before == await postgres.fetch("SELECT id, xid::text, seq, created_at FROM outbox_events ORDER BY xid, seq")


async def test_tidy__rows_that_count_the_same_duplicates__become_one(
    postgres: asyncpg.Connection, maintenance: Maintenance
) -> None:
    for experiment_id in (None, 7, None, 7, 8, None):
        await postgres.execute(
            "INSERT INTO dropped_duplicates VALUES (1, $1, 'view', '2026-03-01 12:00Z', clock_timestamp(), 5)",
            experiment_id,
        )

    await maintenance.tidy(postgres)

    counted = await postgres.fetch("SELECT experiment_id, events FROM dropped_duplicates ORDER BY 1")
    assert [tuple(row) for row in counted] == [(7, 10), (8, 5), (None, 15)]


async def test_tidy__counts_of_duplicates_take_too_long__postpones_them(
    postgres: asyncpg.Connection,
    maintenance: Maintenance,
    connect: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dropped_duplicates, "_TIMEOUT_S", 0.1)
    other = await connect()

    async with other.transaction():
        await other.execute("LOCK TABLE dropped_duplicates IN ACCESS EXCLUSIVE MODE")
        await maintenance.tidy(postgres)

    await maintenance.tidy(postgres)


async def test_tidy__index_that_a_migration_left__drops_it_once_nobody_reads(
    postgres: asyncpg.Connection, maintenance: Maintenance, connect: Callable[..., Any]
) -> None:
    await postgres.execute("CREATE INDEX ix_events_value_superseded ON events (value)")
    left = (
        "SELECT count(*) FROM pg_class WHERE relname = 'ix_events_value_superseded' OR relname LIKE 'events%value_idx'"
    )
    reader = await connect()

    async with reader.transaction():
        await reader.execute("SELECT FROM events LIMIT 1")
        await maintenance.tidy(postgres)
        assert await postgres.fetchval(left) > 1

    await maintenance.tidy(postgres)
    assert await postgres.fetchval(left) == 0


async def test_tidy__old_outbox_day_not_relayed__keeps_it(
    postgres: asyncpg.Connection, maintenance: Maintenance, old_day: str
) -> None:
    await maintenance.tidy(postgres)

    assert old_day in await _partitions(postgres, "outbox_events")


async def test_tidy__old_outbox_day_relayed__drops_it(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    maintenance: Maintenance,
    old_day: str,
) -> None:
    await drain(database, clickhouse)

    await maintenance.tidy(postgres)

    assert old_day not in await _partitions(postgres, "outbox_events")


async def test_tidy__old_outbox_day_with_a_writer_at_work__postpones_it(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    connect: Callable[..., Any],
    maintenance: Maintenance,
    old_day: str,
) -> None:
    await drain(database, clickhouse)
    writer = await connect()
    transaction = writer.transaction()
    await transaction.start()
    await writer.execute(INSERT_DATED, _day(-OLD_DAYS) + timedelta(hours=2))

    await maintenance.tidy(postgres)
    assert old_day in await _partitions(postgres, "outbox_events")

    await transaction.commit()
    await maintenance.tidy(postgres)
    assert old_day in await _partitions(postgres, "outbox_events"), "the new row is not in ClickHouse yet"


async def test_tidy__somebody_keeps_the_outbox_open__writers_hardly_wait(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    connect: Callable[..., Any],
    maintenance: Maintenance,
    old_day: str,
) -> None:
    await drain(database, clickhouse)
    reader, writer = await connect(), await connect()
    waits_s = []
    async with reader.transaction():
        await reader.execute("SELECT FROM outbox_events LIMIT 1")
        tidying = asyncio.create_task(maintenance.tidy(postgres))
        while not tidying.done():
            began_s = time.monotonic()
            await record_events(writer, [uuid4()])
            waits_s.append(time.monotonic() - began_s)
            await asyncio.sleep(0.01)
        await tidying
    assert old_day in await _partitions(postgres, "outbox_events")
    assert max(waits_s) < LOCK_WAIT_S

    await maintenance.tidy(postgres)
    assert old_day not in await _partitions(postgres, "outbox_events")


async def test_tidy__day_within_the_retention__keeps_it(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    maintenance: Maintenance,
) -> None:
    await record_events(postgres, [uuid4()])
    await drain(database, clickhouse)
    before = await _partitions(postgres, "outbox_events")

    await maintenance.tidy(postgres)

    assert await _partitions(postgres, "outbox_events") == before


async def test_tidy__behind_kafka__drops_a_day_that_the_watermark_has_passed(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    pipeline_settings: PipelineSettings,
    old_day: str,
) -> None:
    maintenance = Maintenance(database, pipeline_settings, delivered_by_kafka(clickhouse))
    await maintenance.tidy(postgres)
    assert old_day in await _partitions(postgres, "outbox_events")
    await Heartbeat(database, clickhouse, pipeline_settings).beat(postgres)
    await drain(database, clickhouse)

    await maintenance.tidy(postgres)

    assert old_day not in await _partitions(postgres, "outbox_events")


async def test_gauges__rows_waiting__says_how_many_and_how_old(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection, metrics: Metrics
) -> None:
    gauges = Gauges(database, clickhouse, metrics, relay=True)
    await record_events(postgres, [uuid4() for _ in range(12)])
    await postgres.execute(INSERT_DATED, _day(60))
    await asyncio.sleep(0.05)

    await gauges.refresh()
    assert _value(metrics, "outbox_backlog_rows") == 13
    assert 0.05 <= _value(metrics, "outbox_oldest_age_seconds") < 60
    assert _value(metrics, "default_partition_rows", table="outbox_events") == 1
    assert _value(metrics, "default_partition_rows", table="events") == 0

    await drain(database, clickhouse)
    await gauges.refresh()
    assert _value(metrics, "outbox_backlog_rows") == 0
    assert _value(metrics, "outbox_oldest_age_seconds") == 0


async def test_gauges__watermark_known__says_its_age(
    database: Database,
    clickhouse: ClickHouse,
    metrics: Metrics,
    postgres: asyncpg.Connection,
    pipeline_settings: PipelineSettings,
) -> None:
    moment = await Heartbeat(database, clickhouse, pipeline_settings).beat(postgres)
    await drain(database, clickhouse)

    gauges = Gauges(database, clickhouse, metrics, relay=True, clock=lambda: moment + timedelta(seconds=42))
    await gauges.refresh()

    assert _value(metrics, "watermark_lag_seconds") == 42


def _day(offset: int) -> datetime:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today + timedelta(days=offset)


async def _partitions(postgres: asyncpg.Connection, table: str) -> set[str]:
    return {row["name"] for row in await postgres.fetch(PARTITIONS, table)}


def _value(metrics: Metrics, name: str, **labels: str) -> float:
    value = metrics.registry.get_sample_value(name, labels)
    assert value is not None
    return value
