"""From the lines that the stores send to every user's numbers. Plain functions, no I/O of its own.

Each line has four whole numbers, what it is about, the metric's index, the user's key and another number, and two more.

| about         | the other number               | the last two                                                     |
|---------------|--------------------------------|------------------------------------------------------------------|
| 0, a user     | key of what they are split with | 1 if that is a group                                            |
| 1, a metric   |                                | numerator and denominator, in units; users with 0 may be left out |
| 2, a unit     |                                | the exponent: a unit is 2 to the power of minus that              |
| 3, a covariate |                               | the number from before the exposure, in units                    |
| 4, a value    | how often the user has it      | the value, of which with others a quantile is taken               |

Instead of a user's key a unit has a side: 0 numerator, 1 denominator, 2 covariate. Keys are hashes of 64 bits of the
user's name, the same in either store, so that the same users are split alike whichever store told of them.
"""

import io
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from app.calibration.errors import CannotCalibrate
from app.calibration.resplits import Indexes, Numbers, UserNumbers, Users, UserValues
from app.calibration.sizes import refuse_too_long, refuse_too_many
from app.calibration.values import FEWEST_USERS, Column, Job

USER, NUMBERS, EXPONENT, COVARIATE, VALUE = 0, 1, 2, 3, 4
_LINE = np.dtype([("about", "i8"), ("metric", "i8"), ("key", "i8"), ("other", "i8"), ("first", "f8"), ("second", "f8")])
# Parsed at once: some megabytes of numbers.
_BLOCK_BYTES = 4 * 1024 * 1024

_Lines: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[Any]]  # Any: each line is a record.


def read_users(job: Job, pieces: Iterable[bytes]) -> Users:
    """Read all lines, in whatever order and however cut.

    Raises:
        CannotCalibrate: there are too few users, or too many to hold or to split so often, or nobody has what they are
            to be split by.
    """
    found: dict[tuple[int, int], list[_Lines]] = {}
    n_users = n_values = 0
    for block in _blocks(pieces):
        for about in (USER, NUMBERS, EXPONENT, COVARIATE, VALUE):
            lines = block[block["about"] == about]
            for index in np.unique(lines["metric"]):
                found.setdefault((about, int(index)), []).append(lines[lines["metric"] == index])
        n_users += int((block["about"] == USER).sum())
        n_values += int(block["other"][block["about"] == VALUE].sum())
        refuse_too_many(job.columns, users=n_users, values=n_values)
    if n_users < FEWEST_USERS:
        raise CannotCalibrate(
            f"The control has {n_users} users; halves of fewer than {FEWEST_USERS} say nothing about a test."
        )
    refuse_too_long(job.columns, job.resplits, users=n_users, values=n_values)
    people = np.concatenate(found.pop((USER, 0)))
    # Without a group, what was asked for would silently be a split by user.
    if job.split_by is not None and not people["first"].any():
        raise CannotCalibrate(
            f"split_by: none of the control's {n_users} users has a text, number or truth value under"
            f" {job.split_by!r} in the stored context. Check how the name is written, or leave"
            " split_by out to split user by user."
        )
    people = people[np.argsort(people["key"])]
    keys = people["key"]
    _, units = np.unique(people["other"], return_inverse=True)
    # Of metrics without a denominator, one for all.
    nothing = np.zeros(len(keys))
    numbers = [
        _numbers(column, index, found, keys, nothing) if column.quantile is None else _values(index, found, keys)
        for index, column in enumerate(job.columns)
    ]
    return Users(numbers, units.astype(np.int64))


def _numbers(
    column: Column, index: int, found: dict[tuple[int, int], list[_Lines]], keys: Indexes, nothing: Numbers
) -> UserNumbers:
    chosen = {int(line["key"]): 2.0 ** -float(line["first"]) for line in _popped(found, EXPONENT, index)}
    units = {0: column.unit, 1: 1.0, 2: column.unit} | chosen
    rounded = UserNumbers(
        nothing, nothing, unit=chosen.get(0), denominator_unit=chosen.get(1), covariate_unit=chosen.get(2)
    )
    numerator, denominator = np.zeros(len(keys)), nothing
    lines, places = _of_users(_popped(found, NUMBERS, index), keys)
    numerator[places] = lines["first"] * units[0]
    if lines["second"].any():
        denominator = np.zeros(len(keys))
        denominator[places] = lines["second"] * units[1]
    if column.without_covariate is not None:
        return replace(rounded, numerator=numerator, denominator=denominator)
    covariate = np.zeros(len(keys))
    lines, places = _of_users(_popped(found, COVARIATE, index), keys)
    covariate[places] = lines["first"] * units[2]
    return replace(rounded, numerator=numerator, denominator=denominator, covariate=covariate)


def _values(index: int, found: dict[tuple[int, int], list[_Lines]], keys: Indexes) -> UserValues:
    lines, places = _of_users(_popped(found, VALUE, index), keys)
    order = np.argsort(lines["first"])
    times = lines["other"][order]
    # Adding 0 makes a zero of either sign the same one.
    return UserValues(np.repeat(lines["first"][order] + 0.0, times), np.repeat(places[order], times))


def _of_users(lines: _Lines, keys: Indexes) -> tuple[_Lines, Indexes]:
    """Return the lines of the users that are known, and the users' places.

    A store may have learnt of a user between two statements.
    """
    places = np.minimum(np.searchsorted(keys, lines["key"]), len(keys) - 1)
    known = keys[places] == lines["key"]
    return lines[known], places[known]


def _popped(found: dict[tuple[int, int], list[_Lines]], about: int, index: int) -> _Lines:
    return np.concatenate(found.pop((about, index), [np.zeros(0, _LINE)]))


def _blocks(pieces: Iterable[bytes]) -> Iterable[_Lines]:
    held, size = [], 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _BLOCK_BYTES:
            lines, _, rest = b"".join(held).rpartition(b"\n")
            yield _parsed(lines)
            held, size = [rest], len(rest)
    yield _parsed(b"".join(held))


def _parsed(lines: bytes) -> _Lines:
    if not lines.strip():
        return np.zeros(0, _LINE)
    return np.atleast_1d(np.loadtxt(io.BytesIO(lines), delimiter=",", dtype=_LINE))
