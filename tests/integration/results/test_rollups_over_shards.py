"""Rollups of a ClickHouse whose tables are spread over two shards: the property test, once more."""

from typing import Any

import asyncpg
from hypothesis import settings

from tests.integration.results import test_equality_over_shards, test_rollups
from tests.integration.results.world import World

# Found here as well: the ClickHouse of two shards, and the builder's connection.
clickhouse = test_equality_over_shards.clickhouse
connection = test_rollups.connection


# Every statement goes to both shards, which takes its time.
@settings(test_rollups.MANY, max_examples=4)
@test_rollups.ANY_STREAM
async def test_observations__rollups_over_two_shards__equal_raw_ones(
    world: World, connection: asyncpg.Connection, **stream: Any
) -> None:
    await test_rollups.build_and_compare(world, connection, **stream)
