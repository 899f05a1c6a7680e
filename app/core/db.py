"""PostgreSQL: the engine, transactions, and the one place where connection troubles are recognised."""

import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Self, TypeVar

from sqlalchemy import MetaData
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from app.core.errors import Unavailable
from app.core.patience import within

T = TypeVar("T")

# One naming rule, so that migrations can name what they alter.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_CONNECT_TIMEOUT_S = 3.0
_POOL_TIMEOUT_S = 5.0
_COMMAND_TIMEOUT_S = 30.0
_PROMPT_S = 3.0
_REST_AFTER_TIMEOUT_S = 2.0
_AWAY = (
    "PostgreSQL cannot be reached or is not accepting work now. Send the request again later; repeating it is safe,"
    " of events with the same event_id."
)
# Class 08: connection exceptions; 53: out of disk, memory or connections; 57P: shutting down or starting up.
_TRANSIENT_SQLSTATES = ("08", "53", "57P", "25006")
# Cancelled, as a role's own statement_timeout does; and not given a lock, as its lock_timeout does.
_CUT_SHORT_SQLSTATES = ("57014", "55P03")


class StoreUnavailable(Unavailable):
    """PostgreSQL cannot be reached or cannot write now; nothing was acknowledged."""

    slug = "store-unavailable"
    title = "The database is not available"


class Database:
    """The engine and its transactions. `begin` commits at the end of the block, `read` never writes."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._resting_until = 0.0

    @classmethod
    def connect(cls, url: str, *, pool_size: int, application_name: str = "experimentation-api") -> Self:
        """Prepare an engine; no connection is opened before its first use."""
        engine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=_POOL_TIMEOUT_S,
            connect_args={
                "timeout": _CONNECT_TIMEOUT_S,
                "command_timeout": _COMMAND_TIMEOUT_S,
                "server_settings": {"timezone": "UTC", "application_name": application_name, "jit": "off"},
            },
        )
        return cls(engine)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that commits when the block ends without an error.

        Raises:
            StoreUnavailable: PostgreSQL cannot be reached, or went away in the middle.
        """
        try:
            async with self.engine.begin() as connection:
                yield connection
        except (DBAPIError, PoolTimeoutError, OSError, TimeoutError) as error:
            if is_unavailability(error):
                raise StoreUnavailable(_AWAY) from error
            raise

    read = begin

    async def promptly(self, work: Callable[[], Coroutine[None, None, T]]) -> T:
        """Return what `work` returns, for callers who cannot wait for a database that neither answers nor refuses.

        After a time-out nobody tries for a moment, so that a hanging database costs one wait and not one a request.

        Raises:
            StoreUnavailable: PostgreSQL cannot be reached, does not answer in time, or did not a moment ago.
        """
        if time.monotonic() < self._resting_until:
            raise StoreUnavailable(_AWAY)
        try:
            return await within(_PROMPT_S, work())
        except TimeoutError as error:
            self._resting_until = time.monotonic() + _REST_AFTER_TIMEOUT_S
            raise StoreUnavailable(_AWAY) from error

    @property
    def pool(self) -> AsyncAdaptedQueuePool:
        pool = self.engine.pool
        assert isinstance(pool, AsyncAdaptedQueuePool)  # noqa: S101  # The engine above is made with one.
        return pool

    async def close(self) -> None:
        await self.engine.dispose()


def is_unavailability(error: BaseException) -> bool:
    """Tell whether `error` means that PostgreSQL is away, not that the statement was wrong."""
    if isinstance(error, DBAPIError):
        state = sqlstate(error)
        return (
            error.connection_invalidated
            or (state is not None and state.startswith(_TRANSIENT_SQLSTATES))
            or (state is None and isinstance(error, InterfaceError | OperationalError))
        )
    return isinstance(error, PoolTimeoutError | OSError | TimeoutError)


def was_cut_short(error: DBAPIError) -> bool:
    """Tell whether the server ended a statement because it took, or waited, too long."""
    return sqlstate(error) in _CUT_SHORT_SQLSTATES


def sqlstate(error: DBAPIError) -> str | None:
    """Return PostgreSQL's five-character code, or `None` when the server did not answer."""
    code = getattr(error.orig, "sqlstate", None)
    return str(code) if code else None


def violated_constraint(error: DBAPIError) -> str | None:
    """Return the name of the constraint that `error` reports."""
    cause = getattr(error.orig, "__cause__", None)
    name = getattr(cause, "constraint_name", None)
    return str(name) if name else None
