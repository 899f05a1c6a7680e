"""What a session of COPY says when PostgreSQL goes away, when its time is over, and when it is the taker who fails."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NoReturn

import pytest
from sqlalchemy import text
from starlette.types import Message
from structlog.testing import capture_logs

from app.core.db import Database, StoreUnavailable
from app.exports import copying
from app.exports.copying import Copying, LineForm, Session
from app.exports.download import Download
from app.exports.errors import ClientTooSlow
from app.exports.values import Write

_SLEEP = "SELECT CAST(pg_sleep(20) AS text)"
_MANY = "SELECT repeat('x', 1000) FROM generate_series(1, 2000)"
_Use = Callable[[Session], Awaitable[object]]


async def _take(_lines: bytes) -> None:
    pass


def _uses(sql: str) -> dict[str, _Use]:
    """Return every way in which a session is used, each of which waits where the statement or the table does."""
    return {
        "run": lambda session: session.run(sql),
        "execute": lambda session: session.execute(sql, {}),
        "rows": lambda session: session.rows(sql),
        "copy_in": lambda session: session.copy_in("copied_into", ["line"], b"a\n"),
        "copy_out": lambda session: session.copy_out(sql, {}, LineForm(), _take),
    }


@pytest.fixture
async def locked(database: Database) -> AsyncIterator[None]:
    """A table that is locked for the length of the test."""
    async with database.begin() as connection:
        await connection.execute(text("CREATE TABLE copied_into (line text)"))
    async with database.begin() as connection:
        await connection.execute(text("LOCK TABLE copied_into IN ACCESS EXCLUSIVE MODE"))
        yield
    async with database.begin() as connection:
        await connection.execute(text("DROP TABLE copied_into"))


@pytest.mark.parametrize("way", _uses(""))
async def test_session__ended_by_the_server_while_idle__is_unavailable(database: Database, way: str) -> None:
    async with Copying(database).session(writes=True) as session:
        (own,) = await session.rows("SELECT pg_backend_pid() AS pid")
        async with database.begin() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": own["pid"]})
        await asyncio.sleep(0.05)  # The last words of the server arrive.

        with pytest.raises(StoreUnavailable, match="PostgreSQL cannot be reached"):
            await _uses("SELECT 'a'")[way](session)


@pytest.mark.parametrize("way", _uses(""))
@pytest.mark.usefixtures("locked")
async def test_session__takes_longer_than_it_may__is_unavailable_and_says_how_long_that_is(
    database: Database, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(copying, "_LONGEST_COPY_S", 0.2)

    async with Copying(database).session(writes=True) as session:
        with pytest.raises(StoreUnavailable, match="60 minutes"):
            await asyncio.wait_for(_uses(_SLEEP)[way](session), 5)


async def test_copy__taker_slower_than_it_may_be__is_unavailable_and_says_how_long_that_is(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_LONGEST_COPY_S", 0.2)

    async def take(_lines: bytes) -> None:
        await asyncio.sleep(20)

    with pytest.raises(StoreUnavailable, match="60 minutes"):
        await asyncio.wait_for(Copying(database).copy(_MANY, {}, LineForm(), take), 5)


async def test_download__postgresql_cuts_it__is_a_warning_with_the_reason(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_LONGEST_COPY_S", 0.3)

    async def produce(write: Write) -> None:
        await write(b"first")
        await Copying(database).copy(_SLEEP, {}, LineForm(), write)

    async def receive() -> NoReturn:
        await asyncio.sleep(20)
        pytest.fail("The client does not go.")

    async def send(_message: Message) -> None:
        pass

    with capture_logs() as logs, pytest.raises(StoreUnavailable):
        await Download(produce, media_type="text/csv", headers={})({"type": "http"}, receive, send)

    (cut,) = [line for line in logs if line["event"] == "export.cut"]
    assert (cut["log_level"], cut["exc_info"]) == ("warning", None)
    assert "60 minutes" in cut["reason"]


@pytest.mark.parametrize("error", [BrokenPipeError(), TimeoutError("its own"), ClientTooSlow("gone")])
async def test_copy__taker_fails__its_own_error_comes_out(database: Database, error: Exception) -> None:
    async def take(_lines: bytes) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        await Copying(database).copy(_MANY, {}, LineForm(), take)
    assert raised.value is error
