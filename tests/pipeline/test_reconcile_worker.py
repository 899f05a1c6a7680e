"""Comparing by hand."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from clickhouse_connect.driver.client import Client

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import PipelineSettings
from app.pipeline.loader import Loader
from app.pipeline.marker import Standing, find_marker
from app.pipeline.reconciliation import Reconciliation
from app.pipeline.watermark import Heartbeat
from tests.pipeline.outbox_run import column, drain
from tests.pipeline.stored import store_events_at
from tests.pipeline.workers import Worker, run_worker

HOUR = timedelta(hours=1)
THEN = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 30 * HOUR


Run = Callable[..., Any]


@pytest.fixture
def reconcile(database_url: str, clickhouse: ClickHouse, connect_engine: Callable[..., Client]) -> Run:
    async def run(*arguments: str, **environment: str) -> Worker:
        return await run_worker(
            "reconcile",
            *arguments,
            database_url=database_url,
            clickhouse=clickhouse,
            connect_engine=connect_engine,
            **environment,
        )

    return run


@pytest.fixture
async def stream(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection, pipeline_settings: PipelineSettings
) -> Run:
    async def bring() -> None:
        await Heartbeat(database, clickhouse, pipeline_settings).beat(postgres)
        await drain(database, clickhouse)

    return bring


async def test_reconcile__rows_lost__repairs_them_prints_the_hours_and_succeeds(
    clickhouse: ClickHouse, postgres: asyncpg.Connection, reconcile: Run, stream: Run
) -> None:
    ids = await store_events_at(postgres, [THEN + n * HOUR for n in range(30)])
    await stream()
    await clickhouse.command(f"DELETE FROM events WHERE event_id IN ('{ids[3]}', '{ids[28]}')")

    done = await reconcile()

    assert (done.returncode, done.stderr) == (0, "")
    header, *differing, hours, verdict = done.stdout.splitlines()
    assert header.split() == ["subject", "hour", "(UTC)", "rows", "repaired", "missing", "extra"]
    assert [line.split()[1:3] for line in differing] == [f"{THEN + n * HOUR:%Y-%m-%d %H:%M}".split() for n in (3, 28)]
    assert re.fullmatch(r"hours: 3\d, rows: 30, repaired: 2", hours)  # The clock goes on.
    assert verdict == "still missing: 0, unknown to PostgreSQL: 0"
    assert await column(clickhouse, "SELECT count() FROM events FINAL") == [30]


async def test_reconcile__range_given__compares_no_other_hour(
    clickhouse: ClickHouse, postgres: asyncpg.Connection, reconcile: Run, stream: Run
) -> None:
    await store_events_at(postgres, [THEN + n * HOUR for n in range(30)])
    await stream()
    await clickhouse.command("TRUNCATE TABLE events")

    done = await reconcile("--from", f"{THEN + HOUR:%Y-%m-%dT%H:%M}", "--until", (THEN + 3 * HOUR).isoformat())

    assert done.returncode == 0
    assert "hours: 2, rows: 2, repaired: 2" in done.stdout
    assert await column(clickhouse, "SELECT count() FROM events FINAL") == [2]


async def test_reconcile__row_unknown_to_postgresql__fails(
    postgres: asyncpg.Connection, reconcile: Run, stream: Run
) -> None:
    ids = await store_events_at(postgres, [THEN, THEN])
    await stream()
    await postgres.execute("DELETE FROM events WHERE event_id = $1", ids[0])

    done = await reconcile()

    assert done.returncode == 1
    assert "unknown to PostgreSQL: 1" in done.stdout


async def test_reconcile__anew__ends_the_proof_empties_the_table_and_fills_it_again(
    database: Database,
    clickhouse: ClickHouse,
    loader: Loader,
    metrics: Metrics,
    postgres: asyncpg.Connection,
    pipeline_settings: PipelineSettings,
    reconcile: Run,
    stream: Run,
) -> None:
    ids = await store_events_at(postgres, [THEN + n * HOUR for n in range(30)])
    reconciliation = Reconciliation(database, clickhouse, loader, pipeline_settings, metrics, margin=timedelta(0))
    done = None
    while done is None or done.more or not done.proven:
        await stream()
        done = await reconciliation.round(postgres)
    proven = await find_marker(clickhouse)
    await clickhouse.command("ALTER TABLE events UPDATE value = 1e9 WHERE true SETTINGS mutations_sync = 1")

    ended = await reconcile("--anew", "events", CLICKHOUSE_READ_TIMEOUT_SECONDS="1")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "repaired: 30" in ended.stdout
    assert await column(clickhouse, "SELECT DISTINCT value FROM events FINAL") == [2.5]
    assert set(await column(clickhouse, "SELECT event_id FROM events FINAL")) == set(ids)
    now = await find_marker(clickhouse)
    assert now is not None
    assert proven is not None
    assert now.id != proven.id
    assert not await Standing(database).is_proven(now)


async def test_reconcile__anew_with_events_that_clickhouse_alone_has__refuses_and_touches_nothing(
    clickhouse: ClickHouse, postgres: asyncpg.Connection, reconcile: Run, stream: Run
) -> None:
    await store_events_at(postgres, [THEN])
    await stream()
    await postgres.execute("INSERT INTO dropped_partitions VALUES ('events_p202601', '2026-02-01Z', 10)")

    done = await reconcile("--anew", "exposures", "events")

    assert done.returncode == 1
    assert done.stderr == "error: PostgreSQL has dropped events before 2026-02-01: ClickHouse alone has them\n"
    assert await column(clickhouse, "SELECT count() FROM events FINAL") == [1]
    assert await find_marker(clickhouse) is None


async def test_reconcile__no_watermark__says_so(reconcile: Run) -> None:
    done = await reconcile()

    assert done.returncode == 1
    assert done.stderr == "error: there is no watermark yet; is the service running, and the loader?\n"
