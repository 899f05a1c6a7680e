"""Changing tables while others read and write them. Migrations of all times use this, so what it does stays."""

import time

import structlog
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from app.core.db import sqlstate

log = structlog.get_logger()

# Ends the name of an index that nobody needs any more.
SUPERSEDED = "_superseded"
# All who come after one that waits for a table's lock stand behind it, so it does not wait for longer.
_LOCK_WAIT = "SET lock_timeout = '200ms'"
# Building concurrently waits for others, and nobody waits for it.
_NO_LIMIT = "SET lock_timeout = 0"
_LOCK_NOT_AVAILABLE = "55P03"
# In between, those who stood behind get their turn.
_PAUSE_S = 0.8
# A vacuum of a large table keeps others from locking it for that long.
_PATIENCE_S = 900.0
_IS_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"


def insist(connection: Connection, statement: str, *, patience_s: float = _PATIENCE_S) -> None:
    """Execute what locks a table for an instant, again and again where somebody keeps the table.

    Raises:
        DBAPIError: the statement fails, or somebody keeps the table all the time.
    """
    until = time.monotonic() + patience_s
    connection.execute(text(_LOCK_WAIT))
    while True:
        try:
            connection.execute(text(statement))
        except DBAPIError as error:
            if not _is_locked(error) or time.monotonic() > until:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def build_index(connection: Connection, name: str, of: str) -> None:
    """Build an index concurrently, unless it is there; `of` is what stands behind its name.

    One that was cut short is begun anew.
    """
    connection.execute(text(_NO_LIMIT))
    is_valid = connection.scalar(text(_IS_VALID), {"name": name})
    if is_valid is False:
        connection.execute(text(f"DROP INDEX CONCURRENTLY {name}"))
    if not is_valid:
        connection.execute(text(f"CREATE INDEX CONCURRENTLY {name} ON {of}"))


def validate(connection: Connection, table: str, *constraints: str) -> None:
    """Have constraints that were added as not valid hold for all rows; nobody waits meanwhile."""
    connection.execute(text(_NO_LIMIT))
    for constraint in constraints:
        connection.execute(text(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}"))


def drop_or_supersede(connection: Connection, index: str, *, patience_s: float) -> None:
    """Drop an index of a partitioned table, which cannot be done concurrently.

    Where somebody keeps the table it gets another name, under which maintenance drops it later.
    """
    try:
        insist(connection, f"DROP INDEX IF EXISTS {index}", patience_s=patience_s)
    except DBAPIError as error:
        if not _is_locked(error):
            raise
        # Nobody who reads or writes keeps it from that.
        insist(connection, f"ALTER INDEX {index} RENAME TO {index}{SUPERSEDED}")
        log.warning("migration.index_superseded", index=index, name=f"{index}{SUPERSEDED}")


def take_back(connection: Connection, index: str) -> None:
    """Give an index its name again that was to be dropped later."""
    insist(connection, f"ALTER INDEX IF EXISTS {index}{SUPERSEDED} RENAME TO {index}")


def _is_locked(error: DBAPIError) -> bool:
    return sqlstate(error) == _LOCK_NOT_AVAILABLE
