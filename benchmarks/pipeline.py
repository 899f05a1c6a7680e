"""`python -m benchmarks.pipeline`: measure the way from the outbox to ClickHouse, each figure beside a raw probe.

Each part runs in a process of its own, on servers of its own, and can be asked for alone (`--part loader`). Only the
ratios travel to other machines.
"""

import argparse
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import structlog

from app.embedded.errors import EmbeddedError
from benchmarks.pipeline_kafka import measure_loader
from benchmarks.pipeline_postgres import measure_cleaning, measure_cost
from benchmarks.pipeline_stack import measure_stack
from benchmarks.relay import measure_relay
from benchmarks.table import Row, layout
from benchmarks.traffic import BenchmarkFailed


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    turns: int
    loaded: int
    sustained: int
    outage: int
    relayed: int
    written: int
    days_per_turn: int
    rows_per_day: int
    histories: tuple[int, ...]


FULL = Size(
    turns=3,
    loaded=1_000_000,
    sustained=500_000,
    outage=1_000_000,
    relayed=500_000,
    written=1_000_000,
    days_per_turn=20,
    rows_per_day=50_000,
    histories=(20_000_000, 100_000_000),
)
QUICK = Size(
    turns=2,
    loaded=200_000,
    sustained=100_000,
    outage=100_000,
    relayed=100_000,
    written=100_000,
    days_per_turn=10,
    rows_per_day=20_000,
    histories=(2_000_000,),
)

Part = Callable[[Path, Size], list[Row]]


def main() -> int:
    """Measure what was asked for and print a table for each part; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.pipeline", description=__doc__)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="this part alone; may be repeated")
    parser.add_argument("--quick", action="store_true", help="a tenth of the data")
    asked = parser.parse_args()
    failed = [name for name in asked.part or PARTS if not _show(name, QUICK if asked.quick else FULL)]
    return 1 if failed else 0


def _show(name: str, size: Size) -> bool:
    """Measure a part and print what was found; tells whether that went well."""
    load, began = os.getloadavg()[0], time.monotonic()
    try:
        # One engine fits into a process, and what a part leaves in memory is nobody else's concern.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
            rows = executor.submit(_measure, name, size).result()
    except (BenchmarkFailed, EmbeddedError) as error:
        sys.stderr.write(f"benchmark: {name}: {error}\n")
        return False
    if rows:
        print(layout(rows))
    conditions = f"{os.cpu_count()} cores, Python {platform.python_version()}, load {load:.1f} before"
    print(f"\n{name}: {conditions}, {time.monotonic() - began:.0f} s.\n", flush=True)
    return True


def _measure(name: str, size: Size) -> list[Row]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL, which is not run as root, must pass through.
        return PARTS[name](Path(folder), size)


def _loader(folder: Path, size: Size) -> list[Row]:
    return measure_loader(folder, n_events=size.loaded, turns=size.turns)


def _stack(folder: Path, size: Size) -> list[Row]:
    return measure_stack(folder, n_sustained=size.sustained, n_outage=size.outage)


def _relay(folder: Path, size: Size) -> list[Row]:
    return measure_relay(folder, n_rows=size.relayed)


def _cost(folder: Path, size: Size) -> list[Row]:
    return measure_cost(folder, n_events=size.written)


def _cleaning(folder: Path, size: Size) -> list[Row]:
    return measure_cleaning(folder, turns=size.turns, days_per_turn=size.days_per_turn, rows_per_day=size.rows_per_day)


def _results(_folder: Path, size: Size) -> list[Row]:
    """Run the benchmark of results over long histories, which prints tables of its own."""
    for n_events in size.histories:
        done = subprocess.run([sys.executable, "-m", "benchmarks.history", "--events", str(n_events)], check=False)
        if done.returncode != 0:
            raise BenchmarkFailed(f"results over {n_events:,} events ended with {done.returncode}")
    return []


PARTS: Mapping[str, Part] = {
    "loader": _loader,
    "stack": _stack,
    "relay": _relay,
    "postgres": _cost,
    "cleaning": _cleaning,
    "results": _results,
}


if __name__ == "__main__":
    sys.exit(main())
