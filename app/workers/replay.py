"""`python -m app.workers.replay`: send dead letters back to the topics they come from, once each.

What has been sent back is remembered as the offsets of a consumer group: all letters below the committed offset, and
those above it that the offset's metadata names. Kafka forgets a group without members after its setting
`offsets.retention.minutes`, which must outlast the letters (debezium/kafka-server.properties). One that dies again is
a new letter, which counts its attempts.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from app.core.logging import configure_logging
from app.core.settings import Settings, SettingsError
from app.pipeline.dead_letters import ATTEMPTS, TOPIC, Origin, letters_producer, original_headers
from app.pipeline.records import ID_HEADER, Record
from app.pipeline.replayed import Replayed
from app.workers.command import CommandFailed, exit_code_of, one_line, say

GROUP = "experiments-replay"
_TIMEOUT_MS = 15_000
_POLL_MS = 500
_MOST_POLLED = 100
# Letters may be large, and their topic takes them.
_FETCH_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters are meant; what is `None` or empty does not matter."""

    reasons: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    first: int | None = None
    last: int | None = None
    again: bool = False

    def takes(self, letter: Record, origin: Origin) -> bool:
        """Tell whether this letter is meant, whatever has been sent back already."""
        return (
            (not self.reasons or origin.reason in self.reasons)
            and (not self.topics or origin.topic in self.topics)
            and (not self.ids or _id_of(letter) in self.ids)
            and (self.first is None or letter.offset >= self.first)
            and (self.last is None or letter.offset <= self.last)
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Send letters back, or list them; returns the exit code."""
    options = _parser().parse_args(arguments)
    choice = Choice(
        reasons=frozenset(options.reason),
        topics=frozenset(options.topic),
        ids=frozenset(options.id),
        first=options.first,
        last=options.last,
        again=options.all,
    )

    def work() -> None:
        settings = Settings.from_environment()
        configure_logging(settings.observability.log_level, readable=sys.stderr.isatty())
        asyncio.run(replay(_brokers(settings), choice, dry_run=options.dry_run))

    return exit_code_of(work)


def _brokers(settings: Settings) -> str:
    if settings.kafka.bootstrap_servers is None:
        raise SettingsError("KAFKA_BOOTSTRAP_SERVERS: must be set; without Kafka there is no topic of dead letters")
    return settings.kafka.bootstrap_servers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app.workers.replay",
        description="Send dead letters back to the topics they come from. Each is sent once, however often this runs,"
        " for as long as Kafka keeps the group's offsets (offsets.retention.minutes).",
    )
    parser.add_argument("--dry-run", action="store_true", help="only list the letters that would be sent")
    parser.add_argument("--all", action="store_true", help="also those that have been sent back before")
    parser.add_argument("--reason", action="append", default=[], help="only those that died of this; repeatable")
    parser.add_argument("--topic", action="append", default=[], help="only those of this topic; repeatable")
    parser.add_argument("--id", action="append", default=[], help="only the message with this id; repeatable")
    parser.add_argument("--first", type=int, metavar="OFFSET", help="only letters from this offset on")
    parser.add_argument("--last", type=int, metavar="OFFSET", help="only letters up to this offset")
    return parser


async def replay(brokers: str, choice: Choice, *, dry_run: bool) -> int:
    """Send back the letters that are there now; returns how many.

    Raises:
        CommandFailed: Kafka is away or refuses. What was sent by then is remembered.
    """
    count = 0
    try:
        async with _clients(brokers) as (consumer, producer, admin):
            for place in await _partitions(admin):
                count += await _replay_partition(place, consumer, producer, admin, choice, dry_run=dry_run)
    except (KafkaError, OSError, TimeoutError) as error:
        raise CommandFailed(f"Kafka at {brokers}: {one_line(error)}") from error
    say(f"{count} letters {'would be' if dry_run else 'were'} sent back")
    return count


async def _replay_partition(
    place: TopicPartition,
    consumer: AIOKafkaConsumer,
    producer: AIOKafkaProducer,
    admin: AIOKafkaAdminClient,
    choice: Choice,
    *,
    dry_run: bool,
) -> int:
    consumer.assign([place])
    first, count = (await consumer.beginning_offsets([place]))[place], 0
    replayed = await _replayed(admin, place, first)
    consumer.seek(place, first if choice.again else replayed.below)
    # Letters that come while this runs may be what has just been sent back, dead again.
    async for letter in _until(consumer, place, (await consumer.end_offsets([place]))[place]):
        try:
            origin = Origin.of(letter.headers)
        except ValueError as error:
            say(f"{letter.offset}: is no dead letter: {error}")
            continue
        if not choice.takes(letter, origin) or (letter.offset in replayed and not choice.again):
            continue
        say(_line(letter, origin))
        count += 1
        if not dry_run:
            await _send_back(producer, letter, origin)
            replayed.add(letter.offset)
            await consumer.commit({place: (replayed.below, replayed.above())})
    return count


async def _send_back(producer: AIOKafkaProducer, letter: Record, origin: Origin) -> None:
    partitions = await producer.partitions_for(origin.topic)
    await producer.send_and_wait(
        origin.topic,
        key=letter.key,
        value=letter.value,
        # Where it was: the key may not tell, and a beat counts nowhere else.
        partition=origin.partition if origin.partition in partitions else None,
        headers=[*original_headers(letter), (ATTEMPTS, str(origin.attempts).encode())],
    )


async def _until(consumer: AIOKafkaConsumer, place: TopicPartition, end: int) -> AsyncIterator[Record]:
    while await consumer.position(place) < end:
        fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_MOST_POLLED)
        for letter in fetched.get(place, []):
            if letter.offset < end:
                yield letter


async def _replayed(admin: AIOKafkaAdminClient, place: TopicPartition, first: int) -> Replayed:
    """Return what has been sent back; letters below `first` are gone."""
    offsets = await admin.list_consumer_group_offsets(GROUP, partitions=[place])
    committed = offsets.get(place)
    return Replayed(first) if committed is None else Replayed.read(max(committed.offset, first), committed.metadata)


async def _partitions(admin: AIOKafkaAdminClient) -> list[TopicPartition]:
    # All topics: some brokers would create one that is asked for by its name.
    counts = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}
    if TOPIC not in counts:
        raise CommandFailed(f"there is no topic {TOPIC}: run python -m app.workers.register_connector")
    return [TopicPartition(TOPIC, number) for number in range(counts[TOPIC])]


@asynccontextmanager
async def _clients(brokers: str) -> AsyncIterator[tuple[AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient]]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=brokers,
        group_id=GROUP,
        enable_auto_commit=False,
        isolation_level="read_committed",
        max_partition_fetch_bytes=_FETCH_BYTES,
    )
    clients: list[Any] = [
        consumer,
        letters_producer(brokers),
        AIOKafkaAdminClient(bootstrap_servers=brokers, request_timeout_ms=_TIMEOUT_MS),
    ]
    started: list[Any] = []
    try:
        for client in clients:
            started.append(client)
            await client.start()
        yield consumer, clients[1], clients[2]
    finally:
        for client in reversed(started):
            await (client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())


def _line(letter: Record, origin: Origin) -> str:
    died = datetime.fromtimestamp(letter.timestamp / 1000, UTC).isoformat(timespec="seconds")
    return (
        f"{letter.offset}: {origin.reason}: {origin.detail} (id {_id_of(letter)}, attempt {origin.attempts},"
        f" from {origin.topic}/{origin.partition}:{origin.offset}, died {died})"
    )


def _id_of(letter: Record) -> str | None:
    value = dict(letter.headers).get(ID_HEADER)
    return None if value is None else value.decode(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
