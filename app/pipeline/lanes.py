"""Lanes: the parts of the stream that travel on their own, each of which proves by beats of its own what it brought.

The relay reads the whole outbox in order, so it has one lane. Kafka keeps order within a partition only, so there
every partition of every topic with rows of the outbox is a lane: `first_lane` of its topic plus the partition's
number. A beat reaches it as the rows do: it is routed by its aggregate type, and its key makes Kafka's default
partitioner (murmur2 of the key's bytes) choose the partition. There it comes behind all rows that committed before.

A beat proves something only for the partition it came through, so whoever consumes Kafka drops those that
`came_through` denies.

Partitions may be added while beats still count on the old number. Then rows may go where nobody looks yet, and no
beat may say that all is there. So each key is chosen to lead elsewhere as soon as the topic has more partitions:
the lanes fall silent, and the watermark waits until the service knows the new number.
"""

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import msgspec

from app.pipeline.messages import HEARTBEAT_AGGREGATE
from app.pipeline.topics import Topic, topics

# No topic grows beyond this; `first_lane` leaves room for more.
MOST_PARTITIONS = 1024


class Lane(NamedTuple):
    """A lane, and how its beats find it."""

    number: int
    aggregatetype: str
    aggregateid: str


class _LaneOf(msgspec.Struct, frozen=True):
    lane: int


RELAY_LANES = (Lane(0, HEARTBEAT_AGGREGATE, "0"),)


@cache
def kafka_lanes() -> tuple[Lane, ...]:
    """Return a lane for each partition that carries rows of the outbox."""
    return tuple(lane for topic in topics() for lane in _lanes_of(topic))


def came_through(payload: bytes, topic: str, partition: int) -> bool:
    """Tell whether a valid beat's payload names the lane of the partition that it came through."""
    return msgspec.json.decode(payload, type=_LaneOf).lane == lane_of(topic, partition)


def lane_of(topic: str, partition: int) -> int | None:
    """Return the number of the lane that this partition is, `None` if it carries no rows."""
    return _lane_numbers().get((topic, partition))


def key_for(partition: int, partitions: int) -> str:
    """Return a key that leads to this partition of so many, and to another one of any larger number."""
    # Imported here, because it takes a while and only a service that uses Kafka needs it.
    from aiokafka.partitioner import murmur2  # noqa: PLC0415

    tried = 0
    while True:
        key = f"beat-{tried}"
        hashed = murmur2(key.encode()) & 0x7FFFFFFF
        if hashed % partitions == partition and _leads_elsewhere(
            hashed, partition, range(partitions + 1, MOST_PARTITIONS + 1)
        ):
            return key
        tried += 1


def _leads_elsewhere(hashed: int, partition: int, counts: Iterable[int]) -> bool:
    return all(hashed % count != partition for count in counts)


def _lanes_of(topic: Topic) -> list[Lane]:
    if topic.aggregatetype is None or topic.first_lane is None:
        return []
    return [
        Lane(topic.first_lane + partition, topic.aggregatetype, key_for(partition, topic.partitions))
        for partition in range(topic.partitions)
    ]


@cache
def _lane_numbers() -> dict[tuple[str, int], int]:
    return {
        (topic.name, partition): topic.first_lane + partition
        for topic in topics()
        if topic.first_lane is not None
        for partition in range(topic.partitions)
    }
