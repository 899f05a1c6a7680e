"""Results of one experiment over a long history, from ClickHouse alone, beside bare scans of the columns they need.

python -m benchmarks.history [--events 20000000] [--users 1000000]

The history is made inside ClickHouse's engine: events of 30 days, one in a hundred delivered twice. Rollups are then
built by the service's own builder, except for the last hours, as in normal work.
"""

import argparse
import asyncio
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import structlog
from sqlalchemy import make_url

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import PipelineSettings
from app.embedded.clickhouse import EmbeddedClickHouse
from app.embedded.data_folder import DataFolder
from app.embedded.postgres import EmbeddedPostgres
from app.pipeline.rollups import RollupBuilder
from app.pipeline.schema import migrate
from app.results.cold import ColdStore
from app.results.values import Granularity, Metric, Observations, Question, Subject
from app.rollups.repository import RollupRepository
from app.rollups.steps import DAY, Step
from benchmarks.runs import note
from benchmarks.table import layout, seconds_row

START = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 30
# The last hour that is over ended 10 minutes ago at least, so the newest 100 minutes are counted by the question.
WATERMARK = START + DAYS * DAY
ROLLED_UP_TO = WATERMARK - 100 * timedelta(minutes=1) + timedelta(minutes=10)
MOST_SLOTS = 20_001
REPEATS = 3
BATCH = 1_000_000
SUBJECT = Subject(1, 1)

EXPOSURES = """
INSERT INTO exposures
SELECT 1, concat('user-', toString(number)), 1 + number % 2, 'hash', 1, '{}',
    {start:DateTime64(6, 'UTC')} + toIntervalSecond(intDiv(number * 604800, {users:UInt64})) AS entered_at, entered_at
FROM numbers({users:UInt64})
"""
# Spread evenly over the days and at random over the users; one event in ten is a purchase and carries a value.
EVENTS = """
INSERT INTO events
SELECT 1, generateUUIDv4(), NULL, concat('user-', toString(intHash64(number) % {users:UInt64})),
    if(number % 10 = 0, 'purchase', 'view') AS type,
    {start:DateTime64(6, 'UTC')} + toIntervalMicrosecond(number * intDiv({length_us:UInt64}, {events:UInt64})) AS at,
    if(type = 'purchase', round(20 + 60 * randCanonical(), 2), NULL), '{}',
    at + toIntervalMicrosecond(rand() % 1000000)
FROM numbers({first:UInt64}, {count:UInt64})
"""
REDELIVERED = "INSERT INTO events SELECT * FROM events WHERE cityHash64(event_id) % 100 = 0"
SETTINGS = {"do_not_merge_across_partitions_select_final": 1}

COUNTED = "user_id, event_type, ts, experiment_id, ingested_at"
VALUED = f"{COUNTED}, value"
QUESTIONS = {
    "conversion by days": (Question(), COUNTED),
    "conversion, no time series": (Question(with_series=False), COUNTED),
    "conversion by hours": (Question(granularity=Granularity.HOUR), COUNTED),
    "all metrics by days": (Question(metrics=tuple(Metric)), VALUED),
}


def main() -> int:
    """Measure and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.history", description=__doc__)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL, which is not run as root, must pass through.
        data = DataFolder.open(Path(folder) / "data")
        postgres, engine = EmbeddedPostgres(data, say=note), EmbeddedClickHouse(data, say=note)
        url = postgres.start()
        try:
            asyncio.run(_measure(url, engine, events=asked.events, users=asked.users))
        finally:
            engine.stop()
            postgres.stop()
            data.close()
    return 0


async def _measure(url: str, engine: EmbeddedClickHouse, *, events: int, users: int) -> None:
    clickhouse = await ClickHouse.over_engine(engine.start(), "experiments")
    await migrate(clickhouse)
    note(f"storing {events:,} events of {users:,} users")
    await _fill(clickhouse, events=events, users=users)
    load = os.getloadavg()[0]
    scans, rows = {}, []
    for columns in (COUNTED, VALUED):
        note(f"scanning {columns}")
        plain = await _best(partial(_scan, clickhouse, columns, final=""))
        scans[columns] = await _best(partial(_scan, clickhouse, columns, final="FINAL"))
        rows.append(seconds_row(f"scan without copies: {columns}", scans[columns], "scan with copies", plain))
    cold = ColdStore(clickhouse)
    raw: dict[str, Observations] = {}
    for name, (question, columns) in QUESTIONS.items():
        note(f"{name}, raw")
        seconds, raw[name] = await _asked(cold, question, [])
        rows.append(seconds_row(f"{name}, raw rows", seconds, "scan without copies", scans[columns]))
    note("building rollups")
    built_s, steps = await roll_up(url, clickhouse)
    for name, (question, columns) in QUESTIONS.items():
        note(f"{name}, with rollups")
        seconds, seen = await _asked(cold, question, steps)
        assert seen == raw[name]
        rows.append(seconds_row(f"{name}, rollups", seconds, "scan without copies", scans[columns]))
    print(layout(rows))
    print(f"\n{events:,} events, {users:,} users, {os.cpu_count()} cores, load {load:.1f} before; best of {REPEATS}.")
    print(f"Rollups up to {WATERMARK - steps[-1].until} before the watermark: {built_s:.1f} s, by two threads.")
    print(f"Largest size of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB.")
    print(await _sizes(clickhouse))
    await clickhouse.close()


async def _fill(clickhouse: ClickHouse, *, events: int, users: int) -> None:
    experiment = {"experiment_id": 1, "project_id": 1, "key": "benchmark", "status": "running", "version": 1}
    line = msgspec.json.encode(experiment | {"definition": "{}", "ingested_at": START})
    await clickhouse.insert_json("experiments", [line])
    await clickhouse.insert_selected(EXPOSURES, {"start": START, "users": users})
    spread = {"start": START, "users": users, "events": events, "length_us": DAYS * DAY // timedelta(microseconds=1)}
    for first in range(0, events, BATCH):
        await clickhouse.insert_selected(EVENTS, spread | {"first": first, "count": min(BATCH, events - first)})
    await clickhouse.insert_selected(REDELIVERED)


async def _scan(clickhouse: ClickHouse, columns: str, *, final: str) -> None:
    """Read every row's columns and do nothing with them."""
    of_project = f"SELECT {columns} FROM events {final} WHERE project_id = 1"
    await clickhouse.rows(f"SELECT count() FROM ({of_project}) WHERE NOT ignore(*)", settings=SETTINGS)


async def _asked(cold: ColdStore, question: Question, steps: list[Step]) -> tuple[float, Observations]:
    seen: list[Observations] = []

    async def ask() -> None:
        seen.append(await cold.observe(SUBJECT, question, WATERMARK, most_slots=MOST_SLOTS, steps=steps))

    return await _best(ask), seen[-1]


async def _best(measured: Callable[[], Awaitable[Any]]) -> float:
    """Return the shortest time of some, in seconds."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        await measured()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


async def roll_up(url: str, clickhouse: ClickHouse) -> tuple[float, list[Step]]:
    """Build the rollups, and return how long that took and of which steps they are."""

    async def watermark() -> datetime:
        return ROLLED_UP_TO

    database = Database.connect(url, pool_size=2)
    connection = await asyncpg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))
    builder = RollupBuilder(database, clickhouse, PipelineSettings(), Metrics(), watermark)
    started = time.perf_counter()
    await builder.take_over(connection)
    while await builder.build_next(connection):
        pass
    built_s = time.perf_counter() - started
    await connection.close()
    await database.close()
    return built_s, list((await RollupRepository(clickhouse).get()).steps)


async def _sizes(clickhouse: ClickHouse) -> str:
    rows = await clickhouse.rows(
        "SELECT table, sum(bytes_on_disk) AS size FROM system.parts WHERE active AND database = currentDatabase()"
        " AND table IN ('events', 'exposures', 'rollups', 'rollup_units') GROUP BY table ORDER BY table"
    )
    return "On disk: " + ", ".join(f"{row['table']} {row['size'] / 2**20:,.1f} MiB" for row in rows) + "."


if __name__ == "__main__":
    sys.exit(main())
