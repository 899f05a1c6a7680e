"""Kafka's records as messages: what is read, what is left out, what is poison."""

from dataclasses import dataclass, field
from uuid import UUID

import msgspec
import pytest

from app.pipeline.dead_letters import ATTEMPTS, Origin, original_headers
from app.pipeline.lanes import kafka_lanes
from app.pipeline.messages import BEAT, Message
from app.pipeline.records import aggregatetypes, read
from app.pipeline.transform import Poison, Reason

ID = UUID("7f9c24e8-3b12-4fef-91e0-5ea0b1c8d5a3")
HEADERS = (("id", str(ID).encode()), ("eventType", b"event.recorded"))


@dataclass(frozen=True)
class FakeRecord:
    """A record without a broker."""

    topic: str = "experiments.event"
    partition: int = 0
    offset: int = 7
    timestamp: int = 0
    key: bytes | None = b"user"
    value: bytes | None = b"{}"
    headers: tuple[tuple[str, bytes], ...] = field(default=HEADERS)


def beat(lane: int) -> bytes:
    moment = "2026-01-01T00:00:00Z"
    return msgspec.json.encode(
        {"schema_version": 1, "lane": lane, "beat": 1, "watermark": moment, "ingested_at": moment}
    )


def beat_headers() -> tuple[tuple[str, bytes], ...]:
    return (HEADERS[0], ("eventType", BEAT.encode()))


def test_topics__with_rows__are_those_of_the_outbox() -> None:
    assert aggregatetypes() == {
        "experiments.assignment": "assignment",
        "experiments.override": "override",
        "experiments.event": "event",
        "experiments.experiment": "experiment",
    }


def test_read__record__is_the_message_that_debezium_wrote() -> None:
    extra = FakeRecord(headers=(("__debezium.context.task", b"0"), *HEADERS))

    assert read(extra) == Message(ID, "event", "event.recorded", b"{}")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (FakeRecord(value=None), Reason.TOMBSTONE),
        (FakeRecord(headers=()), Reason.HEADERS),
        (FakeRecord(headers=(HEADERS[1],)), Reason.HEADERS),
        (FakeRecord(headers=(HEADERS[0],)), Reason.HEADERS),
        (FakeRecord(headers=(("id", b"no uuid"), HEADERS[1])), Reason.HEADERS),
        (FakeRecord(headers=(("id", b"\xff" * 36), HEADERS[1])), Reason.HEADERS),
        (FakeRecord(headers=(HEADERS[0], ("eventType", b"\xff"))), Reason.HEADERS),
        (FakeRecord(headers=(HEADERS[0], ("eventType", b""))), Reason.HEADERS),
        (FakeRecord(headers=beat_headers(), value=b"{}"), Reason.WRONG_FIELDS),
    ],
)
def test_read__no_message__is_poison(record: FakeRecord, reason: Reason) -> None:
    with pytest.raises(Poison) as caught:
        read(record)

    assert caught.value.reason is reason


def test_read__beat_of_the_partition_it_came_through__is_a_message() -> None:
    lane = next(lane.number for lane in kafka_lanes() if lane.aggregatetype == "event")
    record = FakeRecord(headers=beat_headers(), value=beat(lane))

    assert read(record) == Message(ID, "event", BEAT, beat(lane))


def test_read__beat_of_another_partition__is_left_out() -> None:
    lane = next(lane.number for lane in kafka_lanes() if lane.aggregatetype == "event")

    assert read(FakeRecord(headers=beat_headers(), value=beat(lane + 1))) is None
    assert read(FakeRecord(headers=beat_headers(), value=beat(0))) is None


def test_original_headers__of_a_letter__are_those_it_had() -> None:
    record = FakeRecord(headers=(*HEADERS, (ATTEMPTS, b"2"), ("dead-letter.reason", b"timestamp")))

    assert original_headers(record) == list(HEADERS)


def test_origin__headers_missing__says_which() -> None:
    with pytest.raises(ValueError, match=r"dead-letter\.topic"):
        Origin.of(HEADERS)
