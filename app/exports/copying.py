"""One COPY out of PostgreSQL, on a connection of its own, piece by piece to whoever takes it.

One statement sees one state of the database, however long it takes, so no page can miss or repeat a row. It takes no
lock that any writer waits for; dropping a partition of events waits for it, and tries again later. PostgreSQL sends
no faster than the pieces are taken. The connection is not one of the pool's, which are for short work.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy import make_url, text
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from app.core.db import Database, StoreUnavailable
from app.exports.values import Write

_CONNECT_TIMEOUT_S = 3
# Nobody may hold back the database's clean-up for longer by downloading.
_LONGEST_COPY_S = 3600
_SETTINGS = {
    "application_name": "experimentation-export",
    "timezone": "UTC",
    "jit": "off",
    "default_transaction_read_only": "on",
    # The server itself notices that nobody is there any more, also while it has nothing to send yet.
    "client_connection_check_interval": "1s",
    # As for results: hash joins of many rows, one process each, and no plan by statistics that a bulk load left behind.
    "work_mem": "64MB",
    "enable_nestloop": "off",
    "enable_mergejoin": "off",
    "max_parallel_workers_per_gather": "0",
}
_AWAY = "PostgreSQL cannot be reached, or does not accept another connection now. Ask for the export again later."


@dataclass(frozen=True, slots=True)
class LineForm:
    """How COPY writes a line: CSV, with or without the names of the columns first."""

    header: bool = False
    # Both must be characters that the lines do not hold where lines must stand as they are.
    delimiter: str = ","
    quote: str = '"'


class Copying:
    """Opens connections and copies."""

    def __init__(self, database: Database) -> None:
        url = make_url(database.engine.url).set(drivername="postgresql")
        self._url = url.render_as_string(hide_password=False)

    async def copy(self, sql: str, parameters: Mapping[str, Any], form: LineForm, sink: Write) -> None:
        """Run the query and hand its lines to `sink`, whole lines at a time.

        However it ends, the connection and what the server does for it are gone when this returns or raises.

        Raises:
            StoreUnavailable: PostgreSQL cannot be reached, or went away in the middle.
        """
        statement, arguments = _positional(sql, parameters)
        async with self._connection() as connection:
            try:
                await connection.copy_from_query(
                    statement,
                    *arguments,
                    output=sink,
                    format="csv",
                    header=form.header,
                    delimiter=form.delimiter,
                    quote=form.quote,
                    encoding="utf-8",
                    timeout=_LONGEST_COPY_S,
                )
            except (asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError) as error:
                raise StoreUnavailable(_AWAY) from error

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        try:
            connection = await asyncpg.connect(self._url, timeout=_CONNECT_TIMEOUT_S, server_settings=_SETTINGS)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise StoreUnavailable(_AWAY) from error
        try:
            yield connection
        finally:
            # Without a word of farewell, for which a server in the middle of a COPY would not have an ear.
            connection.terminate()


def _positional(sql: str, parameters: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Write `:name` as `$1`, and put the parameters in that order."""
    compiled = text(sql).compile(dialect=dialect())  # type: ignore[no-untyped-call]  # The dialect is not typed.
    return compiled.string, [parameters[name] for name in compiled.positiontup or ()]
