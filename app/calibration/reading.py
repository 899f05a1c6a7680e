"""From the lines that PostgreSQL sends to every user's numbers. Plain functions, no I/O of its own.

Each line has six numbers: what it is about, the metric's index, the user's number, and three more.

| about        | the other three                                                           |
|--------------|---------------------------------------------------------------------------|
| 0, a user    | the number of what the user is split with; below 0 of a group              |
| 1, a metric  | numerator and denominator of the user, in units; users with 0 may be left out |
| 2, a unit    | side (0 numerator, 1 denominator) and the exponent: a unit is 2 to the power of minus that |
"""

import io
from collections.abc import Iterable, Sequence

import numpy as np

from app.calibration.resplits import Numbers, UserNumbers, Users
from app.calibration.values import FEWEST_USERS, MOST_NUMBERS, Column

USER, NUMBERS, EXPONENT = 0, 1, 2
_WIDTH = 6
# Parsed at once: some megabytes of numbers.
_BLOCK_BYTES = 4 * 1024 * 1024


class CannotCalibrate(Exception):
    """The control arm is nothing to calibrate by; the message says why, to people."""


def read_users(columns: Sequence[Column], pieces: Iterable[bytes], *, split_by: str | None = None) -> Users:
    """Read all lines, in whatever order and however cut.

    Raises:
        CannotCalibrate: there are too few users, or too many to hold, or nobody has what they are to be split by.
    """
    found: dict[tuple[int, int], list[Numbers]] = {}
    n_users = 0
    for block in _blocks(pieces):
        for row_kind in (USER, NUMBERS, EXPONENT):
            rows = block[block[:, 0] == row_kind]
            for index in np.unique(rows[:, 1]):
                found.setdefault((row_kind, int(index)), []).append(rows[rows[:, 1] == index][:, 2:5])
        n_users += int((block[:, 0] == USER).sum())
        if n_users * len(columns) > MOST_NUMBERS:
            raise CannotCalibrate(
                f"The control's users times {len(columns)} metrics are more than {MOST_NUMBERS:,} numbers, which is"
                " more than fits into memory; ask for fewer metrics at once."
            )
    if n_users < FEWEST_USERS:
        raise CannotCalibrate(
            f"The control has {n_users} users; halves of fewer than {FEWEST_USERS} say nothing about a test."
        )
    people = np.concatenate(found.pop((USER, 0)))
    # Groups have numbers below 0; without one, what was asked for would silently be a split by user.
    if split_by is not None and not (people[:, 1] < 0).any():
        raise CannotCalibrate(
            f"split_by: none of the control's {n_users} users has {split_by!r} in the stored context. Check how the"
            " name is written, or leave split_by out to split user by user."
        )
    order = np.argsort(people[:, 0])
    keys = people[order, 0]
    _, units = np.unique(people[order, 1], return_inverse=True)
    # Of metrics without a denominator, one for all.
    nothing = np.zeros(len(keys))
    numbers = [_numbers(column, index, found, keys, nothing) for index, column in enumerate(columns)]
    return Users(numbers, units.astype(np.int64))


def _numbers(
    column: Column, index: int, found: dict[tuple[int, int], list[Numbers]], keys: Numbers, nothing: Numbers
) -> UserNumbers:
    numerator, denominator = np.zeros(len(keys)), nothing
    if rows := found.pop((NUMBERS, index), []):
        seen = np.concatenate(rows)
        places = np.searchsorted(keys, seen[:, 0])
        numerator[places] = seen[:, 1]
        if seen[:, 2].any():
            denominator = np.zeros(len(keys))
            denominator[places] = seen[:, 2]
    units = {0: column.unit, 1: 1.0}
    for row in np.concatenate(found.pop((EXPONENT, index), [np.zeros((0, 3))])):
        units[int(row[1])] = 2.0 ** -float(row[2])
    numerator *= units[0]
    return UserNumbers(numerator, denominator if denominator is nothing else denominator * units[1])


def _blocks(pieces: Iterable[bytes]) -> Iterable[Numbers]:
    held, size = [], 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _BLOCK_BYTES:
            lines, _, rest = b"".join(held).rpartition(b"\n")
            yield _parsed(lines)
            held, size = [rest], len(rest)
    yield _parsed(b"".join(held))


def _parsed(lines: bytes) -> Numbers:
    if not lines.strip():
        return np.zeros((0, _WIDTH))
    return np.loadtxt(io.BytesIO(lines), delimiter=",", ndmin=2)
