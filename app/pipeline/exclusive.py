"""Work that one process at a time does: the one that holds PostgreSQL's advisory lock for it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import structlog

from app.core.db import Database
from app.core.errors import Unavailable
from app.core.urls import connect_arguments

log = structlog.get_logger()

_CONNECT_TIMEOUT_S = 3
_COMMAND_TIMEOUT_S = 30
_LOCK_POLL_S = 1.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_APPLICATION_NAME = "experimentation-pipeline"

# What says that a server is away or busy, as opposed to a bug.
_EXPECTED = (
    Unavailable,
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.OperatorInterventionError,
)

Progress = Callable[[], None]
Work = Callable[[asyncpg.Connection, Progress], Awaitable[None]]


class Exclusive:
    """Does its work on a connection of its own while it holds the lock, and starts again after every failure.

    The work calls the function that it is given whenever it got something done; it returns when it has been
    asked to stop.
    """

    def __init__(self, database: Database, work: Work, *, name: str, lock: Callable[[], Awaitable[str]]) -> None:
        self._database = database
        self._work = work
        self._name = name
        self._lock = lock
        self._pause_s = _FIRST_PAUSE_S
        self._failing = False
        self.working = False

    async def run(self) -> None:
        """Work until the work returns; a server that is away is waited for."""
        while True:
            try:
                async with own_connection(self._database) as connection:
                    await take(connection, advisory_key(await self._lock()))
                    self.working = True
                    await self._work(connection, self._progressed)
                    return
            except _EXPECTED as error:
                self._warn_once(error)
            except Exception:  # The outermost loop: the pipeline must outlive every failure.
                log.exception("pipeline.failed", work=self._name)
                self._failing = True
            finally:
                self.working = False
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)

    def _progressed(self) -> None:
        self._pause_s = _FIRST_PAUSE_S
        if self._failing:
            self._failing = False
            log.info("pipeline.resumed", work=self._name)

    def _warn_once(self, error: BaseException) -> None:
        if not self._failing:
            self._failing = True
            log.warning("pipeline.waiting", work=self._name, error=str(error) or type(error).__name__)


@asynccontextmanager
async def own_connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection beside the pool, for work that takes long or needs a session."""
    connection = await asyncpg.connect(
        **connect_arguments(database.engine.url),
        timeout=_CONNECT_TIMEOUT_S,
        command_timeout=_COMMAND_TIMEOUT_S,
        server_settings={
            "application_name": _APPLICATION_NAME,
            "timezone": "UTC",
            "jit": "off",
            # A holder whose machine vanished must not keep the lock for the two hours that are usual.
            "tcp_keepalives_idle": "10",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "3",
        },
    )
    try:
        yield connection
    finally:
        # Not closed politely: a query may still be running on it. The server frees the lock at once.
        connection.terminate()


def advisory_key(lock: str) -> int:
    """Return the number under which PostgreSQL knows the lock of this name."""
    return int.from_bytes(hashlib.sha256(lock.encode()).digest()[:8], signed=True)


async def take(connection: asyncpg.Connection, key: int) -> None:
    """Wait for the lock by asking again and again: a query that waits would hold back vacuum."""
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", key):  # noqa: ASYNC110
        await asyncio.sleep(_LOCK_POLL_S)
