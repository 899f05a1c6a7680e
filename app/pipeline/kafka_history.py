"""All that Kafka still holds of the outbox's rows, read once from the beginning."""

import time
from collections.abc import Callable, Iterable, Sequence

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
# The last offsets of a partition may hold no message; then its end is taken for reached.
_SILENCE_S = 10.0


async def load_from_kafka(brokers: str, loader: Loader, *, say: Callable[[str], None]) -> None:
    """Load every row between the topics' beginnings and their present ends.

    Beats prove nothing about other tables, and what is dead was put aside when it first came: both are left out.

    Raises:
        KafkaUnavailable: Kafka cannot be reached.
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
        await _load(client, loader, say)
    except (KafkaError, OSError, TimeoutError) as error:
        raise KafkaUnavailable("Kafka does not answer.") from error
    finally:
        await client.stop()


async def _load(client: AIOKafkaConsumer, loader: Loader, say: Callable[[str], None]) -> None:
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
    while await _is_behind(client, ends) and time.monotonic() - heard_at_s < _SILENCE_S:
        found = await client.getmany(timeout_ms=_POLL_MS, max_records=_BATCH_MESSAGES)
        if not found:
            continue
        messages = _facts(record for records in found.values() for record in records)
        await loader.load(messages)
        loaded, heard_at_s = loaded + len(messages), time.monotonic()
        say(f"from Kafka: {loaded} rows")


async def _is_behind(client: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> bool:
    return any([await client.position(partition) < end for partition, end in ends.items()])


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
