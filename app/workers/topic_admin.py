"""Bringing Kafka's topics in line with `debezium/topics.json`; nothing is ever taken away."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from app.pipeline.topics import Topic
from app.workers.command import one_line

_RETRY_AFTER_S = 0.5
_TIMEOUT_MS = 15_000
# As many copies as the broker's default.replication.factor says.
_BROKERS_CHOICE = -1
# Where a setting comes from: from the topic itself. Source: Kafka protocol guide, DescribeConfigs.
_SET_ON_TOPIC = 1


class TopicsError(Exception):
    """Kafka is away, or a topic cannot be made as it should be; the message is one clear line."""


async def ensure_topics(
    brokers: str, wanted: Sequence[Topic], *, say: Callable[[str], None], give_up_at: float
) -> list[Topic]:
    """Create what is missing, add partitions, set settings; return the topics that were created.

    Raises:
        TopicsError: Kafka does not answer until `give_up_at`, or refuses, or a topic has more partitions than wanted.
    """
    # What it logs while a broker is away is also raised.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        async with _admin(brokers, give_up_at) as admin:
            partitions = await _partitions(admin)
            _refuse_shrinking(wanted, partitions)
            missing = [topic for topic in wanted if topic.name not in partitions]
            await _create(admin, missing, say)
            present = [topic for topic in wanted if topic.name in partitions]
            await _grow(admin, present, partitions, say)
            await _configure(admin, present, say)
    except (KafkaError, OSError, TimeoutError) as error:
        raise TopicsError(f"Kafka at {brokers}: {one_line(error)}") from error
    return missing


@asynccontextmanager
async def _admin(brokers: str, give_up_at: float) -> AsyncIterator[AIOKafkaAdminClient]:
    while True:
        admin = AIOKafkaAdminClient(bootstrap_servers=brokers, request_timeout_ms=_TIMEOUT_MS)
        try:
            await admin.start()
            break
        except KafkaError:
            await admin.close()
            if time.monotonic() + _RETRY_AFTER_S >= give_up_at:
                raise
            await asyncio.sleep(_RETRY_AFTER_S)
    try:
        yield admin
    finally:
        await admin.close()


async def _partitions(admin: AIOKafkaAdminClient) -> dict[str, int]:
    # All topics: some brokers would create one that is asked for by its name.
    return {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}


def _refuse_shrinking(wanted: Iterable[Topic], partitions: Mapping[str, int]) -> None:
    """Refuse topics that have more lanes than anybody watches; of the others nobody counts the partitions."""
    for topic in wanted:
        if topic.first_lane is not None and partitions.get(topic.name, 0) > topic.partitions:
            raise TopicsError(
                f"{topic.name} has {partitions[topic.name]} partitions and topics.json says {topic.partitions}."
                " Partitions cannot be taken away: raise the number there, for the service as well."
            )


async def _create(admin: AIOKafkaAdminClient, missing: Sequence[Topic], say: Callable[[str], None]) -> None:
    if not missing:
        return
    asked = [
        # The client takes "the broker's choice" only together with a list of placements, and an empty one means none.
        NewTopic(topic.name, topic.partitions, _BROKERS_CHOICE, replica_assignments={}, topic_configs=topic.config)
        for topic in missing
    ]
    _raise_errors(await admin.create_topics(asked), but=TopicAlreadyExistsError.errno)
    for topic in missing:
        say(f"topic {topic.name}: created, partitions: {topic.partitions}")


async def _grow(
    admin: AIOKafkaAdminClient, present: Iterable[Topic], partitions: Mapping[str, int], say: Callable[[str], None]
) -> None:
    for topic in present:
        if partitions[topic.name] < topic.partitions:
            await admin.create_partitions({topic.name: NewPartitions(topic.partitions)})
            say(f"topic {topic.name}: partitions: {partitions[topic.name]} -> {topic.partitions}")


async def _configure(admin: AIOKafkaAdminClient, present: Sequence[Topic], say: Callable[[str], None]) -> None:
    if not present:
        return
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in present]
    found = {name: settings for answer in await admin.describe_configs(asked) for name, settings in _settings(answer)}
    for topic in present:
        wrong = {key: value for key, value in topic.config.items() if found[topic.name].get(key) != value}
        if wrong:
            # Kafka replaces all settings of the topic, so those that somebody else made go along.
            settings = {**found[topic.name], **topic.config}
            resource = ConfigResource(ConfigResourceType.TOPIC, topic.name, settings)
            for answer in await admin.alter_configs([resource]):
                _raise_resource_errors(answer)
            say(f"topic {topic.name}: {', '.join(f'{key}={value}' for key, value in wrong.items())}")


def _settings(answer: Any) -> list[tuple[str, dict[str, str]]]:  # noqa: ANN401  # The client leaves it untyped.
    """Read the settings that were made on each topic itself."""
    _raise_resource_errors(answer)
    return [
        (resource["resource_name"], {entry["config_names"]: entry["config_value"] for entry in _own(resource)})
        for resource in answer.to_object()["resources"]
    ]


def _own(resource: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in resource["config_entries"] if entry["config_source"] == _SET_ON_TOPIC]


def _raise_errors(answer: Any, *, but: int) -> None:  # noqa: ANN401  # The client leaves it untyped.
    for error in answer.to_object()["topic_errors"]:
        if error["error_code"] not in {0, but}:
            raise for_code(error["error_code"])(f"{error['topic']}: {error.get('error_message')}")


def _raise_resource_errors(answer: Any) -> None:  # noqa: ANN401  # The client leaves it untyped.
    for resource in answer.to_object()["resources"]:
        if resource["error_code"]:
            raise for_code(resource["error_code"])(f"{resource['resource_name']}: {resource['error_message']}")
