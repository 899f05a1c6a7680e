"""How much PostgreSQL's newest rows hold, found out before they are read to travel with a query to ClickHouse."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.measurement.errors import TailTooLarge

# What travels with a query in about a second, and is in memory meanwhile: a row's JSON may have 16 kB.
MOST_BYTES = 128 * 1024 * 1024


def sizing(column: str, rows: str) -> TextClause:
    """Return the statement for how many rows there are, and how many bytes of JSON in them.

    column: all of a row that may be large. rows: the statement for them, from FROM to `LIMIT :most_rows`.

    What is stored as it is need not be read for that; what is compressed takes as much as its text has.
    """
    return text(
        "SELECT count(*) AS number, sum(CASE WHEN"  # noqa: S608  # Made of constants.
        f" pg_column_compression({column}) IS NULL THEN pg_column_size({column})"
        f" ELSE octet_length(CAST({column} AS text)) END) AS size FROM (SELECT {column}{rows}) AS waiting"
    )


async def refuse_too_large(connection: AsyncConnection, size: TextClause, parameters: Mapping[str, Any]) -> None:
    """Run a statement made by `sizing`.

    Raises:
        TailTooLarge: they are `most_rows`, so that there may be more, or hold too much.
    """
    found = (await connection.execute(size, parameters)).one()
    if found.number >= parameters["most_rows"] or (found.size or 0) > MOST_BYTES:
        raise TailTooLarge
