"""Seeing what Kafka's consumers see."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self
from uuid import UUID

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from app.pipeline.messages import BEAT
from app.pipeline.topics import topics

WITHIN_S = 40.0
POLL_MS = 100

PARTITIONS = [
    TopicPartition(topic.name, partition)
    for topic in topics()
    if topic.aggregatetype is not None
    for partition in range(topic.partitions)
]


class Record(NamedTuple):
    """A message that carries a row of the outbox."""

    topic: str
    partition: int
    key: str
    id: UUID
    type: str
    payload: bytes

    @property
    def is_beat(self) -> bool:
        return self.type == BEAT

    def field(self, name: str) -> Any:
        return msgspec.json.decode(self.payload)[name]


class Reader:
    """Collects every committed message since it was opened."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self.records: list[Record] = []
        self.ids: set[UUID] = set()

    @classmethod
    async def open(cls, brokers: str) -> Self:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=brokers,
            isolation_level="read_committed",
            enable_auto_commit=False,
            # A broker that was killed comes back on the same port.
            retry_backoff_ms=200,
        )
        await consumer.start()
        consumer.assign(PARTITIONS)
        await consumer.seek_to_end()
        for partition in PARTITIONS:
            await consumer.position(partition)
        return cls(consumer)

    async def close(self) -> None:
        await self._consumer.stop()

    @property
    def facts(self) -> list[Record]:
        return [record for record in self.records if not record.is_beat]

    def has(self, id_: UUID) -> bool:
        """Tell whether this row has arrived."""
        return id_ in self.ids

    def by_partition(self) -> dict[tuple[str, int], list[Record]]:
        """Return the records of each partition in their order."""
        grouped: dict[tuple[str, int], list[Record]] = defaultdict(list)
        for record in self.records:
            grouped[record.topic, record.partition].append(record)
        return grouped

    async def until(self, done: Callable[[], bool], what: str, *, within_s: float = WITHIN_S) -> None:
        """Read until the condition holds."""
        deadline = time.monotonic() + within_s
        while not done():
            assert time.monotonic() < deadline, f"this did not happen within {within_s:.0f} s: {what}"
            await self._read()

    async def until_has(self, ids: Iterable[UUID]) -> None:
        """Read until all of these rows have arrived, and then a little longer, in case one comes twice."""
        wanted = set(ids)
        await self.until(lambda: wanted <= self.ids, f"{len(wanted)} rows arrive")
        for _ in range(3):
            await self._read()
            await asyncio.sleep(0.1)

    async def _read(self) -> None:
        for messages in (await self._consumer.getmany(timeout_ms=POLL_MS)).values():
            new = [_record(message) for message in messages]
            self.records += new
            self.ids.update(record.id for record in new)


def _record(message: Any) -> Record:
    headers = dict(message.headers)
    return Record(
        topic=message.topic,
        partition=message.partition,
        key=message.key.decode(),
        id=UUID(headers["id"].decode()),
        type=headers["eventType"].decode(),
        payload=message.value,
    )
