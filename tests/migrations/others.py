"""Others who use the database while it is migrated."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

# Those who wait for a table are asked for by its name; for others to end: by an empty one.
_WAITS = """
SELECT EXISTS (
    SELECT FROM pg_locks WHERE NOT granted AND CASE locktype
        WHEN 'relation' THEN database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND relation = to_regclass($1) AND mode = $2
        WHEN 'virtualxid' THEN $1 = ''
        ELSE false
    END
)
"""


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection."""
    connection = await asyncpg.connect(url, ssl=False, timeout=10)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def keeping(url: str, statement: str) -> AsyncIterator[None]:
    """Leave the transaction of a statement open."""
    async with opened(url) as connection, connection.transaction():
        await connection.execute(statement)
        yield


async def someone_waits(connection: asyncpg.Connection, *, table: str = "", mode: str = "") -> None:
    """Return at a moment at which somebody waits for the table's lock, or for somebody else to end."""
    while not await connection.fetchval(_WAITS, table, mode):  # noqa: ASYNC110  # Of another process.
        await asyncio.sleep(0.005)
