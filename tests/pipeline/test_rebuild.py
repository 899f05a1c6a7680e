"""New tables are built and put in place while rows come in, and no watermark holds before they have them all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from clickhouse_connect.driver.client import Client

from app.core.clickhouse import ClickHouse, ClickHouseUnavailable
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import PipelineSettings, Settings
from app.pipeline.lanes import RELAY_LANES
from app.pipeline.ledger import may_move_floor
from app.pipeline.loader import Loader
from app.pipeline.marker import Standing, find_marker
from app.pipeline.rebuilding import CannotRebuild, NewTables, Rebuilding
from app.pipeline.reconciliation import Reconciliation
from app.pipeline.service import Pipeline
from app.pipeline.watermark import Heartbeat
from tests.pipeline.outbox_run import column, drain, eventually
from tests.pipeline.payloads import record_events
from tests.pipeline.stored import store_assignments_at, store_events_at, store_one_of_each
from tests.pipeline.workers import run_worker

HOUR = timedelta(hours=1)
THEN = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 30 * HOUR
TABLES = ("exposures", "overrides", "events", "experiments")


class Mortal(ClickHouse):
    """A ClickHouse under whose feet the program dies, at a statement of the test's choice; it tells what was copied."""

    dies_at = "nothing"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.copied: list[timedelta] = []

    async def insert_selected(self, sql: str, parameters: Mapping[str, Any] | None = None, **options: Any) -> None:
        assert parameters is not None
        self.copied.append(parameters["end"] - parameters["start"])
        await super().insert_selected(sql, parameters, **options)

    async def command(self, sql: str) -> None:
        if sql.startswith(self.dies_at):
            raise ClickHouseUnavailable("killed")
        await super().command(sql)


@pytest.fixture
async def clickhouse(make_clickhouse: Callable[..., Any]) -> Mortal:
    made: Mortal = await make_clickhouse(Mortal)
    return made


@pytest.fixture
async def new_tables(clickhouse: ClickHouse, connect_engine: Callable[..., Client]) -> AsyncIterator[NewTables]:
    opened = await NewTables.over_engine(connect_engine, clickhouse.database)
    yield opened
    await opened.close()


@pytest.fixture
def make_rebuilding(
    database: Database,
    clickhouse: ClickHouse,
    new_tables: NewTables,
    loader: Loader,
    metrics: Metrics,
    postgres: asyncpg.Connection,
) -> Callable[..., Rebuilding]:
    def make(connection: asyncpg.Connection = postgres) -> Rebuilding:
        return Rebuilding(
            database,
            connection,
            clickhouse,
            loader=loader,
            new_loader=Loader(new_tables, metrics),
            lanes=RELAY_LANES,
            say=print,
            settle_s=0.1,
        )

    return make


@pytest.fixture
def stream(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection, pipeline_settings: PipelineSettings
) -> Callable[[], Awaitable[None]]:
    async def bring() -> None:
        await Heartbeat(database, clickhouse, pipeline_settings).beat(postgres)
        await drain(database, clickhouse)

    return bring


async def test_rebuild__history_damaged__has_every_row_afterwards_and_keeps_the_old_tables(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    make_rebuilding: Callable[[], Rebuilding],
    stream: Callable[[], Awaitable[None]],
) -> None:
    experiment = await store_one_of_each(database)
    ids = await store_events_at(postgres, [THEN + n * HOUR for n in range(28)])
    await store_assignments_at(postgres, experiment, ["old"], THEN)
    await stream()
    before = {table: await _rows(clickhouse, table) for table in TABLES}
    await clickhouse.command("ALTER TABLE events DELETE WHERE event_type != '' SETTINGS mutations_sync = 1")
    await clickhouse.command("TRUNCATE TABLE exposures")

    assert await make_rebuilding().run() == 0

    after = {table: await _rows(clickhouse, table) for table in TABLES}
    for rows in (before, after):
        rows["experiments"][0].pop("ingested_at")  # To the moment of the change, and not of its message.
    assert after == before
    assert len(ids) == 28
    assert await column(clickhouse, "SELECT count() FROM events_before_rebuild") == [0]


async def test_rebuild__drop_old__leaves_no_other_tables(
    clickhouse: ClickHouse,
    make_rebuilding: Callable[[], Rebuilding],
    stream: Callable[[], Awaitable[None]],
) -> None:
    await stream()

    await make_rebuilding().run(drop_old=True)

    assert not [name for name in await column(clickhouse, "SHOW TABLES") if "rebuil" in name]


async def test_rebuild__watermark__ends_and_holds_again_once_all_was_compared(
    database: Database,
    clickhouse: ClickHouse,
    loader: Loader,
    metrics: Metrics,
    postgres: asyncpg.Connection,
    pipeline_settings: PipelineSettings,
    make_rebuilding: Callable[[], Rebuilding],
    stream: Callable[[], Awaitable[None]],
) -> None:
    await store_events_at(postgres, [THEN + n * HOUR for n in range(28)])
    reconciliation = Reconciliation(database, clickhouse, loader, pipeline_settings, metrics, margin=timedelta(0))
    await stream()
    await reconciliation.round(postgres)
    while not (await reconciliation.round(postgres)).proven:
        await stream()
    standing = Standing(database)
    assert await standing.is_proven(await find_marker(clickhouse))

    await make_rebuilding().run()

    assert not await standing.is_proven(await find_marker(clickhouse))
    while not (await reconciliation.round(postgres)).proven:
        await stream()
    assert await standing.is_proven(await find_marker(clickhouse))


@pytest.mark.parametrize("at", ["CREATE TABLE overrides", "EXCHANGE TABLES exposures", "RENAME TABLE overrides"])
async def test_rebuild__cut_short__is_finished_by_another_run(
    database: Database,
    clickhouse: Mortal,
    postgres: asyncpg.Connection,
    make_rebuilding: Callable[[], Rebuilding],
    stream: Callable[[], Awaitable[None]],
    at: str,
) -> None:
    await store_one_of_each(database)
    await store_events_at(postgres, [THEN + n * HOUR for n in range(28)])
    await stream()
    before = [len(await _rows(clickhouse, table)) for table in TABLES]
    clickhouse.dies_at = at
    with pytest.raises(ClickHouseUnavailable):
        await make_rebuilding().run()
    clickhouse.dies_at = "nothing"

    await make_rebuilding().run()

    assert [len(await _rows(clickhouse, table)) for table in TABLES] == before


async def test_rebuild__events_dropped_from_postgresql__are_taken_from_the_old_table(
    clickhouse: Mortal,
    postgres: asyncpg.Connection,
    make_rebuilding: Callable[[], Rebuilding],
    stream: Callable[[], Awaitable[None]],
) -> None:
    ids = await store_events_at(postgres, [THEN + n * HOUR for n in range(28)])
    await stream()
    await _drop_first_hours(postgres, 10)
    await postgres.execute("UPDATE installation SET created_at = $1", THEN)

    await make_rebuilding().run()

    assert set(await column(clickhouse, "SELECT event_id FROM events FINAL")) == set(ids)
    assert clickhouse.copied == [HOUR] * 10


@pytest.fixture
async def one_row_lost(
    database: Database,
    clickhouse: ClickHouse,
    loader: Loader,
    metrics: Metrics,
    postgres: asyncpg.Connection,
    pipeline_settings: PipelineSettings,
    stream: Callable[[], Awaitable[None]],
) -> None:
    """28 events were compared, PostgreSQL has dropped the first ten, and ClickHouse has lost one of those."""
    ids = await store_events_at(postgres, [THEN + n * HOUR for n in range(28)])
    await stream()
    reconciliation = Reconciliation(database, clickhouse, loader, pipeline_settings, metrics, margin=timedelta(0))
    while (await reconciliation.round(postgres)).more:
        pass
    await _drop_first_hours(postgres, 10)
    await clickhouse.command(f"DELETE FROM events WHERE event_id = '{ids[3]}'")


@pytest.mark.usefixtures("one_row_lost")
async def test_rebuild__row_lost_that_nobody_has__is_refused_and_the_tables_stay_as_they_are(
    clickhouse: ClickHouse, make_rebuilding: Callable[[], Rebuilding]
) -> None:
    marker = await find_marker(clickhouse)

    with pytest.raises(CannotRebuild, match=r"1 rows lack.*--accept-loss 1"):
        await make_rebuilding().run(drop_old=True)

    assert await find_marker(clickhouse) == marker
    assert await column(clickhouse, "SELECT count() FROM events FINAL") == [27]
    assert not [name for name in await column(clickhouse, "SHOW TABLES") if name.endswith("_before_rebuild")]


@pytest.mark.usefixtures("one_row_lost")
async def test_rebuild__loss_accepted__keeps_the_old_tables_whatever_was_asked_and_also_at_the_next_run(
    clickhouse: Mortal, make_rebuilding: Callable[[], Rebuilding]
) -> None:
    clickhouse.dies_at = "EXCHANGE TABLES events"
    with pytest.raises(ClickHouseUnavailable):
        await make_rebuilding().run(drop_old=True, accepted_loss=1)
    clickhouse.dies_at = "nothing"
    with pytest.raises(CannotRebuild, match=r"events_before_rebuild.*kept by an earlier run"):
        await make_rebuilding().run(drop_old=True, accepted_loss=1)
    for table in TABLES:
        await clickhouse.command(f"RENAME TABLE {table}_before_rebuild TO {table}_aside")

    assert await make_rebuilding().run(drop_old=True, accepted_loss=1) == 1

    assert await column(clickhouse, "SELECT count() FROM events FINAL") == [27]
    assert await column(clickhouse, "SELECT count() FROM events_before_rebuild FINAL") == [27]


async def test_rebuild__under_way__no_month_is_dropped_and_no_other_run_begins(
    postgres: asyncpg.Connection,
    connect: Callable[..., Any],
    make_rebuilding: Callable[..., Rebuilding],
    stream: Callable[[], Awaitable[None]],
) -> None:
    await store_events_at(postgres, [THEN])
    await stream()
    other = await connect()
    may_drop: list[bool] = []

    async def meanwhile(_loader: Loader) -> None:
        async with other.transaction():
            may_drop.append(await may_move_floor(other))
        with pytest.raises(CannotRebuild, match="another rebuild"):
            await make_rebuilding(other).run()

    await make_rebuilding().run(fill=meanwhile)

    async with other.transaction():
        may_drop.append(await may_move_floor(other))
    assert may_drop == [False, True]
    await make_rebuilding(other).run()


async def test_rebuild__no_beat_yet__is_refused(make_rebuilding: Callable[[], Rebuilding]) -> None:
    with pytest.raises(CannotRebuild):
        await make_rebuilding().run()


async def test_worker__rows_coming_in_all_the_while__loses_none_and_counts_none_twice(
    database: Database,
    database_url: str,
    clickhouse: ClickHouse,
    connect: Callable[..., Any],
    connect_engine: Callable[..., Client],
    postgres: asyncpg.Connection,
    settings: Settings,
    metrics: Metrics,
) -> None:
    await store_one_of_each(database)
    ids = await store_events_at(postgres, [THEN + n * HOUR for n in range(28)])
    pipeline = Pipeline(database, clickhouse, settings, metrics)
    await pipeline.start()
    await eventually(lambda: _is_known(pipeline))
    async with _writing(await connect()) as written:
        done = await run_worker(
            "rebuild",
            "--settle=0.5",
            "--drop-old",
            database_url=database_url,
            clickhouse=clickhouse,
            connect_engine=connect_engine,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert "done: there is a watermark again" in done.stdout

    newest: datetime = await postgres.fetchval("SELECT max(ingested_at) FROM events")
    await eventually(lambda: _has_passed(pipeline, newest))
    stored = await postgres.fetchval("SELECT array_agg(event_id) FROM events")
    assert set(stored) >= {*ids, *written}
    found = await column(clickhouse, "SELECT event_id FROM events FINAL")
    assert len(found) == len(set(found)) == len(stored)
    assert set(found) == set(stored)
    await pipeline.stop()


@asynccontextmanager
async def _writing(connection: asyncpg.Connection) -> AsyncIterator[list[UUID]]:
    """Store events one after the other until the block ends."""
    written: list[UUID] = []

    async def write() -> None:
        while True:
            batch = [uuid4() for _ in range(20)]
            await record_events(connection, batch)
            written.extend(batch)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(write())
    yield written
    task.cancel()
    await asyncio.wait([task])


async def _drop_first_hours(postgres: asyncpg.Connection, hours: int) -> None:
    """Leave PostgreSQL as retention does."""
    floor = THEN + hours * HOUR
    await postgres.execute("DELETE FROM events WHERE ingested_at < $1", floor)
    await postgres.execute("INSERT INTO dropped_partitions VALUES ('events_p202601', $1, $2)", floor, hours)


async def _is_known(pipeline: Pipeline) -> bool:
    return await pipeline.watermark() is not None


async def _has_passed(pipeline: Pipeline, moment: datetime) -> bool:
    proven = await pipeline.watermark()
    return proven is not None and proven > moment


async def _rows(clickhouse: ClickHouse, table: str) -> list[dict[str, Any]]:
    return await clickhouse.rows(f"SELECT * FROM {table} FINAL ORDER BY ALL")
