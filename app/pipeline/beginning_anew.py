"""Having a history compared from the start, with tables emptied first that hold what is wrong."""

import asyncio
from collections.abc import Sequence

import asyncpg

from app.core.clickhouse import ClickHouse
from app.pipeline.comparison import EVER
from app.pipeline.ledger import floor_of_events, keep_floor, turn
from app.pipeline.marker import put_new_marker
from app.pipeline.rollups import invalidate_rollups
from app.pipeline.schema import alter
from app.pipeline.truth import EVENTS, EXPERIMENTS, EXPOSURES, OVERRIDES

TABLES = tuple(subject.table for subject in (EVENTS, EXPOSURES, OVERRIDES, EXPERIMENTS))

_PARTITIONS = "SELECT DISTINCT _partition_id AS partition FROM {table}"


class OnlyCopy(Exception):
    """ClickHouse alone has events that were to be deleted; the message says which."""


async def begin_anew(
    connection: asyncpg.Connection, clickhouse: ClickHouse, tables: Sequence[str], *, settle_s: float
) -> None:
    """End the watermark and then empty the tables; it holds again once everything was compared and nothing lacks.

    `settle_s` is how long an answer may take that was begun with the watermark of before. Cut short at any point, it
    leaves tables that are compared and filled like those of any other history that is not known.

    Raises:
        OnlyCopy: events were to be deleted that PostgreSQL does not have any more; nothing has happened.
        ClickHouseUnavailable: it cannot be reached.
    """
    async with keep_floor(connection):
        if EVENTS.table in tables and (floor := await floor_of_events(connection)) is not None:
            raise OnlyCopy(f"PostgreSQL has dropped events before {floor:%Y-%m-%d}: ClickHouse alone has them")
        async with turn(connection, clickhouse):
            await put_new_marker(clickhouse)
            if tables:
                await asyncio.sleep(settle_s)
            for table in tables:
                await _empty(clickhouse, table)
            await invalidate_rollups(clickhouse, EVER)


async def _empty(clickhouse: ClickHouse, table: str) -> None:
    for row in await clickhouse.rows(_PARTITIONS.format(table=table)):
        await alter(clickhouse, f"ALTER TABLE {table} DROP PARTITION ID '{row['partition']}'")
