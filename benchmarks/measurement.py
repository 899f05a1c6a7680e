"""Ten stored metrics of one experiment with three arms, from ClickHouse alone, beside bare scans of the same rows.

python -m benchmarks.measurement [--events 20000000] [--users 1000000]

The history is made inside ClickHouse's engine: events of 30 days, one in a hundred delivered twice; users enter in the
second week, so that the first one is what CUPED looks back at. A bare scan reads the columns that the metrics need and
does nothing with them, once with the copies of redelivered rows and once without.
"""

import argparse
import asyncio
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from app.core.clickhouse import ClickHouse
from app.embedded.clickhouse import EmbeddedClickHouse
from app.embedded.data_folder import DataFolder
from app.measurement.stores import measure_cold
from app.measurement.values import Asked, Days, Exposed, Measured
from app.metrics.values import Kind, Recipe, Selection, ValueSource
from app.pipeline.schema import migrate
from benchmarks.runs import note
from benchmarks.table import layout, seconds_row

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DAYS = 30
WATERMARK = START + (DAYS + 1) * DAY
BATCH = 1_000_000
SETTINGS = {"do_not_merge_across_partitions_select_final": 1}
COLUMNS = "user_id, event_type, ts, experiment_id, ingested_at, value"

EXPOSURES = """
INSERT INTO exposures
SELECT 1, concat('user-', toString(number)), 1 + number % 3, 'hash', 1, '{}',
    {start:DateTime64(6, 'UTC')} + toIntervalSecond(604800 + intDiv(number * 604800, {users:UInt64})) AS entered_at,
    entered_at
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
EXPOSED = """WITH exposed AS (
    SELECT user_id, variant_id, exposed_at, 1 AS planned FROM exposures FINAL
    WHERE experiment_id = {experiment_id:Int64} AND ingested_at < {watermark:DateTime64(6, 'UTC')}
)"""

PURCHASE, VIEW = Selection(("purchase",)), Selection(("view",))
ONES = ValueSource.ONE
TEN: Mapping[str, Recipe] = {
    "conversion": Recipe(kind=Kind.CONVERSION, selections=(PURCHASE,), covariate_days=7),
    "purchases": Recipe(kind=Kind.COUNT, selections=(PURCHASE,), covariate_days=7),
    "revenue": Recipe(kind=Kind.SUM, selections=(PURCHASE,), covariate_days=7),
    "revenue, winsorized": Recipe(kind=Kind.SUM, selections=(PURCHASE,), covariate_days=7, winsorize=0.99),
    "order value": Recipe(kind=Kind.MEAN, selections=(PURCHASE,)),
    "purchases per view": Recipe(
        kind=Kind.RATIO,
        selections=(Selection(("purchase",), source=ONES),),
        denominator=Selection(("view",), source=ONES),
    ),
    "views": Recipe(kind=Kind.COUNT, selections=(VIEW,), covariate_days=7),
    "retention": Recipe(kind=Kind.RETENTION, selections=(VIEW,), first_day=1, last_day=7),
    "funnel": Recipe(kind=Kind.FUNNEL, selections=(VIEW, PURCHASE), window_s=7 * 86_400),
    "time to purchase": Recipe(kind=Kind.TIME_TO_FIRST, selections=(PURCHASE,)),
}
P95 = {"95th percentile": Recipe(kind=Kind.QUANTILE, selections=(PURCHASE,), quantile=0.95)}


def main() -> int:
    """Measure and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.measurement", description=__doc__)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--each", action="store_true", help="measure every metric by itself as well")
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        data = DataFolder.open(Path(folder) / "data")
        engine = EmbeddedClickHouse(data, say=note)
        try:
            asyncio.run(_measure(engine, asked))
        finally:
            engine.stop()
            data.close()
    return 0


async def _measure(engine: EmbeddedClickHouse, asked: argparse.Namespace) -> None:
    clickhouse = await ClickHouse.over_engine(engine.start(), "experiments")
    await migrate(clickhouse)
    note(f"storing {asked.events:,} events of {asked.users:,} users")
    await fill(clickhouse, events=asked.events, users=asked.users)
    load = os.getloadavg()[0]
    plain = await _best(partial(scan, clickhouse, ""), asked.repeats)
    final = await _best(partial(scan, clickhouse, "FINAL"), asked.repeats)
    rows = [seconds_row(f"scan without copies: {COLUMNS}", final, "scan with copies", plain)]
    series = Days((START + 7 * DAY).date(), DAYS - 7)
    questions = {
        "ten metrics, daily series": (TEN, series),
        "ten metrics, totals alone": (TEN, None),
        "a percentile with its interval": (P95, series),
        **({key: ({key: recipe}, series) for key, recipe in TEN.items()} if asked.each else {}),
    }
    for name, (recipes, days) in questions.items():
        note(name)
        seconds = await _best(partial(_ask, clickhouse, recipes, days, asked.users), asked.repeats)
        rows.append(seconds_row(name, seconds, "scan without copies", final))
    print(layout(rows))
    print(f"\n{asked.events:,} events, {asked.users:,} users, {os.cpu_count()} cores, load {load:.1f} before;", end=" ")
    print(f"best of {asked.repeats}.")
    print(f"Largest size of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB.")
    await clickhouse.close()


async def fill(clickhouse: ClickHouse, *, events: int, users: int) -> None:
    """Make the history."""
    await clickhouse.insert_selected(EXPOSURES, {"start": START, "users": users})
    spread = {"start": START, "users": users, "events": events, "length_us": DAYS * DAY // timedelta(microseconds=1)}
    for first in range(0, events, BATCH):
        await clickhouse.insert_selected(EVENTS, spread | {"first": first, "count": min(BATCH, events - first)})
    await clickhouse.insert_selected(REDELIVERED)


async def scan(clickhouse: ClickHouse, final: str) -> None:
    """Read every row's columns and do nothing with them."""
    of_project = f"SELECT {COLUMNS} FROM events {final} WHERE project_id = 1"
    await clickhouse.rows(f"SELECT count() FROM ({of_project}) WHERE NOT ignore(*)", settings=SETTINGS)


async def _ask(clickhouse: ClickHouse, recipes: Mapping[str, Recipe], days: Days | None, users: int) -> Measured:
    asked = Asked(project_id=1, experiment_id=1, days=days)
    seen = await measure_cold(clickhouse, recipes, asked, Exposed(EXPOSED, {}), WATERMARK)
    assert all(sum(arm.sums.n for arm in arms.values()) == users for arms in seen.metrics.values())
    return seen


async def _best(measured: Callable[[], Awaitable[Any]], repeats: int) -> float:
    """Return the shortest time of some, in seconds."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        await measured()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    sys.exit(main())
