"""The topic of dead letters: messages of Kafka that can never become rows.

A letter is the message as it was, key, headers and value, with headers on top that say where it lay, why it died and
how often. So it can be sent back to where it came from (`python -m app.workers.replay`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from aiokafka import AIOKafkaProducer

from app.pipeline.loading import DeadLetter
from app.pipeline.records import Record

TOPIC = "experiments.dead-letters"

PREFIX = "dead-letter."
REASON = f"{PREFIX}reason"
DETAIL = f"{PREFIX}detail"
ORIGIN_TOPIC = f"{PREFIX}topic"
ORIGIN_PARTITION = f"{PREFIX}partition"
ORIGIN_OFFSET = f"{PREFIX}offset"
ORIGIN_TIMESTAMP = f"{PREFIX}timestamp"
ATTEMPTS = f"{PREFIX}attempts"

# Any message that its own topic took fits: compressed alike, and topics.json lets this one take more than the others.
LARGEST_LETTER_BYTES = 64 * 1024 * 1024
_LONGEST_DETAIL = 1000

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a dead letter lay, and how it died."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    reason: str
    detail: str
    attempts: int

    @classmethod
    def of(cls, headers: Headers) -> Self:
        """Read a letter's headers.

        Raises:
            ValueError: these are not the headers of a letter.
        """
        own = {name: value.decode(errors="replace") for name, value in headers if name.startswith(PREFIX)}
        try:
            return cls(
                topic=own[ORIGIN_TOPIC],
                partition=int(own[ORIGIN_PARTITION]),
                offset=int(own[ORIGIN_OFFSET]),
                timestamp_ms=int(own[ORIGIN_TIMESTAMP]),
                reason=own[REASON],
                detail=own[DETAIL],
                attempts=int(own[ATTEMPTS]),
            )
        except KeyError as error:
            raise ValueError(f"the header {error} is missing") from error


class DeadLetterTopic:
    """Puts dead letters into their topic; they are acknowledged by all copies when `put` returns."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    async def put(self, letters: Sequence[DeadLetter[Record]]) -> None:
        # One after the other: a letter may be large, and there are few.
        for letter in letters:
            record = letter.arrival
            await self._producer.send_and_wait(
                TOPIC, key=record.key, value=record.value, headers=[*original_headers(record), *_own_headers(letter)]
            )


def letters_producer(brokers: str) -> AIOKafkaProducer:
    """Return a producer for dead letters and for what is sent back; the caller starts and stops it."""
    return AIOKafkaProducer(
        bootstrap_servers=brokers,
        acks="all",
        enable_idempotence=True,
        compression_type="lz4",
        max_request_size=LARGEST_LETTER_BYTES,
    )


def original_headers(record: Record) -> list[tuple[str, bytes]]:
    """Return the headers that a message had before it died."""
    return [(name, value) for name, value in record.headers if not name.startswith(PREFIX)]


def _own_headers(letter: DeadLetter[Record]) -> list[tuple[str, bytes]]:
    record = letter.arrival
    values: dict[str, object] = {
        REASON: letter.reason,
        DETAIL: letter.detail[:_LONGEST_DETAIL],
        ORIGIN_TOPIC: record.topic,
        ORIGIN_PARTITION: record.partition,
        ORIGIN_OFFSET: record.offset,
        ORIGIN_TIMESTAMP: record.timestamp,
        ATTEMPTS: _attempts(record) + 1,
    }
    return [(name, str(value).encode(errors="replace")) for name, value in values.items()]


def _attempts(record: Record) -> int:
    """Return how often a message has died already, which it says if it was sent back."""
    said = dict(record.headers).get(ATTEMPTS, b"0")
    return int(said) if said.isdigit() else 0
