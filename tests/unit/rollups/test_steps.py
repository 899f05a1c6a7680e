"""Which steps hold, and where the next one ends."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.rollups.steps import (
    DAY,
    HOUR,
    ORIGIN,
    Step,
    built_until,
    floor,
    mergeable,
    next_end,
    seen_before,
    steps_below,
    stretches,
    valid_steps,
)

_T0 = datetime(2026, 3, 1, tzinfo=UTC)


def _step(since: datetime, until: datetime, *, seen: int = 0) -> Step:
    return Step(id=int(until.timestamp()), since=since, until=until, rows=1, seen=seen)


_CHAIN = [_step(ORIGIN, _T0), _step(_T0, _T0 + 5 * HOUR), _step(_T0 + 5 * HOUR, _T0 + 6 * HOUR)]


def test_built_until__no_steps__is_the_origin() -> None:
    assert built_until([]) == ORIGIN
    assert built_until(_CHAIN) == _T0 + 6 * HOUR


@pytest.mark.parametrize(
    ("invalidated", "left"),
    [([], 3), ([_T0 + 6 * HOUR], 3), ([_T0 + 5 * HOUR], 2), ([_T0], 1), ([_T0 - HOUR], 0), ([ORIGIN], 0)],
)
def test_valid_steps__rows_changed_since_a_moment__steps_with_such_rows_and_later_ones_are_void(
    invalidated: list[datetime], left: int
) -> None:
    assert valid_steps(_CHAIN, dict.fromkeys(invalidated, 1)) == _CHAIN[:left]


def test_valid_steps__invalidation_was_known__step_holds() -> None:
    rebuilt = [*_CHAIN[:2], _step(_T0 + 5 * HOUR, _T0 + 7 * HOUR, seen=1)]

    assert valid_steps(rebuilt, {_T0 + 5 * HOUR: 1}) == rebuilt
    assert valid_steps(rebuilt, {_T0 + 5 * HOUR: 2}) == rebuilt[:2]
    assert valid_steps(rebuilt, {_T0 + 6 * HOUR: 1, _T0 + 5 * HOUR: 1}) == rebuilt[:2]


def test_seen_before__counts_what_concerns_earlier_rows() -> None:
    assert seen_before(_T0, {_T0: 1, _T0 - HOUR: 2, _T0 - DAY: 3, _T0 + HOUR: 4}) == 5


def test_steps_below__step_reaches_the_watermark__counts() -> None:
    assert steps_below(_T0 + 5 * HOUR, _CHAIN) == _CHAIN[:2]
    assert steps_below(_T0 + 5 * HOUR - timedelta(microseconds=1), _CHAIN) == _CHAIN[:1]


def test_next_end__much_waits__takes_whole_days_up_to_the_most_rows() -> None:
    rows = {_T0 + day * DAY: 10 for day in range(5)}

    assert next_end(ORIGIN, _T0 + 5 * DAY + HOUR, rows, most_rows=25) == _T0 + 2 * DAY
    assert next_end(_T0 + 2 * DAY, _T0 + 5 * DAY + HOUR, rows, most_rows=1) == _T0 + 3 * DAY
    assert next_end(_T0 + 2 * DAY, _T0 + 5 * DAY + HOUR, rows, most_rows=1000) == _T0 + 5 * DAY
    assert next_end(_T0 + 5 * DAY, _T0 + 5 * DAY + HOUR, rows, most_rows=1) == _T0 + 5 * DAY + HOUR


def test_stretches__many_rows_long_ago__are_cut_between_days() -> None:
    rows = {_T0 + day * DAY: rows for day, rows in {0: 10, 1: 10, 5: 5, 7: 100, 8: 1}.items()}

    assert stretches({}, most_rows=10) == []
    assert stretches(rows, most_rows=25) == [
        (_T0, _T0 + 6 * DAY),
        (_T0 + 7 * DAY, _T0 + 8 * DAY),
        (_T0 + 8 * DAY, _T0 + 9 * DAY),
    ]
    assert len(stretches(rows, most_rows=0)) == len(rows)


def test_valid_steps__thousands_of_invalidations__takes_no_time() -> None:
    invalidated = dict.fromkeys((_T0 - number * HOUR for number in range(43_000)), 1)
    steps = [_step(ORIGIN, _T0 + HOUR, seen=43_000)]
    steps += [_step(_T0 + n * HOUR, _T0 + (n + 1) * HOUR, seen=43_000) for n in range(1, 1000)]
    began_s = time.monotonic()

    assert valid_steps(steps, invalidated) == steps

    assert time.monotonic() - began_s < 1


@given(
    since=st.integers(0, 100), closed=st.integers(1, 200), days=st.dictionaries(st.integers(0, 8), st.integers(0, 9))
)
def test_next_end__any_state__goes_on_and_never_mixes_a_part_of_a_day_with_another_day(
    since: int, closed: int, days: dict[int, int]
) -> None:
    start, closed_until = _T0 + since * HOUR, _T0 + (since + closed) * HOUR

    end = next_end(start, closed_until, {_T0 + day * DAY: rows for day, rows in days.items()}, most_rows=5)

    assert start < end <= closed_until
    of_days = start == floor(start, DAY) and end == floor(end, DAY)
    assert of_days or end <= floor(start, DAY) + DAY


def test_mergeable__day_is_over__returns_its_parts() -> None:
    parts = [_step(_T0, _T0 + 20 * HOUR), _step(_T0 + 20 * HOUR, _T0 + DAY)]

    assert mergeable([_CHAIN[0], *parts]) == parts
    assert mergeable([_CHAIN[0], *parts[:1]]) == []
    assert mergeable(_CHAIN[:1]) == []
    assert mergeable([]) == []
