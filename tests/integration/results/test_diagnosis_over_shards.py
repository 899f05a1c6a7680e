"""The same counts for a diagnosis from a ClickHouse whose tables are spread over two shards."""

from collections.abc import AsyncIterator

import pytest

from app.core.clickhouse import ClickHouse
from tests.integration.results import test_diagnosis_stores
from tests.pipeline import cluster_engine

# Collected here as well, where they find the `clickhouse` below.
test_people = test_diagnosis_stores.test_people__both_stores_have_all__are_the_same
test_sent = test_diagnosis_stores.test_sent__both_stores_have_all__is_the_same


@pytest.fixture(scope="module")
async def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ClickHouse]:
    async with cluster_engine.opened(tmp_path_factory.mktemp("two_shards"), "sharded_diagnosis") as shards:
        yield shards
