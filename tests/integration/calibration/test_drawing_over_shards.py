"""The same users and numbers from a ClickHouse whose tables are spread over two shards."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest

from app.core.clickhouse import ClickHouse
from app.pipeline import schema
from tests.integration.calibration import test_drawing
from tests.pipeline import cluster_engine

# Collected here as well, where they find the `clickhouse` below.
shop = test_drawing.shop
test_draw_over_shards = test_drawing.test_draw__either_store__gives_the_same_users_numbers_and_splits

_DATABASE = "sharded_calibrations"


@pytest.fixture(scope="module")
async def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ClickHouse]:
    folder: Path = tmp_path_factory.mktemp("calibrated_shards")
    configuration = cluster_engine.configure(folder, _DATABASE)

    def connect(**options: Any) -> Any:
        return clickhouse_connect.get_client(
            interface="chdb",
            path=str(folder / "data"),
            tz_mode="aware",
            chdb_options={"config-file": str(configuration)},
            **options,
        )

    opened = await cluster_engine.TwoShards.over_engine(connect, _DATABASE)
    await schema.migrate(opened)
    yield opened
    await opened.close()
