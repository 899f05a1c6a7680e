"""Fixtures of what reads both stores: a migrated PostgreSQL for the session, a ClickHouse for each module."""

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.migrations import migrate
from app.embedded.data_folder import DataFolder
from app.embedded.postgres import EmbeddedPostgres
from app.pipeline import schema

_databases = itertools.count(1)


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL: the one of TEST_DATABASE_URL, or one of our own."""
    if (given := os.environ.get("TEST_DATABASE_URL")) is not None:
        yield given
        return
    folder = DataFolder.open(tmp_path_factory.mktemp("stores") / "data")
    # No test cuts the power.
    postgres = EmbeddedPostgres(folder, say=lambda _: None, extra_options={"fsync": "off", "shared_buffers": "64MB"})
    yield postgres.start()
    postgres.stop()
    folder.close()


@pytest.fixture(scope="session")
async def database(server_url: str) -> AsyncIterator[Database]:
    name = f"stores_{os.getpid()}"
    await _run_outside_transactions(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await _run_outside_transactions(server_url, f"CREATE DATABASE {name}")
    url = server_url.rpartition("/")[0] + f"/{name}"
    await migrate(url)
    opened = Database.connect(url, pool_size=8)
    yield opened
    await opened.close()
    await _run_outside_transactions(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def engine_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one folder that this process's ClickHouse engine works in."""
    return tmp_path_factory.mktemp("stores_history")


@pytest.fixture(scope="module")
async def clickhouse(engine_folder: Path) -> AsyncIterator[ClickHouse]:
    # Closed with the module, because a process can have one folder open at a time and others want theirs.
    opened = await ClickHouse.open_embedded(engine_folder, f"stores_{next(_databases)}")
    await schema.migrate(opened)
    yield opened
    await opened.close()


async def _run_outside_transactions(url: str, statement: str) -> None:
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(statement))
    await engine.dispose()
