"""What all measurements have in common: their size, their turns, and a word on what is going on."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.traffic import Rate

Measured = TypeVar("Measured")

EXPERIMENT = "benchmark"


@dataclass(frozen=True, slots=True)
class Size:
    """How long and how much is measured."""

    turns: int
    seconds: float
    users: int
    events: int
    repeats: int


FULL = Size(turns=3, seconds=3, users=100_000, events=1_000_000, repeats=5)
QUICK = Size(turns=2, seconds=1, users=10_000, events=100_000, repeats=3)


def in_turns(
    turns: int, service: Callable[[], Rate], probe: Callable[[], Measured], rate: Callable[[Measured], float]
) -> tuple[Rate, Measured]:
    """Measure the service and the probe in turns, and return the best of each.

    Whatever else runs on the machine disturbs both alike, and the best turn of each the least.
    """
    found = [(service(), probe()) for _ in range(turns)]
    return max((pair[0] for pair in found), key=lambda item: item.per_s), max((pair[1] for pair in found), key=rate)


def note(what: str) -> None:
    sys.stderr.write(f"... {what}\n")
    sys.stderr.flush()
