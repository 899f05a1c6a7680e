"""Kafka's records as messages of the outbox, and the headers of those that died."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Protocol
from uuid import UUID

import msgspec

from app.pipeline.lanes import came_through
from app.pipeline.messages import BEAT, Message
from app.pipeline.topics import topics
from app.pipeline.transform import Poison, Reason, transform

# As Debezium's event router writes them; see debezium/connector.json.
ID_HEADER = "id"
TYPE_HEADER = "eventType"

# A UUID as PostgreSQL writes it; as JSON it is read four times faster than by its own class.
_UUID_LENGTH = 36
_decode_uuid = msgspec.json.Decoder(UUID).decode


class Record(Protocol):
    """A message as Kafka's client gives it."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int:
        """In milliseconds since 1970."""
        ...

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


@cache
def aggregatetypes() -> Mapping[str, str]:
    """Return the aggregate type of each topic that carries rows of the outbox."""
    return {topic.name: topic.aggregatetype for topic in topics() if topic.aggregatetype is not None}


def read(record: Record) -> Message | None:
    """Return the message that a record carries, or `None` for a beat that proves nothing.

    Raises:
        Poison: the record carries none.
    """
    if record.value is None:
        raise Poison(Reason.TOMBSTONE, "the record has no value")
    id_ = type_ = None
    for name, value in record.headers:
        if name == ID_HEADER:
            id_ = value
        elif name == TYPE_HEADER:
            type_ = value
    message = Message(_uuid(id_), aggregatetypes()[record.topic], _text(type_), record.value)
    return None if message.type == BEAT and _went_astray(record, message) else message


def _went_astray(record: Record, beat: Message) -> bool:
    transform(beat.aggregatetype, beat.type, beat.payload)  # A beat that is no beat is poison.
    return not came_through(beat.payload, record.topic, record.partition)


def _uuid(value: bytes | None) -> UUID:
    try:
        if value is not None and len(value) == _UUID_LENGTH:
            return _decode_uuid(b'"%b"' % value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    raise Poison(Reason.HEADERS, f"the header {ID_HEADER!r} is no UUID: {value!r}")


def _text(value: bytes | None) -> str:
    try:
        if value:
            return value.decode()
    except UnicodeDecodeError:
        pass
    raise Poison(Reason.HEADERS, f"the header {TYPE_HEADER!r} is no text: {value!r}")
