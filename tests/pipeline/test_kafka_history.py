"""Reading all of Kafka once: to the ends, or with an error."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pytest
from aiokafka import TopicPartition

from app.core.clickhouse import ClickHouse
from app.core.metrics import Metrics
from app.events import messages as events
from app.pipeline.kafka_history import load_until_ends
from app.pipeline.kafka_offsets import KafkaUnavailable
from app.pipeline.loader import Loader
from app.pipeline.messages import Message
from app.pipeline.records import aggregatetypes
from tests.pipeline.outbox_run import column
from tests.pipeline.payloads import event_message

EVENTS = TopicPartition(next(topic for topic, type_ in aggregatetypes().items() if type_ == events.AGGREGATE), 0)


@dataclass(frozen=True)
class FakeRecord:
    """A record without a broker."""

    offset: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    topic: str = EVENTS.topic
    partition: int = EVENTS.partition
    key: bytes | None = None
    timestamp: int = 0

    @classmethod
    def of(cls, message: Message, offset: int) -> "FakeRecord":
        return cls(offset, message.payload, [("id", str(message.id).encode()), ("eventType", message.type.encode())])


class FakeKafka:
    """A broker with events in one partition, which gives those below `answers_until` and then falls silent."""

    def __init__(self, *, messages: int, end: int, answers_until: int) -> None:
        self._records = [FakeRecord.of(event_message(offset), offset) for offset in range(messages)]
        self._end = end
        self._answers_until = answers_until
        self._position = 0

    async def end_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        return {place: self._end if place == EVENTS else 0 for place in partitions}

    def assign(self, partitions: Collection[TopicPartition]) -> None:
        assert EVENTS in partitions

    async def seek_to_beginning(self, *_partitions: TopicPartition) -> None:
        self._position = 0

    async def position(self, partition: TopicPartition) -> int:
        return self._position if partition == EVENTS else 0

    async def getmany(self, *, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[FakeRecord]]:
        found = self._records[self._position : self._answers_until][:max_records]
        self._position = self._answers_until
        await asyncio.sleep(0 if found else timeout_ms / 1000)
        return {EVENTS: found} if found else {}


async def test_load__broker_falls_silent_before_the_end__is_no_end(clickhouse: ClickHouse) -> None:
    kafka = FakeKafka(messages=5, end=5, answers_until=3)

    with pytest.raises(KafkaUnavailable, match=f"before the end of {EVENTS.topic}/0"):
        await load_until_ends(kafka, Loader(clickhouse, Metrics()), say=print, silence_s=0.1)

    assert await column(clickhouse, "SELECT count() FROM events FINAL") == [3]


async def test_load__last_offsets_hold_no_message__ends(clickhouse: ClickHouse) -> None:
    kafka = FakeKafka(messages=5, end=8, answers_until=8)

    await load_until_ends(kafka, Loader(clickhouse, Metrics()), say=print, silence_s=0.1)

    assert await column(clickhouse, "SELECT count() FROM events FINAL") == [5]
