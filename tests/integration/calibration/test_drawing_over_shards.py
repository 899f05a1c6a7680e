"""The same users and numbers from a ClickHouse whose tables are spread over two shards."""

from collections.abc import AsyncIterator

import pytest

from app.core.clickhouse import ClickHouse
from tests.integration.calibration import test_drawing
from tests.pipeline import cluster_engine

# Collected here as well, where they find the `clickhouse` below.
shop = test_drawing.shop
test_draw_over_shards = test_drawing.test_draw__either_store__gives_the_same_users_numbers_and_splits

_DATABASE = "sharded_calibrations"


@pytest.fixture(scope="module")
async def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ClickHouse]:
    async with cluster_engine.opened(tmp_path_factory.mktemp("calibrated_shards"), _DATABASE) as shards:
        yield shards
