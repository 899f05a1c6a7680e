"""COPY out of PostgreSQL, on a connection of its own, piece by piece to whoever takes it; and into tables of a session.

One statement sees one state of the database, however long it takes, so no page can miss or repeat a row. It takes no
lock that any writer waits for; dropping a partition of events waits for it, and tries again later. PostgreSQL sends
no faster than the pieces are taken. The connection is not one of the pool's, which are for short work.
"""

import contextlib
import io
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from app.core.db import Database, StoreUnavailable
from app.core.urls import connect_arguments
from app.exports.values import Write

_CONNECT_TIMEOUT_S = 3
# Nobody may hold back the database's clean-up for longer by downloading.
_LONGEST_COPY_S = 3600
_SETTINGS = {
    "application_name": "experimentation-export",
    "timezone": "UTC",
    "jit": "off",
    # The server itself notices that nobody is there any more, also while it has nothing to send yet.
    "client_connection_check_interval": "1s",
    # As for results: hash joins of many rows, one process each, and no plan by statistics that a bulk load left behind.
    "work_mem": "64MB",
    "enable_nestloop": "off",
    "enable_mergejoin": "off",
    "max_parallel_workers_per_gather": "0",
}
_AWAY = "PostgreSQL cannot be reached, or does not accept another connection now. Ask for the export again later."
_NO_TEMPORARY_TABLES = (
    "The service's role may not make temporary tables, which an export of events that PostgreSQL has dropped needs."
    " GRANT TEMPORARY ON DATABASE to it, or ask with a later start_date."
)
_TOO_LONG = (
    f"PostgreSQL was read for {_LONGEST_COPY_S // 60} minutes, which is the longest that it may be: its clean-up waits"
    " meanwhile. Ask for less at once, or take it faster."
)


@dataclass(frozen=True, slots=True)
class LineForm:
    """How COPY writes a line: CSV, with or without the names of the columns first."""

    header: bool = False
    # Both must be characters that the lines do not hold where lines must stand as they are.
    delimiter: str = ","
    quote: str = '"'


class _Taker:
    """Hands lines on, and remembers by what their taker failed: a pipe breaks in the same words as a connection."""

    def __init__(self, take: Write) -> None:
        self._take = take
        self.failure: Exception | None = None

    async def __call__(self, lines: bytes) -> None:
        try:
            await self._take(lines)
        except Exception as error:
            self.failure = error
            raise


class Session:
    """One connection. Every method raises `StoreUnavailable` when PostgreSQL is away, or takes longer than it may."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def run(self, script: str) -> None:
        """Run statements without parameters."""
        with self._translated():
            await self._connection.execute(script, timeout=_LONGEST_COPY_S)

    async def execute(self, sql: str, parameters: Mapping[str, Any]) -> None:
        """Run a statement with named parameters that answers nothing."""
        statement, arguments = _positional(sql, parameters)
        with self._translated():
            await self._connection.execute(statement, *arguments, timeout=_LONGEST_COPY_S)

    async def rows(self, sql: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """Return a query's rows; its parameters are `$1` and so on."""
        with self._translated():
            rows: list[asyncpg.Record] = await self._connection.fetch(sql, *arguments, timeout=_LONGEST_COPY_S)
        return rows

    async def copy_in(self, table: str, columns: Sequence[str], lines: bytes) -> None:
        """Append lines of COPY's text to a table."""
        with self._translated():
            await self._connection.copy_to_table(
                table,
                source=io.BytesIO(lines),
                columns=columns,
                format="text",
                encoding="utf-8",
                timeout=_LONGEST_COPY_S,
            )

    async def copy_out(self, sql: str, parameters: Mapping[str, Any], form: LineForm, sink: Write) -> None:
        """Run the query and hand its lines to `sink`, whole lines at a time; what `sink` raises comes out as it is."""
        statement, arguments = _positional(sql, parameters)
        taker = _Taker(sink)
        with self._translated(taker):
            await self._connection.copy_from_query(
                statement,
                *arguments,
                output=taker,
                format="csv",
                header=form.header,
                delimiter=form.delimiter,
                quote=form.quote,
                encoding="utf-8",
                timeout=_LONGEST_COPY_S,
            )

    @contextlib.contextmanager
    def _translated(self, taker: _Taker | None = None) -> Iterator[None]:
        try:
            yield
        except (asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError) as error:
            raise StoreUnavailable(_AWAY) from error
        except asyncpg.InsufficientPrivilegeError as error:
            raise StoreUnavailable(_NO_TEMPORARY_TABLES) from error
        except asyncpg.InterfaceError as error:
            # Of an open connection it speaks of a mistake of ours.
            if not self._connection.is_closed():
                raise
            raise StoreUnavailable(_AWAY) from error
        except OSError as error:  # Time-outs are among them.
            if taker is not None and error is taker.failure:
                raise
            # A time-out with a number is the network's, not ours.
            is_over = isinstance(error, TimeoutError) and error.errno is None
            raise StoreUnavailable(_TOO_LONG if is_over else _AWAY) from error


class Copying:
    """Opens connections and copies."""

    def __init__(self, database: Database) -> None:
        self._connect_arguments = connect_arguments(database.engine.url)

    async def copy(self, sql: str, parameters: Mapping[str, Any], form: LineForm, sink: Write) -> None:
        """Run one query on a connection of its own, and hand its lines to `sink`, whole lines at a time.

        Raises:
            StoreUnavailable: PostgreSQL cannot be reached, or went away in the middle.
        """
        async with self.session() as session:
            await session.copy_out(sql, parameters, form, sink)

    @contextlib.asynccontextmanager
    async def session(self, *, writes: bool = False) -> AsyncIterator[Session]:
        """Open a connection, which may write if it is told so: into temporary tables.

        However the block ends, the connection and what the server does for it are gone.

        Raises:
            StoreUnavailable: PostgreSQL cannot be reached, or went away in the middle.
        """
        settings = _SETTINGS | {"default_transaction_read_only": "off" if writes else "on"}
        try:
            connection = await asyncpg.connect(
                **self._connect_arguments, timeout=_CONNECT_TIMEOUT_S, server_settings=settings
            )
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise StoreUnavailable(_AWAY) from error
        try:
            yield Session(connection)
        finally:
            # Without a word of farewell, for which a server in the middle of a COPY would not have an ear.
            connection.terminate()


def _positional(sql: str, parameters: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Write `:name` as `$1`, and put the parameters in that order."""
    compiled = text(sql).compile(dialect=dialect())  # type: ignore[no-untyped-call]  # The dialect is not typed.
    return compiled.string, [parameters[name] for name in compiled.positiontup or ()]
