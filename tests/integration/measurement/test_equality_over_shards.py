"""The same numbers from a ClickHouse whose tables are spread over two shards: the property test, once more."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest

from app.core.clickhouse import ClickHouse
from app.pipeline import schema
from tests.integration.measurement import test_equality
from tests.pipeline import cluster_engine

# Collected here as well, where it finds the `clickhouse` below.
test_same_history = test_equality.test_measuring__same_history__equal_from_every_source_and_as_counted_by_hand

_DATABASE = "sharded"


@pytest.fixture(scope="module")
async def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ClickHouse]:
    folder: Path = tmp_path_factory.mktemp("measured_shards")
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
