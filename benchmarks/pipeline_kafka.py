"""The loader alone, from a filled topic: its speed and its memory, beside a client that only reads.

The loader has one core. Kafka's broker, ClickHouse and whoever asks share the other. ClickHouse is its engine behind
HTTP in a process of its own, the stand-in of the tests: the rows are really stored, and the engine's memory is not the
loader's.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from app.embedded.data_folder import DataFolder
from app.events import messages as events
from app.pipeline.records import ID_HEADER, TYPE_HEADER
from app.pipeline.topics import Topic, topics
from app.workers.jars import build_jars
from app.workers.kafka_broker import KafkaBroker
from app.workers.topic_admin import ensure_topics
from benchmarks.pinned import OTHER_CORE, SERVICE_CORE, on_core, pin
from benchmarks.runs import note
from benchmarks.table import Row, rate_row
from benchmarks.traffic import BenchmarkFailed
from tests.pipeline.kafka.loading import ClickHouseProgram, LoaderProcess, clickhouse_program

MIB = 1024 * 1024
LOADED_WITHIN_S = 300.0
BARE_CLIENT = "aiokafka that reads and drops them"

_TOPICS_WITHIN_S = 60.0
_LOOK_EVERY_S = 0.1
_STORED = 'relayed_rows_total{table="events"}'
_SENT_AT_ONCE = 5_000
# An event as PostgreSQL writes it into the outbox, and Debezium's own headers beside the two that are read.
_LINE = (
    b'{"ts": "2026-01-01T%02d:%02d:%02d.%06d+00:00", "value": %d.25, "user_id": "user-%d", "event_id": "%b",'
    b' "event_type": "purchase", "project_id": 1, "properties": {"sku": "sku-%d", "quantity": %d},'
    b' "ingested_at": "2026-01-02T00:00:00.123456+00:00", "experiment_id": null, "schema_version": 1}'
)
_DEBEZIUM_HEADERS = [
    ("__debezium.context.connectorLogicalName", b"experiments_cdc"),
    ("__debezium.context.taskId", b"0"),
    ("__debezium.context.connectorName", b"postgresql"),
]
_USERS = 50_000


@dataclass(frozen=True, slots=True)
class Load:
    """What a loader did between its first flush and its last: rows, and its own processor time and memory."""

    per_s: float
    per_cpu_s: float
    ready_bytes: int
    peak_bytes: int


class _Moment(NamedTuple):
    stored: float
    at_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a client that only reads got."""

    per_s: float
    per_cpu_s: float


def measure_loader(folder: Path, *, n_events: int, turns: int) -> list[Row]:
    """Fill a topic, then let loaders and bare clients read it in turns; shown is the best of each."""
    pin(os.getpid(), OTHER_CORE)
    with running_broker(folder / "kafka") as brokers, clickhouse_program(folder / "clickhouse") as clickhouse:
        note(f"filling a topic with {n_events:,} events")
        size = asyncio.run(_fill(brokers, n_events))
        loads, readings = [], []
        for turn in range(turns):
            note(f"loading them, turn {turn + 1} of {turns}")
            loads.append(_load(folder, brokers, clickhouse, n_events))
            note("reading them and doing nothing else")
            with on_core(SERVICE_CORE):
                readings.append(asyncio.run(read(brokers, n_events)))
    rates = max(load.per_s for load in loads), max(reading.per_s for reading in readings)
    cpu_rates = max(load.per_cpu_s for load in loads), max(reading.per_cpu_s for reading in readings)
    return [
        rate_row(f"loader alone, events/s (of {size:.0f} bytes)", rates[0], BARE_CLIENT, rates[1]),
        rate_row("the same per second of its own processor time", cpu_rates[0], BARE_CLIENT, cpu_rates[1]),
        peak_row(f"memory of the loader, peak over {n_events:,} events", loads),
    ]


def peak_row(measure: str, loads: list[Load]) -> Row:
    """Show the highest memory of all runs beside that of a loader which has just got ready."""
    peak, ready = max(load.peak_bytes for load in loads) / MIB, max(load.ready_bytes for load in loads) / MIB
    return Row(measure, f"{peak:,.0f} MiB", "just ready", f"{ready:,.0f} MiB", f"{peak / ready:.2f}")


@contextlib.contextmanager
def running_broker(folder: Path) -> Iterator[str]:
    """Run a broker with all topics for the length of the block; yields its address."""
    data = DataFolder.open(folder)
    broker = KafkaBroker(data, build_jars(), say=note)
    try:
        brokers = broker.start()
        give_up_at = time.monotonic() + _TOPICS_WITHIN_S
        asyncio.run(ensure_topics(brokers, topics(), say=lambda _line: None, give_up_at=give_up_at))
        yield brokers
    finally:
        broker.stop()
        data.close()


def events_topic() -> Topic:
    """Return the topic of events."""
    return next(topic for topic in topics() if topic.aggregatetype == events.AGGREGATE)


async def read(brokers: str, n_messages: int) -> Reading:
    """Read the topic of events with the loader's own client and settings, and drop what is read."""
    consumer = AIOKafkaConsumer(
        events_topic().name,
        bootstrap_servers=brokers,
        group_id=f"probe-{uuid4().hex[:8]}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
        fetch_max_bytes=8 * MIB,
        max_partition_fetch_bytes=512 * 1024,
    )
    await consumer.start()
    try:
        # Joining the group is not reading.
        got = sum(map(len, (await consumer.getmany(timeout_ms=10_000, max_records=1)).values()))
        began, cpu_began, first = time.perf_counter(), time.process_time(), got
        while got < n_messages:
            fetched = await consumer.getmany(timeout_ms=1000, max_records=1000)
            got += sum(map(len, fetched.values()))
        took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    finally:
        await consumer.stop()
    return Reading((got - first) / took_s, (got - first) / cpu_s)


def watch(loader: LoaderProcess, total: int, *, within_s: float = LOADED_WITHIN_S) -> Load:
    """Wait until a loader has stored so many events in all, and tell how that went since its next flush.

    Raises:
        BenchmarkFailed: it took too long.
    """
    process = psutil.Process(loader.process.pid)
    before, ready_bytes = stored_by(loader), process.memory_info().rss
    began, peak_bytes = _Moment(before, 0.0, 0.0), ready_bytes
    give_up_at = time.monotonic() + within_s
    while True:
        now = _Moment(stored_by(loader), time.perf_counter(), sum(process.cpu_times()[:2]))
        peak_bytes = max(peak_bytes, process.memory_info().rss)
        if began.stored == before:
            began = now
        if now.stored >= total:
            break
        if time.monotonic() > give_up_at:
            raise BenchmarkFailed(f"the loader stored {now.stored:,.0f} of {total:,} events within {within_s:.0f} s")
        time.sleep(_LOOK_EVERY_S)
    rows = now.stored - began.stored
    return Load(rows / (now.at_s - began.at_s), rows / (now.cpu_s - began.cpu_s), ready_bytes, peak_bytes)


def stored_by(loader: LoaderProcess) -> float:
    """Return how many events a loader has stored since it was started."""
    return loader.metrics().get(_STORED, 0.0)


def _load(folder: Path, brokers: str, clickhouse: ClickHouseProgram, n_events: int) -> Load:
    """Run a loader of a group of its own over the whole topic; ClickHouse drops the rows of earlier turns."""
    variables = {"KAFKA_BOOTSTRAP_SERVERS": brokers, "LOADER_GROUP_ID": f"benchmark-{uuid4().hex[:8]}"}
    loader = LoaderProcess(folder / "loader.log", {**clickhouse.variables, **variables})
    try:
        pin(loader.process.pid, SERVICE_CORE)  # It has one thread yet; the others inherit its core.
        while not loader.is_ready():
            time.sleep(_LOOK_EVERY_S)
        return watch(loader, n_events)
    finally:
        loader.terminate()


async def _fill(brokers: str, n_events: int) -> float:
    """Send events as Debezium does, spread over the partitions; returns the mean size of a payload in bytes."""
    topic, n_bytes = events_topic(), 0
    producer = AIOKafkaProducer(
        bootstrap_servers=brokers, compression_type="lz4", linger_ms=5, max_batch_size=256 * 1024
    )
    await producer.start()
    try:
        for start in range(0, n_events, _SENT_AT_ONCE):
            sent = []
            for number in range(start, min(start + _SENT_AT_ONCE, n_events)):
                id_, line = _event(number)
                n_bytes += len(line)
                headers = [(ID_HEADER, id_), (TYPE_HEADER, events.RECORDED.encode()), *_DEBEZIUM_HEADERS]
                key = b"user-%d" % (number % _USERS)
                partition = number % topic.partitions
                sent.append(await producer.send(topic.name, line, key=key, partition=partition, headers=headers))
            await asyncio.gather(*sent)
    finally:
        await producer.stop()
    return n_bytes / n_events


def _event(number: int) -> tuple[bytes, bytes]:
    id_ = str(UUID(int=number + 1)).encode()
    minutes, second = divmod(number % 86_400, 60)
    hour, minute = divmod(minutes, 60)
    user, sku, quantity = number % _USERS, number % 1000, number % 7
    return id_, _LINE % (hour, minute, second, number % 1_000_000, number % 100, user, id_, sku, quantity)
