"""What waits in Kafka, and reading all of it once more."""

from uuid import uuid4

import asyncpg
import httpx
import pytest

from app.core.clickhouse import ClickHouse
from app.core.metrics import Metrics
from app.pipeline.kafka_history import load_from_kafka
from app.pipeline.kafka_offsets import waiting
from app.pipeline.loader import Loader
from tests.pipeline.kafka.conftest import Stack
from tests.pipeline.kafka.loading import has_all, number, record
from tests.pipeline.outbox_run import eventually
from tests.service_process import TOKEN, ServiceProcess

pytestmark = [pytest.mark.xdist_group("kafka"), pytest.mark.timeout(300)]


async def test_waiting__group_that_never_read__lags_by_all_there_is(stack: Stack, outbox: asyncpg.Connection) -> None:
    await record(outbox, 300)
    nobody = f"nobody-{uuid4().hex}"

    await eventually(lambda: _lags(stack, nobody, 300))


async def test_pipeline__behind_kafka__says_what_waits_where(
    kafka_service: ServiceProcess, outbox: asyncpg.Connection
) -> None:
    await record(outbox, 100)
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as client:

        async def status() -> dict[str, object]:
            found: dict[str, object] = (await client.get(f"{kafka_service.url}/api/v1/system/pipeline")).json()
            return found

        async def is_drained() -> bool:
            lag = (await status())["consumer_lag"]
            return isinstance(lag, dict) and sum(lag.values()) < 100

        await eventually(is_drained)
        found = await status()

    assert found["mode"] == "kafka"
    assert isinstance(found["consumer_lag"], dict)
    assert set(found["consumer_lag"]) == {
        f"experiments.{kind}" for kind in ("assignment", "override", "event", "experiment")
    }
    assert isinstance(found["dead_letters"], dict)
    assert found["dead_letters"]["where"] == "topic experiments.dead-letters of Kafka"
    assert isinstance(found["slot"], dict)
    assert found["slot"]["active"]
    assert found["slot"]["wal_status"] in {"reserved", "extended"}


async def test_load_from_kafka__empty_clickhouse__gets_every_row_and_no_beat(
    stack: Stack, outbox: asyncpg.Connection, history: ClickHouse
) -> None:
    ids = await record(outbox, 500)
    await eventually(lambda: _lags(stack, f"nobody-{uuid4().hex}", 500))
    said: list[str] = []

    async def everything() -> bool:
        await load_from_kafka(stack.brokers, Loader(history, Metrics()), say=said.append)
        return await has_all(history, ids)

    await eventually(everything)

    assert await number(history, "SELECT count() FROM heartbeats") == 0
    assert await number(history, "SELECT count() FROM dead_letters") == 0
    assert said[-1].startswith("from Kafka: ")


async def _lags(stack: Stack, group: str, at_least: int) -> bool:
    found = await waiting(stack.brokers, group)
    return found.lag["experiments.event"] >= at_least
