"""One PostgreSQL and one ClickHouse engine for the pipeline's tests, with databases of its own for each test."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from alembic.config import Config
from clickhouse_connect.driver.client import Client
from sqlalchemy import make_url

from alembic import command
from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import PipelineSettings, Settings
from app.embedded.clickhouse import EmbeddedClickHouse
from app.embedded.data_folder import DataFolder
from app.embedded.postgres import EmbeddedPostgres
from app.pipeline.loader import Loader
from app.pipeline.schema import migrate

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "pipeline_template"

# No test cuts the power.
QUICK = {"fsync": "off", "shared_buffers": "64MB"}

_numbers = count(1)


@pytest.fixture(scope="session")
def servers_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataFolder]:
    folder = DataFolder.open(tmp_path_factory.mktemp("pipeline"))
    yield folder
    folder.close()


@pytest.fixture(scope="session")
def postgres_url(servers_folder: DataFolder) -> Iterator[str]:
    """The URL of the server, whose database `TEMPLATE` is migrated."""
    postgres = EmbeddedPostgres(servers_folder, say=print, extra_options=QUICK)
    url = postgres.start()
    asyncio.run(_create_database(url, TEMPLATE, template="template1"))
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("script_location", str(ROOT / "alembic"))
    config.set_main_option("sqlalchemy.url", _with_database(url, TEMPLATE).replace("%", "%%"))
    command.upgrade(config, "head")
    yield url
    postgres.stop()


@pytest.fixture(scope="module")
def connect_engine(servers_folder: DataFolder) -> Iterator[Callable[..., Client]]:
    """A function that opens clients of the engine.

    A process can have one engine at a time, so it is closed before another module's tests may want theirs.
    """
    engine = EmbeddedClickHouse(servers_folder, say=print)
    yield engine.start()
    engine.stop()


@pytest.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    name = f"pipeline_{next(_numbers)}"
    await _create_database(postgres_url, name, template=TEMPLATE)
    yield _with_database(postgres_url, name)
    connection = await asyncpg.connect(_plain(postgres_url))
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database.connect(database_url, pool_size=5)
    yield opened
    await opened.close()


@pytest.fixture
async def connect(database_url: str) -> AsyncIterator[Callable[..., Any]]:
    """A function that opens plain connections to the test's database."""
    opened: list[asyncpg.Connection] = []

    async def open_one() -> asyncpg.Connection:
        opened.append(await asyncpg.connect(_plain(database_url), server_settings={"timezone": "UTC"}))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.terminate()


@pytest.fixture
async def postgres(connect: Callable[..., Any]) -> asyncpg.Connection:
    """A connection to the test's database."""
    return await connect()


@pytest.fixture
async def make_clickhouse(connect_engine: Callable[..., Client]) -> AsyncIterator[Callable[..., Any]]:
    """A function that makes further databases of ClickHouse, migrated, by any subclass of `ClickHouse`."""
    made: list[ClickHouse] = []

    async def make(kind: type[ClickHouse] = ClickHouse) -> ClickHouse:
        made.append(await kind.over_engine(connect_engine, f"pipeline_{uuid4().hex}"))
        await migrate(made[-1])
        return made[-1]

    yield make
    for clickhouse in made:
        await clickhouse.command(f"DROP DATABASE {clickhouse.database} SYNC")
        await clickhouse.close()


@pytest.fixture
async def clickhouse(make_clickhouse: Callable[..., Any]) -> ClickHouse:
    made: ClickHouse = await make_clickhouse()
    return made


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def loader(clickhouse: ClickHouse, metrics: Metrics) -> Loader:
    return Loader(clickhouse, metrics)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings without Kafka, whatever the developer's environment says, and with short waits."""
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("RELAY_IDLE_SECONDS", "0.05")
    monkeypatch.setenv("HEARTBEAT_SECONDS", "0.1")
    return Settings.from_environment()


@pytest.fixture
def pipeline_settings(settings: Settings) -> PipelineSettings:
    return settings.pipeline


async def _create_database(url: str, name: str, *, template: str) -> None:
    connection = await asyncpg.connect(_plain(url))
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    await connection.close()


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _with_database(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)
