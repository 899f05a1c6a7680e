"""The same exports from a ClickHouse whose tables are spread over two shards: the property test, once more."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.core.clickhouse import ClickHouse
from tests.integration.exports import test_brought
from tests.integration.results.world import World
from tests.pipeline import cluster_engine

# Collected here as well, where they find the `clickhouse` below.
bench, small_pages, undropped = test_brought.bench, test_brought.small_pages, test_brought.undropped
test_any_history = test_brought.test_exports__any_history_partly_dropped__are_as_before


@pytest.fixture(scope="module")
async def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ClickHouse]:
    async with cluster_engine.opened(tmp_path_factory.mktemp("two_shards"), "sharded_exports") as shards:
        yield shards


@pytest.fixture(scope="module")
def world(database: Any, clickhouse: ClickHouse) -> World:
    return World(database, clickhouse)
