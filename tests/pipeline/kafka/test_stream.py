"""From the outbox to Kafka: every row once, where it belongs and in order; and the beats that prove it."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import msgspec
import pytest

from app.pipeline.lanes import came_through, kafka_lanes
from tests.factories import ask, make_experiment
from tests.pipeline.kafka.reading import PARTITIONS, Reader, Record
from tests.pipeline.payloads import record_events
from tests.service_process import TOKEN, ServiceProcess

pytestmark = pytest.mark.xdist_group("kafka")

NEVER = datetime.min.replace(tzinfo=UTC)
FACTS = (
    "SELECT id, aggregatetype, aggregateid, type, payload::text AS payload FROM outbox_events"
    " WHERE type <> 'heartbeat.beat' ORDER BY xid, seq"
)


async def test_stream__facts_of_the_service__arrive_once_where_they_belong_and_in_order(
    kafka_service: ServiceProcess, reader: Reader, outbox: asyncpg.Connection
) -> None:
    before = {row["id"] for row in await outbox.fetch(FACTS)}
    await asyncio.to_thread(_use_the_product, kafka_service)

    written = [row for row in await outbox.fetch(FACTS) if row["id"] not in before]
    await reader.until_has(row["id"] for row in written)

    assert {row["type"] for row in written} == {
        "experiment.changed",
        "assignment.created",
        "override.changed",
        "event.recorded",
    }
    assert sorted(record.id for record in reader.facts) == sorted(row["id"] for row in written)
    arrived = {record.id: record for record in reader.facts}
    for row in written:
        record = arrived[row["id"]]
        assert record.topic == f"experiments.{row['aggregatetype']}"
        assert (record.key, record.type) == (row["aggregateid"], row["type"])
        assert msgspec.json.decode(record.payload) == msgspec.json.decode(row["payload"])
    assert _by_key((record.topic, record.key, record.id) for record in reader.facts) == _by_key(
        (f"experiments.{row['aggregatetype']}", row["aggregateid"], row["id"]) for row in written
    )


async def test_stream__service_at_work__beats_reach_every_partition(
    kafka_service: ServiceProcess, reader: Reader, outbox: asyncpg.Connection
) -> None:
    await record_events(outbox, [uuid4()])

    await reader.until(lambda: set(map(_place, _proofs(reader))) == set(PARTITIONS), "a beat reaches every partition")

    beats = [record for record in reader.records if record.is_beat]
    assert kafka_service.process.poll() is None
    assert len(_proofs(reader)) == len(beats), "a beat went astray"
    assert {record.field("lane") for record in beats} == {lane.number for lane in kafka_lanes()}


async def test_stream__transactions_that_overlap__no_row_comes_behind_a_beat_that_claims_it(
    kafka_service: ServiceProcess, reader: Reader, connect_stack: Callable[..., Any]
) -> None:
    assert kafka_service.process.poll() is None
    connections = [await connect_stack() for _ in range(4)]

    written = await asyncio.gather(*(_write_slowly(one, writer) for writer, one in enumerate(connections)))
    ids = {id_ for some in written for id_ in some}

    await reader.until_has(ids)
    newest = max(_moment(record, "ingested_at") for record in reader.facts)
    await reader.until(lambda: _watermark(reader) > newest, "the watermark passes every row")

    for records in reader.by_partition().values():
        claimed = NEVER
        for record in records:
            if record.is_beat:
                claimed = _moment(record, "watermark")
            else:
                assert _moment(record, "ingested_at") >= claimed


def _use_the_product(service: ServiceProcess) -> None:
    with httpx.Client(
        base_url=f"{service.url}/api/v1", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30
    ) as client:
        experiment = make_experiment(client)
        for user in ("ann", "böb", "user/3", "u" * 256):
            ask(client, experiment, user)
            for number in range(3):
                event = {"user_id": user, "event_type": "purchase", "value": number, "properties": {"ü": ["€", number]}}
                assert client.post("/events", json=event).is_success
        path = f"/experiments/{experiment['id']}/overrides/ann"
        assert client.put(path, json={"variant": "v1"}).is_success
        assert client.delete(path).is_success
        assert client.post(f"/experiments/{experiment['id']}/pause").is_success


async def _write_slowly(connection: asyncpg.Connection, writer: int) -> list[Any]:
    """Write in transactions that stay open for a while, as users of their own."""
    written = []
    for _ in range(8):
        async with connection.transaction():
            for user in range(3):
                ids = [uuid4() for _ in range(2)]
                await record_events(connection, ids, user_id=f"slow-{writer}-{user}")
                written += ids
                await asyncio.sleep(random.uniform(0, 0.1))
    return written


def _proofs(reader: Reader) -> list[Record]:
    """Return the beats that came through the partition whose lane they name."""
    return [
        record
        for record in reader.records
        if record.is_beat and came_through(record.payload, record.topic, record.partition)
    ]


def _watermark(reader: Reader) -> datetime:
    """Return what a loader would have proven: the lowest of the lanes' last beats."""
    last = {_place(record): _moment(record, "watermark") for record in _proofs(reader)}
    return min(last.values()) if len(last) == len(PARTITIONS) else NEVER


def _place(record: Record) -> tuple[str, int]:
    return record.topic, record.partition


def _moment(record: Record, name: str) -> datetime:
    return datetime.fromisoformat(record.field(name))


def _by_key(rows: Any) -> dict[tuple[str, str], list[Any]]:
    grouped: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for topic, key, id_ in rows:
        grouped[topic, key].append(id_)
    return grouped
