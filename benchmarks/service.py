"""`python -m benchmarks.service`: measure a service of its own, each figure beside a raw probe of the same run.

The service, with all its threads, has one core; PostgreSQL, Valkey and the load generator share another. Everything
is as durable as in normal work. Only the ratios travel to other machines.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.pinned import CAN_PIN, OTHER_CORE, pin
from benchmarks.requests import CONNECTIONS, EVENT_CONNECTIONS, measure_traffic
from benchmarks.results import DURABLE, measure_results
from benchmarks.runs import FULL, QUICK, Size
from benchmarks.table import layout
from benchmarks.traffic import GENERATOR, BenchmarkFailed


def main() -> int:
    """Measure everything and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.service", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the data and shorter loads")
    size = QUICK if parser.parse_args().quick else FULL
    pin(os.getpid(), OTHER_CORE)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            Path(folder).chmod(0o711)  # PostgreSQL, which is not run as root, must pass through.
            rows = [*measure_traffic(Path(folder) / "traffic", size), *measure_results(Path(folder) / "results", size)]
    except BenchmarkFailed as error:
        sys.stderr.write(f"benchmark: {error}\n")
        return 1
    print(layout(rows))
    print(f"\n{conditions(size)} {time.monotonic() - started:.0f} s in all.")
    return 0


def conditions(size: Size) -> str:
    """Say under which conditions the figures were taken."""
    pinned = (
        "the service on one core, PostgreSQL, Valkey and the generator on another"
        if CAN_PIN
        else "nothing pinned to a core"
    )
    return (
        f"{os.cpu_count()} cores, {pinned}; Python {platform.python_version()}; {', '.join(DURABLE)} on. "
        f"Load by {GENERATOR}, {CONNECTIONS} connections ({EVENT_CONNECTIONS} for batches). Service and probe take "
        f"turns, {size.turns} of {size.seconds:g} s, {size.repeats} for results; shown is the best of each."
    )


if __name__ == "__main__":
    sys.exit(main())
