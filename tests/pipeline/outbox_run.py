"""Running the relay for as long as there is something to relay."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import PipelineSettings
from app.pipeline.loader import Loader
from app.pipeline.positions import Position, Positions, relay_name
from app.pipeline.relay import Relay

# For a machine that does much else; nothing waits longer than it must.
WITHIN_S = 60.0


async def drain(
    database: Database,
    clickhouse: ClickHouse,
    *,
    metrics: Metrics | None = None,
    batch_rows: int = 10_000,
) -> None:
    """Relay every row that may be relayed now."""
    settings = PipelineSettings(RELAY_BATCH_ROWS=batch_rows)
    relay = Relay(database, clickhouse, Loader(clickhouse, metrics or Metrics()), settings)
    relay.stop()  # Which lets it finish what is there.
    await relay.run()


async def positions_of(postgres: asyncpg.Connection, clickhouse: ClickHouse) -> Positions:
    positions = Positions(clickhouse, await relay_name(postgres))
    await positions.get()
    return positions


async def rewind(postgres: asyncpg.Connection, clickhouse: ClickHouse, position: Position) -> None:
    """Set the relay back, as if it had died after inserting rows and before storing its position."""
    await (await positions_of(postgres, clickhouse)).put(position)


async def column(clickhouse: ClickHouse, sql: str) -> list[Any]:
    """Return the only column of a query."""
    return [value for row in await clickhouse.rows(sql) for value in row.values()]


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the condition holds, and fail when it does not within a reasonable time."""
    async with asyncio.timeout(WITHIN_S):
        while not await condition():  # noqa: ASYNC110  # What is awaited happens in other processes.
            await asyncio.sleep(0.02)
