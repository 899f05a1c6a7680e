"""Databases of their own for tests of the schema."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from app.core.migrations import migrate
from tests.factories import unique
from tests.service_process import ServiceProcess


class Scratch:
    """A database; statements run each in a transaction of its own."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def sqlalchemy_url(self) -> str:
        return self.url.replace("postgresql://", "postgresql+asyncpg://")

    def run(self, *statements: str) -> list[dict[str, Any]]:
        """Run statements in one transaction and return the last one's rows."""
        return asyncio.run(_run(self.url, statements))


async def _run(url: str, statements: tuple[str, ...]) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(url, ssl=False, timeout=10)
    try:
        async with connection.transaction():
            rows: list[Any] = []
            for statement in statements:
                rows = await connection.fetch(statement)
        return [dict(row) for row in rows]
    finally:
        await connection.close()


async def _outside_transactions(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, ssl=False, timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def make_scratch(service: ServiceProcess) -> Iterator[Callable[[], Scratch]]:
    """Make empty databases on the service's PostgreSQL."""
    made: list[str] = []

    def make() -> Scratch:
        name = unique("scratch").replace("-", "_")
        asyncio.run(_outside_transactions(service.postgres_url, f"CREATE DATABASE {name}"))
        made.append(name)
        return Scratch(urlunsplit(urlsplit(service.postgres_url)._replace(path=f"/{name}")))

    yield make
    for name in made:
        asyncio.run(_outside_transactions(service.postgres_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="module")
def migrated(make_scratch: Callable[[], Scratch]) -> Scratch:
    """A database at the newest revision."""
    scratch = make_scratch()
    asyncio.run(migrate(scratch.sqlalchemy_url))
    return scratch
