"""A whole results page over a long history, from ClickHouse alone, beside bare scans of the rows that it needs.

python -m benchmarks.results_page [--events 20000000] [--users 1000000]

The page has ten stored metrics of three arms with their daily series and CUPED, who is exposed and left out, the
sample ratio and the events by day. The history is that of `benchmarks.measurement`; what rollups count ahead is counted
by the service's own builder. `statistics` is what is left to do once the numbers are there, in one thread.
"""

import argparse
import asyncio
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from app.core.clickhouse import ClickHouse
from app.embedded.clickhouse import EmbeddedClickHouse
from app.embedded.data_folder import DataFolder
from app.embedded.postgres import EmbeddedPostgres
from app.experiments.lifecycle import Status
from app.experiments.values import Experiment, Variant
from app.metrics.values import AttachedMetric, Direction, Metric, Role
from app.pipeline.schema import migrate
from app.results.analysis import analyse
from app.results.answer import Results
from app.results.chosen import Chosen
from app.results.cold import ColdStore
from app.results.measuring import metrics_of, observed_question, wanted_of
from app.results.provenance import Provenance
from app.results.reading import PLAIN
from app.results.values import NOTHING_WANTED, Observations, Question, Source, Subject
from app.rollups.steps import Step
from benchmarks.history import MOST_SLOTS, roll_up
from benchmarks.measurement import COLUMNS, START, TEN, WATERMARK, fill, scan
from benchmarks.runs import note
from benchmarks.table import layout, seconds_row


def main() -> int:
    """Measure and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.results_page", description=__doc__)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL, which is not run as root, must pass through.
        data = DataFolder.open(Path(folder) / "data")
        postgres, engine = EmbeddedPostgres(data, say=note), EmbeddedClickHouse(data, say=note)
        url = postgres.start()
        try:
            asyncio.run(_measure(url, engine, asked))
        finally:
            engine.stop()
            postgres.stop()
            data.close()
    return 0


async def _measure(url: str, engine: EmbeddedClickHouse, asked: argparse.Namespace) -> None:
    clickhouse = await ClickHouse.over_engine(engine.start(), "experiments")
    await migrate(clickhouse)
    note(f"storing {asked.events:,} events of {asked.users:,} users")
    row = {"experiment_id": 1, "project_id": 1, "key": "benchmark", "status": "running", "version": 1}
    await clickhouse.insert_json("experiments", [msgspec.json.encode(row | {"definition": "{}", "ingested_at": START})])
    await fill(clickhouse, events=asked.events, users=asked.users)
    note("building rollups")
    _, steps = await roll_up(url, clickhouse)
    load = os.getloadavg()[0]
    plain = await _best(partial(scan, clickhouse, ""), asked.repeats)
    final = await _best(partial(scan, clickhouse, "FINAL"), asked.repeats)
    rows = [seconds_row(f"scan without copies: {COLUMNS}", final, "scan with copies", plain)]
    page = _Page(ColdStore(clickhouse), steps)
    parts: dict[str, Callable[[], Awaitable[Any]]] = {
        "whole page": page.show,
        "whole page, no rollups": partial(page.show, with_rollups=False),
        "of these: users and events by day, from rollups": partial(page.observe, with_recipes=False),
        "of these: the same from raw rows": partial(page.observe, with_recipes=False, with_rollups=False),
    }
    for name, part in parts.items():
        note(name)
        seconds = await _best(part, asked.repeats)
        rows.append(seconds_row(name, seconds, "scan without copies", final))
        rows.append(seconds_row(name, seconds, "scan with copies", plain))
    seen = await page.observe()
    statistics = await _best(partial(page.analyse, seen), 2 * asked.repeats)
    answer = await page.analyse(seen)
    assert answer.metadata.total_users == asked.users
    print(layout(rows))
    points = sum(len(series.points) for series in answer.effect_over_time)
    print(f"\nStatistics alone: {statistics * 1000:.1f} ms for {len(answer.comparisons)} comparisons", end=" ")
    print(f"and {points} daily differences; {len(msgspec.json.encode(answer)):,} bytes of JSON.")
    print(f"{asked.events:,} events, {asked.users:,} users, {os.cpu_count()} cores, load {load:.1f} before;", end=" ")
    print(f"best of {asked.repeats}.")
    print(f"Largest size of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB.")
    await clickhouse.close()


class _Page:
    """One experiment, and what is asked about it."""

    def __init__(self, cold: ColdStore, steps: Sequence[Step]) -> None:
        self._cold = cold
        self._steps = steps
        self._experiment = _experiment()
        self._metrics = [Chosen(item.metric.key, item) for item in self._experiment.metrics]
        self._question = Question(metrics=tuple(item.key for item in self._metrics))
        self._wanted = wanted_of(self._metrics, self._question, len(self._experiment.variants) - 1)

    async def observe(self, *, with_recipes: bool = True, with_rollups: bool = True) -> Observations:
        return await self._cold.observe(
            Subject.of(self._experiment),
            observed_question(self._question, self._wanted),
            WATERMARK,
            most_slots=MOST_SLOTS,
            steps=self._steps if with_rollups else (),
            wanted=self._wanted if with_recipes else NOTHING_WANTED,
        )

    async def analyse(self, seen: Observations) -> Results:
        metrics = metrics_of(self._metrics, self._experiment, self._question, self._wanted, seen)
        provenance = Provenance(Source.COLD, WATERMARK, WATERMARK + timedelta(seconds=1))
        return analyse(self._experiment, self._question, PLAIN, metrics, seen, provenance)

    async def show(self, *, with_rollups: bool = True) -> bytes:
        return msgspec.json.encode(await self.analyse(await self.observe(with_rollups=with_rollups)))


def _experiment() -> Experiment:
    keys = ("control", "first", "second")
    shares = (Decimal("33.34"), Decimal("33.33"), Decimal("33.33"))
    variants = tuple(
        Variant(number, key, key, share, number == 1, {}, 0, 0)
        for number, (key, share) in enumerate(zip(keys, shares, strict=True), start=1)
    )
    metrics = tuple(
        AttachedMetric(
            metric=Metric(
                id=number,
                project_id=1,
                key=key,
                version=1,
                name=key,
                description=None,
                recipe=recipe,
                direction=Direction.UP,
                unit=None,
            ),
            role=Role.PRIMARY if number == 1 else Role.SECONDARY,
        )
        for number, (key, recipe) in enumerate(TEN.items(), start=1)
    )
    return replace(_EMPTY, variants=variants, metrics=metrics)


_EMPTY = Experiment(
    id=1,
    project_id=1,
    key="benchmark",
    name="Benchmark",
    description=None,
    status=Status.RUNNING,
    seed="seed",
    traffic_pct=Decimal(100),
    config={},
    version=1,
    starts_at=None,
    ends_at=None,
    started_at=START,
    ended_at=None,
    created_at=START,
    updated_at=START,
    variants=(),
)


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
