"""From Kafka to ClickHouse: the loader as a process, on the real programs."""

import asyncio
import signal
from uuid import uuid4

import asyncpg
import httpx
import msgspec
import pytest
from aiokafka import TopicPartition

from app.core.clickhouse import ClickHouse
from app.events.schemas import MAX_PROPERTIES_BYTES
from app.pipeline.marker import find_marker, put_new_marker
from app.pipeline.schema import migrate
from tests.pipeline.kafka.conftest import Stack, StartLoader
from tests.pipeline.kafka.holding import holding_proxy
from tests.pipeline.kafka.loading import ClickHouseProgram, LoaderProcess, has_all, number, record
from tests.pipeline.kafka.losing import delete_topics, drop_records, halt, make, make_anew, produce_events, recover
from tests.pipeline.outbox_run import eventually
from tests.service_process import TOKEN, ServiceProcess, experiment_body, wait_for_history

pytestmark = [pytest.mark.xdist_group("kafka"), pytest.mark.timeout(300)]

# In JSON five characters, in PostgreSQL 309.
LONGEST_NUMBER = 1e308


async def test_loader__event_over_http__reaches_clickhouse(
    kafka_service: ServiceProcess, history: ClickHouse, start_loader: StartLoader
) -> None:
    await asyncio.to_thread(start_loader)
    event_id = uuid4()
    event = {"event_id": str(event_id), "user_id": "ann", "event_type": "purchase", "value": 1.5}

    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        (await client.post(f"{kafka_service.url}/api/v1/events", json=event)).raise_for_status()

    await eventually(lambda: has_all(history, {event_id}))


async def test_loader__longest_row_that_the_api_takes__reaches_clickhouse(
    kafka_service: ServiceProcess, history: ClickHouse, start_loader: StartLoader
) -> None:
    await asyncio.to_thread(start_loader)
    event_id = uuid4()
    properties = {"numbers": [LONGEST_NUMBER] * ((MAX_PROPERTIES_BYTES - len('{"numbers":[]}')) // len("1e308,"))}
    event = {"event_id": str(event_id), "user_id": "ann", "event_type": "purchase", "properties": properties}

    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        (await client.post(f"{kafka_service.url}/api/v1/events", json=event)).raise_for_status()

    await eventually(lambda: has_all(history, {event_id}))
    (row,) = await history.rows("SELECT properties FROM events FINAL WHERE event_id = {id:UUID}", {"id": event_id})
    assert len(row["properties"]) > 800_000
    assert [float(number) for number in msgspec.json.decode(row["properties"])["numbers"]] == properties["numbers"]


async def test_loader__told_to_stop__has_flushed_and_committed_what_it_took(
    outbox: asyncpg.Connection, history: ClickHouse, start_loader: StartLoader
) -> None:
    before = await asyncio.to_thread(start_loader)
    await eventually(lambda: _lag_is(before, 0))
    await asyncio.to_thread(before.terminate)
    loader = await asyncio.to_thread(start_loader, LOADER_FLUSH_SECONDS="60")
    ids = await record(outbox, 500)
    await eventually(lambda: _took(loader, 500))

    code = await asyncio.to_thread(loader.terminate)

    assert code == 0, loader.said()
    assert await has_all(history, ids)


async def test_loader__killed_between_insert_and_commit__nothing_is_lost_or_counted_twice(
    outbox: asyncpg.Connection, server: ClickHouseProgram, history: ClickHouse, start_loader: StartLoader
) -> None:
    with holding_proxy(server.port, table="events") as proxy:
        loader = await asyncio.to_thread(start_loader, CLICKHOUSE_PORT=str(proxy.port))
        proxy.holding = True
        ids = await record(outbox, 500)
        assert await asyncio.to_thread(proxy.stored.wait, 30)

        await asyncio.to_thread(loader.kill)

    stored_before = await number(history, "SELECT count() FROM events")
    await asyncio.to_thread(start_loader)
    await eventually(lambda: has_all(history, ids))
    assert stored_before > 0, "the rows were in ClickHouse when the loader died"
    assert await number(history, "SELECT count() - uniqExact(event_id) FROM events FINAL") == 0


async def test_loader__answer_to_an_insert_lost__sends_it_again_and_clickhouse_drops_it(
    outbox: asyncpg.Connection, server: ClickHouseProgram, history: ClickHouse, start_loader: StartLoader
) -> None:
    await history.command("SYSTEM STOP MERGES events")
    with holding_proxy(server.port, table="events") as proxy:
        loader = await asyncio.to_thread(start_loader, CLICKHOUSE_PORT=str(proxy.port))
        await eventually(lambda: _lag_is(loader, 0))
        before = await number(history, "SELECT count() FROM events")
        proxy.tokens.clear()
        proxy.holding = True
        ids = await record(outbox, 500)
        assert await asyncio.to_thread(proxy.stored.wait, 30)
        stored_at_first = await number(history, "SELECT count() FROM events") - before

        proxy.holding = False
        await eventually(lambda: has_all(history, ids))
        await asyncio.to_thread(loader.terminate)

    assert stored_at_first > 0
    assert proxy.tokens[0] == proxy.tokens[1], "the same rows are sent again under the same token"
    assert await number(history, "SELECT count() FROM events") - before == 500


async def test_loader__topic_made_anew_while_it_did_not_look__begins_at_the_start(
    stack: Stack, history: ClickHouse, start_loader: StartLoader
) -> None:
    partition = TopicPartition("experiments.event", 0)
    await asyncio.to_thread(halt, stack)
    try:
        await asyncio.to_thread(make_anew, stack, partition.topic)
        loader = await asyncio.to_thread(start_loader)
        first = await produce_events(stack.brokers, partition, 50)
        await eventually(lambda: has_all(history, first))
        await eventually(lambda: _lag_is(loader, 0))

        loader.process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(make_anew, stack, partition.topic)
        second = await produce_events(stack.brokers, partition, 200)
        loader.process.send_signal(signal.SIGCONT)

        await eventually(lambda: has_all(history, second))
    finally:
        await asyncio.to_thread(recover, stack)


async def test_loader__topic_gone_for_a_while__takes_it_up_again(
    stack: Stack, history: ClickHouse, start_loader: StartLoader
) -> None:
    partition = TopicPartition("experiments.event", 0)
    await asyncio.to_thread(halt, stack)
    try:
        await asyncio.to_thread(make_anew, stack, partition.topic)
        loader = await asyncio.to_thread(start_loader)
        await eventually(lambda: _lag_is(loader, 0))

        await asyncio.to_thread(delete_topics, stack, partition.topic)
        await eventually(lambda: _has_no_part_of(loader, partition.topic))
        await asyncio.to_thread(make, stack, partition.topic)
        ids = await produce_events(stack.brokers, partition, 50)

        await eventually(lambda: has_all(history, ids))
    finally:
        await asyncio.to_thread(recover, stack)


async def test_loader__one_of_two_killed__the_other_takes_its_partitions(
    outbox: asyncpg.Connection, history: ClickHouse, start_loader: StartLoader
) -> None:
    first, second = await asyncio.gather(asyncio.to_thread(start_loader), asyncio.to_thread(start_loader))
    await eventually(lambda: _share(first, second))
    ids = await record(outbox, 300)
    await eventually(lambda: has_all(history, ids))

    await asyncio.to_thread(first.kill)
    ids |= await record(outbox, 300)

    await eventually(lambda: has_all(history, ids))
    assert await number(history, "SELECT count() - uniqExact(event_id) FROM events FINAL") == 0


async def test_loader__clickhouse_away_for_a_while__waits_and_goes_on(
    outbox: asyncpg.Connection, server: ClickHouseProgram, history: ClickHouse, start_loader: StartLoader
) -> None:
    loader = await asyncio.to_thread(start_loader)
    await eventually(lambda: _lag_is(loader, 0))

    await asyncio.to_thread(server.kill)
    ids = await record(outbox, 500)
    await eventually(lambda: _has_retried(loader))
    ready = await asyncio.to_thread(httpx.get, f"{loader.url}/ready", timeout=10)
    await asyncio.to_thread(server.start)

    await eventually(lambda: has_all(history, ids))
    assert (ready.status_code, ready.json()["checks"]) == (503, {"kafka": "ok", "clickhouse": "down"})
    assert await number(history, "SELECT count() - uniqExact(event_id) FROM events FINAL") == 0


async def test_loader__asked_how_it_is__says_so_and_shows_metrics_to_those_who_may(start_loader: StartLoader) -> None:
    loader = await asyncio.to_thread(start_loader, METRICS_TOKEN="of-prometheus")

    async with httpx.AsyncClient(base_url=loader.url) as client:
        health = await client.get("/health")
        refused = await client.get("/metrics")
        shown = await client.get("/metrics", headers={"Authorization": "Bearer of-prometheus"})

    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json")
    assert "loader_flush_duration_seconds" in shown.text


async def test_loader__kafka_dropped_what_nobody_read__loads_the_rest_into_a_history_that_is_not_proven(
    stack: Stack, history: ClickHouse, start_loader: StartLoader
) -> None:
    partition = TopicPartition("experiments.event", 0)
    loader = await asyncio.to_thread(start_loader)
    await eventually(lambda: _lag_is(loader, 0))
    assert await asyncio.to_thread(loader.terminate) == 0
    before = await put_new_marker(history)
    dropped = await produce_events(stack.brokers, partition, 50)
    await asyncio.to_thread(drop_records, stack, partition)
    kept = await produce_events(stack.brokers, partition, 20)

    again = await asyncio.to_thread(start_loader)

    await eventually(lambda: has_all(history, kept))
    assert not await has_all(history, dropped)
    now = await find_marker(history)
    assert now is not None
    assert now.id != before.id
    assert "loader.rows_passed_over" in again.said()


async def test_loader__another_clickhouse_in_the_same_place__is_given_everything(
    outbox: asyncpg.Connection, server: ClickHouseProgram, history: ClickHouse, start_loader: StartLoader
) -> None:
    loader = await asyncio.to_thread(start_loader)
    ids = await record(outbox, 100)
    await eventually(lambda: has_all(history, ids))
    await eventually(lambda: _lag_is(loader, 0))

    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.empty)
    await asyncio.to_thread(server.start)
    await migrate(history)

    await eventually(lambda: has_all(history, ids))


def test_loader__settings_missing__says_which_and_ends(stack: Stack) -> None:
    without_kafka = stack.run("loader", KAFKA_BOOTSTRAP_SERVERS="", CLICKHOUSE_HOST="127.0.0.1")
    without_clickhouse = stack.run("loader")

    assert (without_kafka.returncode, without_clickhouse.returncode) == (1, 1)
    assert without_kafka.stderr.startswith("error: KAFKA_BOOTSTRAP_SERVERS: must be set")
    assert without_clickhouse.stderr.startswith("error: CLICKHOUSE_HOST: must be set")


async def test_service__kafka_and_no_clickhouse_server__fills_the_engine_within(kafka_service: ServiceProcess) -> None:
    with kafka_service.client() as client:
        key = await asyncio.to_thread(_experiment, client)
        await asyncio.to_thread(wait_for_history, client, key)


def _experiment(client: httpx.Client) -> str:
    key = f"history-{uuid4().hex[:8]}"
    client.post("/api/v1/experiments", json=experiment_body(key)).raise_for_status()
    return key


async def _share(*loaders: LoaderProcess) -> bool:
    """Tell whether each has partitions."""
    held = [await asyncio.to_thread(loader.metrics) for loader in loaders]
    return all(any(name.startswith("loader_lag_records{") for name in samples) for samples in held)


async def _has_no_part_of(loader: LoaderProcess, topic: str) -> bool:
    samples = await asyncio.to_thread(loader.metrics)
    return not any(name.startswith("loader_lag_records{") and topic in name for name in samples)


async def _has_retried(loader: LoaderProcess) -> bool:
    return (await asyncio.to_thread(loader.metrics))["loader_retries_total"] >= 2


async def _took(loader: LoaderProcess, number: int) -> bool:
    return sum(await _lags(loader)) >= number


async def _lag_is(loader: LoaderProcess, number: int) -> bool:
    """Tell whether it has partitions, and so much to do."""
    lags = await _lags(loader)
    return bool(lags) and sum(lags) == number


async def _lags(loader: LoaderProcess) -> list[float]:
    samples = await asyncio.to_thread(loader.metrics)
    return [value for name, value in samples.items() if name.startswith("loader_lag_records{")]
