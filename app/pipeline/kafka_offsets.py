"""How much waits in Kafka: messages that the loader has not committed, and dead letters."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from app.core.errors import Unavailable
from app.pipeline.dead_letters import TOPIC
from app.pipeline.topics import Topic, topics

_NEWEST_WITHIN_S = 0.5
_LEAVE_S = 1.0


class KafkaUnavailable(Unavailable):
    """Kafka cannot be reached."""

    slug = "kafka-unavailable"
    title = "Kafka is not available"


@dataclass(frozen=True, slots=True)
class Waiting:
    """Messages by topic that the group has not committed, and dead letters with the time of the newest."""

    lag: Mapping[str, int]
    dead_letters: int
    newest_dead_letter_at: datetime | None


async def waiting(brokers: str, group: str) -> Waiting:
    """Ask Kafka; nothing is consumed and no group joined.

    Raises:
        KafkaUnavailable: it cannot be reached.
    """
    # What it logs while a broker is away is also raised.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        async with _client(brokers, group) as client:
            facts = [topic for topic in topics() if topic.aggregatetype is not None]
            lag = {topic.name: await _lag(client, topic) for topic in facts}
            return Waiting(lag, *await _dead_letters(client))
    except (KafkaError, OSError, TimeoutError) as error:
        raise KafkaUnavailable("Kafka does not answer.") from error


@contextlib.asynccontextmanager
async def _client(brokers: str, group: str) -> AsyncIterator[AIOKafkaConsumer]:
    client = AIOKafkaConsumer(
        bootstrap_servers=brokers,
        group_id=group,
        client_id="experiments-status",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    try:
        await client.start()
        yield client
    finally:
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            await asyncio.wait_for(client.stop(), _LEAVE_S)


async def _lag(client: AIOKafkaConsumer, topic: Topic) -> int:
    partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
    starts, ends = await asyncio.gather(client.beginning_offsets(partitions), client.end_offsets(partitions))
    committed = await asyncio.gather(*(client.committed(partition) for partition in partitions))
    return sum(
        max(ends[partition] - (starts[partition] if offset is None else offset), 0)
        for partition, offset in zip(partitions, committed, strict=True)
    )


async def _dead_letters(client: AIOKafkaConsumer) -> tuple[int, datetime | None]:
    partition = TopicPartition(TOPIC, 0)
    starts, ends = await asyncio.gather(client.beginning_offsets([partition]), client.end_offsets([partition]))
    count = ends[partition] - starts[partition]
    if count == 0:
        return 0, None
    client.assign([partition])
    client.seek(partition, ends[partition] - 1)
    try:
        newest = await asyncio.wait_for(client.getone(partition), _NEWEST_WITHIN_S)
    except TimeoutError:  # The last offset may be one that holds no message.
        return count, None
    return count, datetime.fromtimestamp(newest.timestamp / 1000, UTC)
