"""All that Kafka still holds of the outbox's rows, read once from the beginning."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from app.pipeline.kafka_offsets import KafkaUnavailable
from app.pipeline.loader import Loader
from app.pipeline.messages import BEAT, Message
from app.pipeline.records import Record, read
from app.pipeline.topics import topics
from app.pipeline.transform import Poison

_BATCH_MESSAGES = 5_000
_POLL_MS = 500
# A broker that restarts is away for less.
_SILENCE_S = 60.0


class Client(Protocol):
    """A consumer without a group, as far as it is used here."""

    async def end_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]: ...
    def assign(self, partitions: Collection[TopicPartition]) -> None: ...
    async def seek_to_beginning(self, *partitions: TopicPartition) -> object: ...
    async def position(self, partition: TopicPartition) -> int: ...
    async def getmany(self, *, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[Record]]: ...


async def load_from_kafka(brokers: str, loader: Loader, *, say: Callable[[str], None]) -> None:
    """Load every row between the topics' beginnings and their present ends.

    Beats prove nothing about other tables, and what is dead was put aside when it first came: both are left out.

    Raises:
        KafkaUnavailable: it cannot be reached, or fell silent before the ends.
    """
    # No group: nobody's offsets are touched.
    client = AIOKafkaConsumer(
        bootstrap_servers=brokers,
        group_id=None,
        client_id="experiments-rebuild",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    try:
        await client.start()
        await load_until_ends(client, loader, say=say)
    except (KafkaError, OSError, TimeoutError) as error:
        raise KafkaUnavailable("Kafka does not answer.") from error
    finally:
        await client.stop()


async def load_until_ends(
    client: Client, loader: Loader, *, say: Callable[[str], None], silence_s: float = _SILENCE_S
) -> None:
    """Load what lies between the beginnings and the ends as they are now.

    Raises:
        KafkaUnavailable: nothing came for so long, and it is not the end.
    """
    partitions = [
        TopicPartition(topic.name, number)
        for topic in topics()
        if topic.aggregatetype is not None
        for number in range(topic.partitions)
    ]
    ends = await client.end_offsets(partitions)
    client.assign(partitions)
    await client.seek_to_beginning(*partitions)
    loaded, heard_at_s = 0, time.monotonic()
    # Aborted transactions and their marks take up offsets, too; the position goes past them without a message.
    while behind := await _behind(client, ends):
        found = await client.getmany(timeout_ms=_POLL_MS, max_records=_BATCH_MESSAGES)
        if not found:
            if time.monotonic() - heard_at_s >= silence_s:
                raise KafkaUnavailable(f"Kafka fell silent before the end of {', '.join(behind)}. Run it again.")
            continue
        messages = _facts(record for records in found.values() for record in records)
        await loader.load(messages)
        loaded, heard_at_s = loaded + len(messages), time.monotonic()
        say(f"from Kafka: {loaded} rows")


async def _behind(client: Client, ends: Mapping[TopicPartition, int]) -> list[str]:
    return [f"{place.topic}/{place.partition}" for place, end in ends.items() if await client.position(place) < end]


def _facts(records: Iterable[Record]) -> Sequence[Message]:
    facts: list[Message] = []
    for record in records:
        try:
            message = read(record)
        except Poison:
            continue
        if message is not None and message.type != BEAT:
            facts.append(message)
    return facts
