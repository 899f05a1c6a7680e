"""The same numbers from a ClickHouse whose tables are spread over two shards: some tests once more."""

from collections.abc import AsyncIterator

import pytest

from app.core.clickhouse import ClickHouse
from tests.integration.measurement import test_equality, test_known_mistakes
from tests.pipeline import cluster_engine

# Collected here as well, where they find the `clickhouse` below.
test_same_history = test_equality.test_measuring__same_history__equal_from_every_source_and_as_counted_by_hand
test_absurd_values = test_known_mistakes.test_sum__absurd_values_in_one_arm__cost_the_other_arms_nothing

_DATABASE = "sharded"


@pytest.fixture(scope="module")
async def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ClickHouse]:
    async with cluster_engine.opened(tmp_path_factory.mktemp("measured_shards"), _DATABASE) as shards:
        yield shards
