"""The consumer without Kafka: what it inserts, when it commits, and how much it holds."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.clickhouse import ClickHouse, ClickHouseUnavailable
from app.core.metrics import Metrics
from app.core.settings import LoaderSettings
from app.pipeline.buffering import Buffer
from app.pipeline.consumer import own_group
from app.pipeline.consumer_session import OffsetsLost, Session, source_of
from app.pipeline.lanes import kafka_lanes, lane_of
from app.pipeline.loading import DeadLetter, Loading
from app.pipeline.messages import Message
from app.pipeline.records import Record, aggregatetypes, read
from app.pipeline.watermark import lanes_heard_from
from app.results.cold import ColdStore
from app.results.values import Metric, Observations, Question, Subject
from tests.pipeline.outbox_run import column, eventually
from tests.pipeline.payloads import event_message
from tests.pipeline.test_loader import STREAM, TABLES

TOPICS = {aggregatetype: topic for topic, aggregatetype in aggregatetypes().items()}
LATER = datetime(2027, 1, 1, tzinfo=UTC)
QUESTION = Question(metrics=tuple(Metric))
EVENTS = TopicPartition("experiments.event", 0)


@dataclass(frozen=True)
class FakeRecord:
    """A record without a broker."""

    topic: str
    partition: int
    offset: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    key: bytes | None = None
    timestamp: int = 0

    @classmethod
    def of(cls, message: Message, partition: int, offset: int) -> "FakeRecord":
        headers = [("id", str(message.id).encode()), ("eventType", message.type.encode())]
        return cls(TOPICS[message.aggregatetype], partition, offset, message.payload, headers)


class FakeDeadLetters:
    """A topic that remembers where its letters come from."""

    def __init__(self) -> None:
        self.origins: set[tuple[str, int, int]] = set()

    async def put(self, letters: Sequence[DeadLetter[Record]]) -> None:
        self.origins |= {(letter.arrival.topic, letter.arrival.partition, letter.arrival.offset) for letter in letters}


def _as_records(messages: Sequence[Message]) -> list[FakeRecord]:
    """Lay messages into partitions, two for each topic; the relay's beats have none."""
    ends: dict[tuple[str, int], int] = defaultdict(int)
    records = []
    for number, message in enumerate(messages):
        if message.aggregatetype in TOPICS:
            place = (message.aggregatetype, number % 2)
            records.append(FakeRecord.of(message, place[1], ends[place]))
            ends[place] += 1
    return records


def _beats() -> list[FakeRecord]:
    """Return a beat of each lane, where it belongs, and one that went astray."""
    sample = next(message for message in STREAM if message.aggregatetype == "heartbeat")
    lanes = [lane for lane in kafka_lanes() if lane.aggregatetype == "event"]
    beats = [
        sample._replace(
            aggregatetype="event", payload=sample.payload.replace(b'"lane":0', f'"lane":{lane.number}'.encode())
        )
        for lane in lanes
    ]
    proofs = [FakeRecord.of(beat, partition, 100) for partition, beat in enumerate(beats)]
    return [*proofs, FakeRecord.of(beats[0], 1, 101)]


# Of users who had been assigned by then, so that results have something to count.
COUNTED = [
    event_message(
        number, user_id=f"user-{number % 4 + 1}", ts="2026-02-01T00:00:00Z", ingested_at="2026-02-01T00:00:01Z"
    )
    for number in range(101, 113)
]
RECORDS = [*_as_records([*STREAM, *COUNTED]), *_beats()]


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[FakeRecord], LoaderSettings]:
    """The stream in any order, with repetitions, and any bounds of a flush."""
    repeated = draw(st.lists(st.sampled_from(RECORDS), max_size=15))
    order = draw(st.permutations([*RECORDS, *repeated]))
    n_rows, n_bytes = draw(st.integers(1, 40)), draw(st.integers(1024, 20_000))
    return order, LoaderSettings(LOADER_FLUSH_ROWS=n_rows, LOADER_FLUSH_BYTES=n_bytes)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(delivery=deliveries())
async def test_flushes__any_order_repetition_and_batches__leave_the_same_tables_and_results(
    clickhouse: ClickHouse, metrics: Metrics, delivery: tuple[list[FakeRecord], LoaderSettings]
) -> None:
    expected = await _deliver(clickhouse, metrics, RECORDS, LoaderSettings())

    tables, results, dead = await _deliver(clickhouse, metrics, *delivery)

    assert (tables, results, dead) == expected
    assert len(tables["events"]) == 7 + len(COUNTED)
    assert [results.of(variant).events for variant in range(1, 5)] == [3, 3, 3, 3]
    assert len(tables["heartbeats"]) == len(kafka_lanes()) - _lanes_without_beats()
    assert len(dead) == 1


async def test_session__messages_taken__are_committed_once_clickhouse_has_them(
    clickhouse: ClickHouse, metrics: Metrics
) -> None:
    kafka = FakeKafka([event_message(number) for number in range(1, 301)])
    session, stopping = _session(kafka, clickhouse, metrics, rows=100)

    await _consume_until(session, stopping, kafka, 300)

    assert await column(clickhouse, "SELECT count() FROM events") == [300]


async def test_session__clickhouse_away__holds_two_buffers_commits_nothing_and_sends_the_same_again(
    make_clickhouse: Any, metrics: Metrics
) -> None:
    clickhouse: _Away = await make_clickhouse(_Away)
    kafka = FakeKafka([event_message(number) for number in range(1, 1001)], at_a_time=50)
    session, stopping = _session(kafka, clickhouse, metrics, rows=100)

    consuming = asyncio.create_task(session.consume())
    await eventually(lambda: _equals(lambda: len(clickhouse.tokens) >= 3, expected=True))
    taken_while_away = kafka.position_of
    committed_while_away = dict(kafka.offsets)
    clickhouse.away = False
    await eventually(lambda: _equals(lambda: kafka.offsets, {EVENTS: 1000}))
    stopping.set()
    await consuming
    await session.close()

    assert taken_while_away <= 200
    assert committed_while_away == {}
    assert len(set(clickhouse.tokens[:3])) == 1
    assert await column(clickhouse, "SELECT count() FROM events") == [1000]


async def test_session__told_to_stop_while_clickhouse_is_away__ends_soon_and_commits_nothing(
    make_clickhouse: Any, metrics: Metrics
) -> None:
    kafka = FakeKafka([event_message(number) for number in range(1, 51)])
    clickhouse: _Away = await make_clickhouse(_Away)
    session, stopping = _session(kafka, clickhouse, metrics, rows=10)

    consuming = asyncio.create_task(session.consume())
    await eventually(lambda: _equals(lambda: len(clickhouse.tokens) >= 1, expected=True))
    stopping.set()
    async with asyncio.timeout(5):
        await asyncio.wait({consuming})
        await session.drain(within_s=5)
        await session.close()

    assert kafka.offsets == {}


async def test_session__partitions_revoked__are_flushed_and_committed_first(
    clickhouse: ClickHouse, metrics: Metrics
) -> None:
    kafka = FakeKafka([event_message(number) for number in range(1, 51)])
    session, stopping = _session(kafka, clickhouse, metrics, rows=1000, seconds=60)
    consuming = asyncio.create_task(session.consume())
    await eventually(lambda: _equals(lambda: kafka.position_of, 50))

    await session.on_partitions_revoked({EVENTS})

    assert kafka.offsets == {EVENTS: 50}
    assert await column(clickhouse, "SELECT count() FROM events") == [50]
    stopping.set()
    await consuming
    await session.close()


async def test_session__partitions_that_went_to_another__are_not_committed(
    clickhouse: ClickHouse, metrics: Metrics
) -> None:
    kafka = FakeKafka([event_message(number) for number in range(1, 51)])
    session, stopping = _session(kafka, clickhouse, metrics, rows=1000, seconds=60)
    consuming = asyncio.create_task(session.consume())
    await eventually(lambda: _equals(lambda: kafka.position_of, 50))

    kafka.assigned = set()
    stopping.set()
    await consuming
    await session.drain(within_s=5)
    await session.close()

    assert kafka.offsets == {}


async def test_session__offsets_gone__ends_without_committing(clickhouse: ClickHouse, metrics: Metrics) -> None:
    kafka = FakeKafka([event_message(number) for number in range(1, 101)], at_a_time=50)
    session, _ = _session(kafka, clickhouse, metrics, rows=50)
    kafka.offsets[EVENTS] = 0
    await session.on_partitions_assigned([EVENTS])
    kafka.offsets.clear()

    with pytest.raises(OffsetsLost, match=r"experiments\.event"):
        await session.consume()

    await session.close()
    assert kafka.offsets == {}


@pytest.mark.parametrize(("committed", "first_kept"), [(10, 20), (None, 20), (90, 0)])
async def test_session__rows_dropped_unread__end_the_proof_before_anything_is_loaded(
    clickhouse: ClickHouse, metrics: Metrics, committed: int | None, first_kept: int
) -> None:
    proof = await _consume_fifty(clickhouse, metrics, committed=committed, first_kept=first_kept)

    assert proof.loaded_by_then == [0]
    assert await column(clickhouse, "SELECT count() FROM events") == [50 - first_kept]


@pytest.mark.parametrize("committed", [10, None])
async def test_session__all_rows_kept__leaves_the_proof(
    clickhouse: ClickHouse, metrics: Metrics, committed: int | None
) -> None:
    proof = await _consume_fifty(clickhouse, metrics, committed=committed)

    assert proof.loaded_by_then == []
    assert await column(clickhouse, "SELECT count() FROM events") == [50 - (committed or 0)]


async def test_session__no_offset_where_a_beat_came_through__ends_the_proof_before_anything_is_loaded(
    clickhouse: ClickHouse, metrics: Metrics
) -> None:
    moment = "2026-01-01T00:00:00Z"
    beat = {"lane": lane_of(*EVENTS), "beat": 1, "watermark": moment, "ingested_at": moment}
    await clickhouse.insert_json("heartbeats", [json.dumps(beat).encode()])
    proof = await _consume_fifty(clickhouse, metrics)

    assert proof.loaded_by_then == [0]


async def test_session__told_to_stop_while_the_group_changes__ends_soon(
    clickhouse: ClickHouse, metrics: Metrics
) -> None:
    kafka = FakeKafka([])
    kafka.group_changes = True
    session, stopping = _session(kafka, clickhouse, metrics, rows=10)
    consuming = asyncio.create_task(session.consume())
    await asyncio.sleep(0.05)

    stopping.set()
    async with asyncio.timeout(5):
        await consuming
        await session.drain(within_s=5)
        await session.close()


async def test_session__partitions_revoked_with_both_buffers_full__hands_over_after_the_last_flush(
    make_clickhouse: Any, metrics: Metrics
) -> None:
    clickhouse: _Slow = await make_clickhouse(_Slow)
    kafka = FakeKafka([event_message(number) for number in range(1, 31)], at_a_time=10)
    session, stopping = _session(kafka, clickhouse, metrics, rows=10)
    consuming = asyncio.create_task(session.consume())
    await eventually(lambda: _equals(lambda: kafka.position_of, 20))

    kafka.group_changes = True
    handing_over = asyncio.create_task(session.on_partitions_revoked({EVENTS}))
    await asyncio.sleep(0.05)
    clickhouse.goes_on.set()
    await handing_over
    committed = dict(kafka.offsets)
    stopping.set()
    await consuming
    await session.close()

    assert committed == {EVENTS: 20}


async def test_own_group__another_clickhouse__is_another_group(make_clickhouse: Any) -> None:
    one, other = await make_clickhouse(ClickHouse), await make_clickhouse(ClickHouse)

    groups = [await own_group(clickhouse, LoaderSettings()) for clickhouse in (one, other, one)]

    assert groups[0] == groups[2] != groups[1]


class FakeKafka:
    """A consumer of one partition, as far as a session uses it; what lies before `first_kept` is gone."""

    def __init__(self, messages: Sequence[Message], *, at_a_time: int = 1000, first_kept: int = 0) -> None:
        self._records = [FakeRecord.of(message, 0, offset) for offset, message in enumerate(messages)]
        self._at_a_time = at_a_time
        self._first_kept = first_kept
        self._position: int | None = None
        self.assigned = {EVENTS}
        self.offsets: dict[TopicPartition, int] = {}
        self.group_changes = False

    @property
    def position_of(self) -> int:
        return self._position or 0

    async def getmany(self, *, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, list[FakeRecord]]:
        if self.group_changes:
            await asyncio.Event().wait()
        if self._position is None:
            self._position = self.offsets.get(EVENTS)
        if self._position is None:
            raise NoOffsetForPartitionError(EVENTS)
        if not self._first_kept <= self._position <= len(self._records):
            raise OffsetOutOfRangeError({EVENTS: self._position})
        some = self._records[self._position :][: min(self._at_a_time, max_records)]
        self._position += len(some)
        await asyncio.sleep(0 if some else timeout_ms / 1000)
        return {EVENTS: some} if some else {}

    def seek(self, _place: TopicPartition, offset: int) -> None:
        self._position = offset

    async def beginning_offsets(self, places: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(places, self._first_kept)

    def assignment(self) -> Collection[TopicPartition]:
        return self.assigned

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self.offsets |= offsets

    async def committed(self, place: TopicPartition) -> int | None:
        return self.offsets.get(place)

    async def end_offsets(self, places: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(places, len(self._records))

    async def position(self, _place: TopicPartition) -> int:
        return self.position_of


class FakeProof:
    """Remembers how many events were there whenever the history ceased to be proven."""

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._clickhouse = clickhouse
        self.loaded_by_then: list[int] = []

    async def end(self) -> None:
        self.loaded_by_then += await column(self._clickhouse, "SELECT count() FROM events")


class _Slow(ClickHouse):
    """A ClickHouse that takes no events until it is told to go on."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.goes_on = asyncio.Event()

    async def insert_json(self, table: str, lines: Sequence[bytes], *, token: str | None = None) -> None:
        if table == "events":
            await self.goes_on.wait()
        await super().insert_json(table, lines, token=token)


class _Away(ClickHouse):
    """A ClickHouse that takes no events while it is away, and remembers the tokens they came with."""

    away = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.tokens: list[str | None] = []

    async def insert_json(self, table: str, lines: Sequence[bytes], *, token: str | None = None) -> None:
        if table == "events":
            self.tokens.append(token)
            if self.away:
                raise ClickHouseUnavailable("gone")
        await super().insert_json(table, lines, token=token)


def _session(
    kafka: FakeKafka,
    clickhouse: ClickHouse,
    metrics: Metrics,
    *,
    rows: int,
    seconds: float = 0.05,
    proof: FakeProof | None = None,
) -> tuple[Session, asyncio.Event]:
    limits = LoaderSettings(LOADER_FLUSH_ROWS=rows, LOADER_FLUSH_SECONDS=seconds)
    loading = Loading(clickhouse, metrics, read=read, dead_letters=FakeDeadLetters())
    stopping = asyncio.Event()
    end_proof = (proof or FakeProof(clickhouse)).end
    heard = partial(lanes_heard_from, clickhouse)
    return Session(kafka, loading, limits, metrics, stopping, end_proof=end_proof, lanes_heard_from=heard), stopping


async def _deliver(
    clickhouse: ClickHouse, metrics: Metrics, records: Sequence[FakeRecord], limits: LoaderSettings
) -> tuple[dict[str, list[dict[str, Any]]], Observations, set[tuple[str, int, int]]]:
    """Bring records into empty tables and return the tables, what results see, and who died."""
    for table in TABLES:
        await clickhouse.command(f"TRUNCATE TABLE {table}")
    dead = FakeDeadLetters()
    loading: Loading[Record] = Loading(clickhouse, metrics, read=read, dead_letters=dead)
    buffer: Buffer[TopicPartition, Record] = Buffer(limits, loading.batch())
    for record in records:
        place = TopicPartition(record.topic, record.partition)
        buffer.add(place, record.offset, record, len(record.value or b""), now_s=0.0)
        if buffer.is_full:
            await loading.store(buffer.batch, source=source_of(buffer))
            buffer = Buffer(limits, loading.batch())
    await loading.store(buffer.batch, source=source_of(buffer))
    tables = {table: await clickhouse.rows(f"SELECT * FROM {table} FINAL ORDER BY ALL") for table in TABLES}
    results = await ColdStore(clickhouse).observe(
        Subject(project_id=1, experiment_id=1), QUESTION, LATER, most_slots=1000
    )
    return tables, results, dead.origins


def _lanes_without_beats() -> int:
    return sum(lane.aggregatetype != "event" for lane in kafka_lanes())


async def _equals(value: Any, expected: Any) -> bool:
    return bool(value() == expected)


async def _consume_until(session: Session, stopping: asyncio.Event, kafka: FakeKafka, offset: int) -> None:
    """Consume until so many records are committed, and end as a worker does."""
    consuming = asyncio.create_task(session.consume())
    await eventually(lambda: _equals(lambda: kafka.offsets, {EVENTS: offset}))
    stopping.set()
    await consuming
    await session.close()


async def _consume_fifty(
    clickhouse: ClickHouse, metrics: Metrics, *, committed: int | None = None, first_kept: int = 0
) -> FakeProof:
    """Consume a topic of fifty records from a committed offset, and return what became of the proof."""
    kafka = FakeKafka([event_message(number) for number in range(1, 51)], first_kept=first_kept)
    if committed is not None:
        kafka.offsets[EVENTS] = committed
    proof = FakeProof(clickhouse)
    session, stopping = _session(kafka, clickhouse, metrics, rows=100, proof=proof)
    await _consume_until(session, stopping, kafka, 50)
    return proof
