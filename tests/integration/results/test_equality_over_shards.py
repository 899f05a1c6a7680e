"""The same answers from a ClickHouse whose tables are spread over two shards: the property tests, once more."""

from collections.abc import AsyncIterator

import pytest

from app.core.clickhouse import ClickHouse
from app.pipeline import schema
from tests.integration.results import test_equality
from tests.pipeline import cluster_engine
from tests.pipeline.outbox_run import column

# Collected here as well, where they find the `clickhouse` below.
hot, cold = test_equality.hot, test_equality.cold
test_same_history = test_equality.test_observations__same_history__equal_from_every_source_and_as_counted_by_hand
test_cohorts = test_equality.test_cohorts__same_history__equal_from_every_source_and_as_counted_by_hand
test_values_of_any_size = test_equality.test_observations__values_of_any_size__equal_from_every_source_and_never_nan

_DATABASE = "sharded"


@pytest.fixture(scope="module")
async def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ClickHouse]:
    async with cluster_engine.opened(tmp_path_factory.mktemp("two_shards"), _DATABASE) as shards:
        yield shards


async def test_insert__rows_of_many_users__are_spread_over_both_shards(clickhouse: ClickHouse) -> None:
    lines = [
        b'{"experiment_id": 1, "user_id": "spread-%d", "variant_id": 1, "exposed_at": "2026-01-01T00:00:00Z",'
        b' "removed": false, "epoch": 1, "ingested_at": "2026-01-01T00:00:00Z"}' % number
        for number in range(100)
    ]

    await clickhouse.insert_json("overrides", lines)

    users = "SELECT count() FROM overrides WHERE user_id LIKE 'spread-%' GROUP BY shardNum()"
    counts = await column(clickhouse, users)
    assert len(counts) == 2
    assert sum(counts) == 100


async def test_alter__partition_dropped__is_gone_from_every_shard(clickhouse: ClickHouse) -> None:
    lines = [
        b'{"project_id": 1, "event_id": "00000000-0000-0000-0000-%012d", "user_id": "user-%d", "event_type": "drop",'
        b' "ts": "%d-01-01T00:00:00Z", "ingested_at": "%d-01-01T00:00:00Z"}' % (number, number, year, year)
        for number, year in enumerate([2021, 2022] * 20)
    ]
    await clickhouse.insert_json("events", lines)
    left = "SELECT _partition_id AS month, count() AS number FROM events WHERE event_type = 'drop' GROUP BY month"
    assert len(await clickhouse.rows(left)) == 2

    await schema.alter(clickhouse, "ALTER TABLE events DROP PARTITION ID '202101'")

    assert await clickhouse.rows(left) == [{"month": "202201", "number": 20}]
