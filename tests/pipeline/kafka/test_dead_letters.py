"""Poison: every kind is put aside with its reason, the next message goes on, and letters can be sent back."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from app.core.clickhouse import ClickHouse
from app.pipeline.dead_letters import TOPIC, Origin, original_headers
from app.pipeline.records import Record
from tests.pipeline.kafka.conftest import Stack, StartLoader
from tests.pipeline.kafka.loading import has_all
from tests.pipeline.outbox_run import eventually

pytestmark = [pytest.mark.xdist_group("kafka"), pytest.mark.timeout(300)]

EVENTS = "experiments.event"
NOW = "2026-06-01T12:00:00Z"
Headers = list[tuple[str, bytes]]


class Poisoned(NamedTuple):
    """A message that no table takes, and why."""

    reason: str
    value: bytes | None
    headers: Headers | None = None


def event(id_: UUID, **changes: Any) -> bytes:
    return msgspec.json.encode(
        {
            "schema_version": 1,
            "project_id": 1,
            "event_id": id_,
            "experiment_id": None,
            "user_id": "ann",
            "event_type": "purchase",
            "ts": NOW,
            "value": 1.5,
            "properties": {},
            "ingested_at": NOW,
            **changes,
        }
    )


def _without(payload: bytes, field: str) -> bytes:
    return msgspec.json.encode({name: value for name, value in msgspec.json.decode(payload).items() if name != field})


def headers(id_: UUID, type_: str = "event.recorded") -> Headers:
    return [("id", str(id_).encode()), ("eventType", type_.encode()), ("__debezium.context.task", b"0")]


ANY = uuid4()
POISON: Mapping[str, Poisoned] = {
    "not JSON": Poisoned("not-json", b"{this is no JSON"),
    "no text": Poisoned("not-json", event(ANY).replace(b"ann", b"a\xff")),
    "wrong types": Poisoned("wrong-fields", event(ANY, value="much", experiment_id="one")),
    "missing field": Poisoned("wrong-fields", _without(event(ANY), "user_id")),
    "tombstone": Poisoned("tombstone", None),
    "no headers": Poisoned("headers", event(ANY), []),
    "id that is none": Poisoned("headers", event(ANY), [("id", b"7"), ("eventType", b"event.recorded")]),
    "unknown type": Poisoned("unknown-type", event(ANY), headers(ANY, "event.forgotten")),
    "5 MB": Poisoned("too-large", event(ANY, properties={"long": "x" * 5_000_000})),
    "unknown version": Poisoned("unknown-version", event(ANY, schema_version=2)),
    "NUL character": Poisoned("nul-character", event(ANY, user_id="a\0b")),
    "arrived in 1970": Poisoned("timestamp", event(ANY, ts="1970-01-01T00:00:00Z", ingested_at="1970-01-01T00:00:00Z")),
    "happens in 2200": Poisoned("timestamp", event(ANY, ts="2200-01-01T00:00:00Z")),
}


@pytest.fixture
async def producer(stack: Stack) -> AsyncIterator[AIOKafkaProducer]:
    opened = AIOKafkaProducer(
        bootstrap_servers=stack.brokers, acks="all", compression_type="lz4", max_request_size=2**25
    )
    await opened.start()
    yield opened
    await opened.stop()


async def test_poison__of_every_kind__is_a_dead_letter_and_the_next_message_goes_through(
    stack: Stack,
    producer: AIOKafkaProducer,
    history: ClickHouse,
    start_loader: StartLoader,
) -> None:
    loader = await asyncio.to_thread(start_loader)
    sent: dict[int, str] = {}
    good = []
    for name, poison in POISON.items():
        lies = await producer.send_and_wait(
            EVENTS,
            value=poison.value,
            key=name.encode(),
            partition=3,
            headers=headers(ANY) if poison.headers is None else poison.headers,
        )
        sent[lies.offset] = name
        good.append(uuid4())
        await producer.send_and_wait(EVENTS, value=event(good[-1]), key=b"ann", partition=3, headers=headers(good[-1]))

    await eventually(lambda: has_all(history, set(good)))
    await eventually(lambda: _are_dead(stack, sent))

    letters = {Origin.of(letter.headers).offset: letter for letter in await _letters(stack)}
    for offset, name in sent.items():
        letter, poison = letters[offset], POISON[name]
        origin = Origin.of(letter.headers)
        assert (origin.reason, origin.topic, origin.partition, origin.attempts) == (poison.reason, EVENTS, 3, 1), name
        assert origin.detail
        assert (letter.key, letter.value) == (name.encode(), poison.value)
        assert original_headers(letter) == (headers(ANY) if poison.headers is None else poison.headers)
    samples = await asyncio.to_thread(loader.metrics)
    assert samples['dead_letters_total{reason="tombstone"}'] >= 1
    assert samples['dead_letters_total{reason="refused"}'] == 0


async def test_replay__letters_chosen__go_back_once_and_die_again_with_the_count(
    stack: Stack,
    producer: AIOKafkaProducer,
    history: ClickHouse,
    start_loader: StartLoader,
) -> None:
    await asyncio.to_thread(start_loader)
    first, second, follower = uuid4(), uuid4(), uuid4()
    for id_ in (first, second):
        await producer.send_and_wait(
            EVENTS, value=event(id_, schema_version=2), key=b"ann", partition=2, headers=headers(id_)
        )
    await producer.send_and_wait(EVENTS, value=event(follower), key=b"ann", partition=2, headers=headers(follower))
    await eventually(lambda: has_all(history, {follower}))
    await eventually(lambda: _has_attempts(stack, second, {1}))
    # By its place, too: every group that consumes, as that of a service in another test, writes letters of its own.
    letter = next(letter.offset for letter in await _letters(stack) if _id(letter) == second)
    chosen = ("--id", str(second), "--reason", "unknown-version", "--first", str(letter), "--last", str(letter))

    listed = await _replay(stack, "--dry-run", *chosen)
    done = await _replay(stack, *chosen)
    await eventually(lambda: _has_attempts(stack, second, {1, 2}))
    again = await _replay(stack, *chosen)
    forced = await _replay(stack, "--dry-run", "--all", *chosen)
    left_out = await _replay(stack, "--dry-run", "--id", str(first))

    assert "1 letters would be sent back" in listed
    assert "1 letters were sent back" in done
    assert "0 letters were sent back" in again, "it is not sent twice"
    assert "1 letters would be sent back" in forced
    assert str(first) in left_out, "what was not chosen is still there"
    returned = [record for record in await _records(stack, TopicPartition(EVENTS, 2)) if _id(record) == second]
    assert [(record.key, record.value) for record in returned] == [(b"ann", event(second, schema_version=2))] * 2
    assert returned[1].headers == (*headers(second), ("dead-letter.attempts", b"1"))


async def _replay(stack: Stack, *arguments: str) -> str:
    done = await asyncio.to_thread(stack.run, "replay", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def _are_dead(stack: Stack, offsets: Collection[int]) -> bool:
    return set(offsets) <= {Origin.of(letter.headers).offset for letter in await _letters(stack)}


async def _has_attempts(stack: Stack, id_: UUID, attempts: set[int]) -> bool:
    return {Origin.of(letter.headers).attempts for letter in await _letters(stack) if _id(letter) == id_} == attempts


def _id(record: Record) -> UUID | None:
    value = dict(record.headers).get("id", b"")
    return UUID(value.decode()) if len(value) == 36 else None


async def _letters(stack: Stack) -> Sequence[Record]:
    return await _records(stack, TopicPartition(TOPIC, 0))


async def _records(stack: Stack, place: TopicPartition) -> Sequence[Record]:
    """Return all that a partition holds."""
    consumer = AIOKafkaConsumer(bootstrap_servers=stack.brokers, isolation_level="read_committed")
    await consumer.start()
    try:
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        end = (await consumer.end_offsets([place]))[place]
        found: list[Record] = []
        while await consumer.position(place) < end:
            found += (await consumer.getmany(timeout_ms=200)).get(place, [])
        return found
    finally:
        await consumer.stop()
