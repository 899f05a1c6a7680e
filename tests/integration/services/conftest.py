"""Fixtures for services on a PostgreSQL of their own, and one that is away."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.core.db import Database
from app.core.migrations import migrate
from app.embedded.data_folder import DataFolder
from app.embedded.postgres import EmbeddedPostgres
from tests.integration.services.bench import Bench

_TEMPLATE = "services_template"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL whose database `_TEMPLATE` is migrated."""
    folder = DataFolder.open(tmp_path_factory.mktemp("services") / "data")
    # No test cuts the power.
    postgres = EmbeddedPostgres(folder, say=lambda _: None, extra_options={"fsync": "off", "shared_buffers": "64MB"})
    url = postgres.start()
    asyncio.run(_make_template(url))
    yield url
    postgres.stop()
    folder.close()


async def _make_template(url: str) -> None:
    await _run(url, f"CREATE DATABASE {_TEMPLATE}")
    await migrate(_in_database(url, _TEMPLATE))


@pytest.fixture
async def database(server_url: str) -> AsyncIterator[Database]:
    """A database as it is after the installation."""
    name = f"services_{next(_numbers)}"
    await _run(server_url, f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
    opened = Database.connect(_in_database(server_url, name), pool_size=8)
    yield opened
    await opened.close()


@pytest.fixture
async def nowhere() -> AsyncIterator[Database]:
    """A PostgreSQL that is away: nobody listens there."""
    opened = Database.connect("postgresql+asyncpg://nobody@127.0.0.1:1/none", pool_size=2)
    yield opened
    await opened.close()


@pytest.fixture
async def bench(database: Database) -> AsyncIterator[Bench]:
    opened = Bench(database)
    await opened.changes.start()
    yield opened
    await opened.close()


def _in_database(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)


async def _run(url: str, statement: str) -> None:
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(statement))
    await engine.dispose()
