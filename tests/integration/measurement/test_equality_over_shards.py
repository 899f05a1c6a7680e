"""The same numbers from a ClickHouse whose tables are spread over two shards: the property test, once more."""

from collections.abc import AsyncIterator

import pytest

from app.core.clickhouse import ClickHouse
from tests.integration.measurement import test_equality
from tests.pipeline import cluster_engine

# Collected here as well, where it finds the `clickhouse` below.
test_same_history = test_equality.test_measuring__same_history__equal_from_every_source_and_as_counted_by_hand

_DATABASE = "sharded"


@pytest.fixture(scope="module")
async def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ClickHouse]:
    async with cluster_engine.opened(tmp_path_factory.mktemp("measured_shards"), _DATABASE) as shards:
        yield shards
