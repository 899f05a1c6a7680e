"""Migrating a ClickHouse that holds data, breaking off anywhere, and two at once; the DDL of a cluster."""

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from clickhouse_connect.driver.client import Client

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.settings import PipelineSettings
from app.pipeline.cluster_ddl import ClusterDdl
from app.pipeline.schema import DDL_FOLDER, SchemaError, alter, migrate, statements
from app.pipeline.watermark import Heartbeat, watermark
from app.results.cold import ColdStore
from app.results.values import Granularity, Metric, Question, Subject
from tests.pipeline.outbox_run import column, drain

FIRST_FILES = ("0001_history.sql", "0002_dead_letters.sql")
AT = datetime(2026, 1, 1, tzinfo=UTC)
LATER = AT + timedelta(days=400)
TABLES = "SELECT name FROM system.tables WHERE database = currentDatabase() AND name <> 'schema_migrations'"
SCHEMA = (
    "SELECT name || replace(create_table_query, currentDatabase(), '') FROM system.tables"
    " WHERE database = currentDatabase() ORDER BY name"
)


class Died(BaseException):
    """The process is gone: no `except Exception` sees it."""


class Dying(ClickHouse):
    """Stands in for a process that is killed before its n-th statement."""

    statements_left: int | None = None

    async def command(self, sql: str) -> None:
        if self.statements_left == 0:
            raise Died
        await super().command(sql)
        if self.statements_left is not None:
            self.statements_left -= 1


class OfCluster(ClickHouse):
    """Stands in for a client of a cluster whose database is there already."""

    async def create_database(self) -> None:
        """Do nothing."""


@pytest.fixture
async def open_empty(connect_engine: Callable[..., Client]) -> AsyncIterator[Callable[..., Any]]:
    """A function that opens databases of ClickHouse in which nothing is; a name that is given twice is one database."""
    opened: list[ClickHouse] = []

    async def open_one(kind: type[ClickHouse] = ClickHouse, name: str | None = None) -> ClickHouse:
        opened.append(await kind.over_engine(connect_engine, name or f"empty_{uuid4().hex}"))
        return opened[-1]

    yield open_one
    for clickhouse in opened:
        await clickhouse.command(f"DROP DATABASE IF EXISTS {clickhouse.database} SYNC")
        await clickhouse.close()


@pytest.fixture
def first_files(tmp_path: Path) -> Path:
    """A folder with the files of the first version alone."""
    for name in FIRST_FILES:
        shutil.copy(DDL_FOLDER / name, tmp_path)
    return tmp_path


async def test_migrate__first_schema_with_rows__keeps_every_row_and_every_answer(
    open_empty: Callable[..., Any], first_files: Path
) -> None:
    clickhouse = await open_empty()
    await migrate(clickhouse, first_files)
    for table, rows in _rows().items():
        await clickhouse.insert_json(table, [msgspec.json.encode(row) for row in rows])
    before = {table: await _content(clickhouse, table) for table in _rows() if table != "heartbeats"}
    results = await _results(clickhouse)
    assert any(arm.events for arm in results.arms.values())

    assert set(await migrate(clickhouse)).isdisjoint(FIRST_FILES)

    assert {table: await _content(clickhouse, table) for table in before} == before
    assert all(before.values())
    assert await _results(clickhouse) == results


async def test_migrate__watermark_of_the_first_schema__is_unknown_until_the_next_beat(
    open_empty: Callable[..., Any],
    first_files: Path,
    database: Database,
    postgres: asyncpg.Connection,
    pipeline_settings: PipelineSettings,
) -> None:
    clickhouse = await open_empty()
    await migrate(clickhouse, first_files)
    await clickhouse.insert_json("heartbeats", [msgspec.json.encode(row) for row in _rows()["heartbeats"]])

    await migrate(clickhouse)
    assert await watermark(clickhouse) is None

    moment = await Heartbeat(database, clickhouse, pipeline_settings).beat(postgres)
    await drain(database, clickhouse)
    assert await watermark(clickhouse) == moment


async def test_migrate__broken_off_before_any_statement__is_repeated_safely(
    open_empty: Callable[..., Any], first_files: Path
) -> None:
    whole = await open_empty()
    await migrate(whole)
    expected = await column(whole, SCHEMA)
    exposures = [msgspec.json.encode(row) for row in _rows()["exposures"]]

    for survived in itertools.count():
        clickhouse = await open_empty(Dying)
        await migrate(clickhouse, first_files)
        await clickhouse.insert_json("exposures", exposures)
        clickhouse.statements_left = survived
        try:
            await migrate(clickhouse)
        except Died:
            clickhouse.statements_left = None
        else:
            break
        await migrate(clickhouse)
        assert await column(clickhouse, SCHEMA) == expected
        assert await column(clickhouse, "SELECT count() FROM exposures FINAL") == [len(exposures)]
    clickhouse.statements_left = None
    assert survived > len(list(DDL_FOLDER.glob("*.sql"))) - len(FIRST_FILES)


async def test_migrate__two_at_once__both_end_well_and_nothing_is_lost(
    open_empty: Callable[..., Any], first_files: Path
) -> None:
    first = await open_empty()
    second = await open_empty(name=first.database)
    await migrate(first, first_files)
    for table, rows in _rows().items():
        await first.insert_json(table, [msgspec.json.encode(row) for row in rows])

    await asyncio.gather(migrate(first), migrate(second))

    assert await migrate(first) == []
    assert [await column(first, f"SELECT count() FROM {table} FINAL") for table in ("exposures", "events")] == [
        [len(_rows()["exposures"])],
        [len(_rows()["events"])],
    ]


async def test_migrate__statement_unfit_for_the_cluster__names_file_and_statement_and_runs_nothing(
    open_empty: Callable[..., Any], first_files: Path
) -> None:
    clickhouse = await open_empty()
    clickhouse.cluster = "any"
    (first_files / "0003_view.sql").write_text("CREATE VIEW IF NOT EXISTS busy AS SELECT user_id FROM events")

    with pytest.raises(SchemaError, match=r"0003_view\.sql: only CREATE TABLE.*: CREATE VIEW IF NOT EXISTS busy"):
        await migrate(clickhouse, first_files)

    assert await column(clickhouse, TABLES) == []


async def test_migrate__tables_of_one_node_and_a_cluster_asked_for__refuses(open_empty: Callable[..., Any]) -> None:
    one_node = await open_empty()
    await migrate(one_node)
    asked = await open_empty(OfCluster, one_node.database)
    asked.cluster = "any"

    with pytest.raises(SchemaError, match="made for one node"):
        await migrate(asked)


async def test_migrate__tables_of_a_cluster_and_one_node_asked_for__refuses(open_empty: Callable[..., Any]) -> None:
    clickhouse = await open_empty()
    await clickhouse.command("CREATE TABLE exposures_local (a Int8) ENGINE = Memory")

    with pytest.raises(SchemaError, match="CLICKHOUSE_CLUSTER"):
        await migrate(clickhouse)


async def test_cluster_ddl__our_files__is_what_the_engine_reads(clickhouse: ClickHouse) -> None:
    ddl = ClusterDdl("blue", "history")
    texts = [file.read_text() for file in sorted(DDL_FOLDER.glob("*.sql"))]
    rendered = [done for text in texts for statement in statements(text) for done in ddl.render(statement)]
    assert len(rendered) > len([statement for text in texts for statement in statements(text)])

    for statement in rendered:
        (written,) = await clickhouse.rows("SELECT formatQuery({sql:String}) AS sql", {"sql": statement})
        assert " ON CLUSTER blue" in written["sql"]


async def test_alter__table_of_the_files__is_altered(clickhouse: ClickHouse) -> None:
    await alter(clickhouse, "ALTER TABLE events ADD COLUMN extra String; ALTER TABLE events DROP COLUMN value")

    columns = await column(
        clickhouse, "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = 'events'"
    )
    assert "extra" in columns
    assert "value" not in columns


def _rows() -> dict[str, list[dict[str, Any]]]:
    """Rows for every table of the first version: one experiment, of which a user has an override."""
    users = [f"user-{number}" for number in range(20)]
    return {
        "exposures": [
            {
                "experiment_id": 1,
                "user_id": user_id,
                "variant_id": 1 + number % 2,
                "source": "hash",
                "experiment_version": 1,
                "context": {"n": number},
                "exposed_at": AT,
                "ingested_at": AT,
            }
            for number, user_id in enumerate(users)
        ],
        "overrides": [
            {
                "experiment_id": 1,
                "user_id": users[0],
                "variant_id": 2,
                "exposed_at": AT,
                "removed": False,
                "epoch": 1,
                "ingested_at": AT,
            }
        ],
        "events": [
            {
                "project_id": 1,
                "event_id": UUID(int=number),
                "experiment_id": None,
                "user_id": users[number % len(users)],
                "event_type": "buy",
                "ts": AT + timedelta(days=number),
                "value": number / 3,
                "properties": {},
                "ingested_at": AT + timedelta(days=number),
            }
            for number in range(100)
        ],
        "experiments": [
            {
                "experiment_id": 1,
                "project_id": 1,
                "key": "e",
                "status": "running",
                "version": 1,
                "definition": {},
                "ingested_at": AT,
            }
        ],
        "heartbeats": [{"lane": 0, "watermark": AT, "ingested_at": AT}],
        "relay_positions": [{"relay": "r", "xid": 1, "seq": 2, "moved_at": AT}],
        "dead_letters": [
            {
                "message_id": UUID(int=1),
                "aggregatetype": "event",
                "type": "event.recorded",
                "payload": "?",
                "reason": "not JSON",
                "died_at": AT,
            }
        ],
    }


async def _content(clickhouse: ClickHouse, table: str) -> list[Any]:
    return await column(clickhouse, f"SELECT toString(tuple(*)) AS line FROM {table} FINAL ORDER BY line")


async def _results(clickhouse: ClickHouse) -> Any:
    question = Question(metrics=tuple(Metric), granularity=Granularity.DAY, include_overrides=True)
    return await ColdStore(clickhouse).observe(Subject(1, 1), question, LATER, most_slots=1000)
