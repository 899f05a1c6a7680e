"""The whole way on one machine: PostgreSQL, Debezium, Kafka, loader and ClickHouse, in use and after outages.

Nothing is pinned to a core and everything competes. PostgreSQL is as durable as in normal work. ClickHouse is its
engine behind HTTP in a process of its own, the stand-in of the tests.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from pathlib import Path

from app.core.clickhouse import ClickHouse
from app.core.settings import ClickHouseSettings
from app.embedded.data_folder import DataFolder
from app.workers.jars import build_jars
from app.workers.local_pipeline import LocalPipeline
from benchmarks.pipeline_kafka import BARE_CLIENT, Load, peak_row, read, watch
from benchmarks.pipeline_writing import connect, write
from benchmarks.runs import note
from benchmarks.table import Row, rate_row, seconds_row
from benchmarks.traffic import BenchmarkFailed
from tests.pipeline.kafka.loading import ClickHouseProgram, LoaderProcess, clickhouse_program

_WITHIN_S = 900.0
_SLOT = "benchmark"
_MAKE_SLOT = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')"
# The same rows out of the same log, for somebody who only counts them.
_DECODE = """
SELECT count(*) FROM pg_logical_slot_get_binary_changes(
    $1, NULL, NULL, 'proto_version', '1', 'publication_names', 'experiments_outbox'
)
"""
_DROP_SLOT = "SELECT pg_drop_replication_slot($1)"
_COUNT = "SELECT count() AS rows, uniqExact(event_id) AS ids FROM events FINAL"


@dataclass(frozen=True, slots=True)
class _Carried:
    """How events got along while they were written."""

    per_s: float
    after_last_commit_s: float


@dataclass(frozen=True, slots=True)
class _CaughtUp:
    """How all of it got along after Connect was away, and how fast PostgreSQL alone decodes the same log."""

    per_s: float
    decoded_per_s: float
    load: Load


@dataclass(frozen=True, slots=True)
class _Servers:
    pipeline: LocalPipeline
    database_url: str
    brokers: str
    clickhouse: ClickHouseProgram


def measure_stack(folder: Path, *, n_sustained: int, n_outage: int) -> list[Row]:
    """Measure the way under load, and how it catches up once the loader and once Connect was away."""
    with _running(folder) as servers:
        note(f"writing {n_outage:,} events while no loader runs")
        unloaded = asyncio.run(_carried(servers, n_outage, read(servers.brokers, n_outage)))
        with _running_loader(folder, servers) as loader:
            note("starting a loader")
            after_loader = watch(loader, n_outage, within_s=_WITHIN_S)
            bare = asyncio.run(read(servers.brokers, n_outage))
            note(f"writing {n_sustained:,} events while everything runs")
            arrived = asyncio.to_thread(watch, loader, n_outage + n_sustained, within_s=_WITHIN_S)
            sustained = asyncio.run(_carried(servers, n_sustained, arrived))
            total = 2 * n_outage + n_sustained
            after_connect = _catch_up_with_connect(servers, loader, n_outage, total)
        asyncio.run(_refuse_losses(servers.clickhouse, total))
    debezium = "Debezium into Kafka alone"
    return [
        rate_row("end to end while it is written, events/s", sustained.per_s, debezium, unloaded.per_s),
        seconds_row(
            "the last of them is in ClickHouse after",
            sustained.after_last_commit_s,
            debezium,
            unloaded.after_last_commit_s,
        ),
        rate_row(
            f"catch-up of {n_outage:,} after an outage of the loader, events/s",
            after_loader.per_s,
            BARE_CLIENT,
            bare.per_s,
        ),
        rate_row(
            f"catch-up of {n_outage:,} after an outage of Connect, its start included, events/s",
            after_connect.per_s,
            "PostgreSQL decoding the same log",
            after_connect.decoded_per_s,
        ),
        peak_row("memory of the loader, peak over both", [after_loader, after_connect.load]),
    ]


def _catch_up_with_connect(servers: _Servers, loader: LoaderProcess, n_events: int, total: int) -> _CaughtUp:
    """Write while Connect is away, start it, and wait until ClickHouse has everything."""
    note(f"writing {n_events:,} events while Connect is away")
    connect_worker = servers.pipeline.connect
    assert connect_worker is not None
    connect_worker.stop()
    asyncio.run(_ask(servers.database_url, _MAKE_SLOT, _SLOT))
    wrote_s = asyncio.run(write(servers.database_url, n_events))
    note(f"written at {n_events / wrote_s:,.0f} events/s; starting Connect")
    began = time.perf_counter()
    connect_worker.start()
    load = watch(loader, total, within_s=_WITHIN_S)
    loaded = time.perf_counter()
    note("decoding the same part of the log for nobody")
    asyncio.run(_ask(servers.database_url, _DECODE, _SLOT))
    decoded = time.perf_counter()
    asyncio.run(_ask(servers.database_url, _DROP_SLOT, _SLOT))
    return _CaughtUp(n_events / (loaded - began), n_events / (decoded - loaded), load)


async def _carried(servers: _Servers, n_events: int, arrived: Awaitable[object]) -> _Carried:
    """Write as fast as PostgreSQL takes it, and wait until everything has arrived."""
    began = time.perf_counter()
    arriving = asyncio.ensure_future(arrived)
    wrote_s = await write(servers.database_url, n_events)
    await arriving
    took_s = time.perf_counter() - began
    note(f"written at {n_events / wrote_s:,.0f} events/s, arrived at {n_events / took_s:,.0f} events/s")
    return _Carried(n_events / took_s, took_s - wrote_s)


async def _ask(url: str, sql: str, *values: object) -> None:
    connection = await connect(url)
    try:
        await connection.fetch(sql, *values)
    finally:
        await connection.close()


async def _refuse_losses(program: ClickHouseProgram, total: int) -> None:
    """See that every event is there once."""
    client = await ClickHouse.connect_server(ClickHouseSettings.model_validate(program.variables))
    try:
        (found,) = await client.rows(_COUNT)
    finally:
        await client.close()
    if found != {"rows": total, "ids": total}:
        raise BenchmarkFailed(f"of {total:,} events ClickHouse has {found}")


@contextlib.contextmanager
def _running(folder: Path) -> Iterator[_Servers]:
    with clickhouse_program(folder / "clickhouse") as clickhouse:
        data = DataFolder.open(folder / "stack")
        pipeline = LocalPipeline(data, build_jars(), say=note)
        try:
            addresses = pipeline.start()
            yield _Servers(pipeline, addresses["DATABASE_URL"], addresses["KAFKA_BOOTSTRAP_SERVERS"], clickhouse)
        finally:
            pipeline.stop()
            data.close()


@contextlib.contextmanager
def _running_loader(folder: Path, servers: _Servers) -> Iterator[LoaderProcess]:
    variables = {**servers.clickhouse.variables, "KAFKA_BOOTSTRAP_SERVERS": servers.brokers}
    loader = LoaderProcess.start(folder / "loader.log", variables)
    try:
        yield loader
    finally:
        loader.terminate()
