"""`python -m benchmarks.simulations`: simulate every method, print the tables, or write them into a document.

Every setting has random numbers of its own, by the seed and its name: a run repeats itself to the last digit.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy

from benchmarks.simulations import report
from benchmarks.simulations.cells import Table
from benchmarks.simulations.sizes import FULL, SHORT
from benchmarks.simulations.stopping import price
from benchmarks.simulations.studies import STUDIES

SEED = 20250601


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate; the exit code is 1 where a figure is outside its bounds without a stated reason."""
    parser = argparse.ArgumentParser(prog="benchmarks.simulations", description=__doc__)
    parser.add_argument("--short", action="store_true", help="the short form that the tests run")
    parser.add_argument("--only", nargs="*", choices=sorted(STUDIES), help="these studies alone")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables between the markers of this file")
    options = parser.parse_args(arguments)
    os.nice(10)
    size, names = SHORT if options.short else FULL, options.only or list(STUDIES)
    studies: list[Table] = []
    for name in names:
        begun = time.monotonic()
        studies += STUDIES[name](size, options.seed)
        sys.stderr.write(f"{name}: {time.monotonic() - begun:.0f} s\n")
    form = f"{'--short ' if options.short else ''}--seed {options.seed}"
    text = _text(studies, names, form, time.process_time())
    if options.write:
        report.write(options.write, text)
    else:
        print(text)
    problems = report.unexplained(studies)
    sys.stderr.writelines(f"no reason known: {problem}\n" for problem in problems)
    return 1 if problems else 0


def _text(studies: Sequence[Table], names: Sequence[str], form: str, seconds: float) -> str:
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"
    ran = f"`python -m benchmarks.simulations {form}`, {versions}, {seconds / 60:.0f} minutes of one core."
    return "\n\n".join(
        [
            ran,
            report.summary(studies),
            *(report.table(study) for study in studies),
            *([report.figures(price())] if "stopping" in names else []),
            "### Outside the bounds",
            report.outside(studies),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
