"""How long an experiment still has to run."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.results.runtime import Runtime, Stream, Target, forecast
from app.results.values import Entries

_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_DAY = timedelta(days=1)


def _daily(*users: int) -> list[Entries]:
    return [Entries(_T0 + day * _DAY, count) for day, count in enumerate(users)]


def _stream(
    entries: list[list[Entries]], *, width: timedelta = _DAY, started_at: datetime | None = _T0, has_lump: bool = False
) -> Stream:
    return Stream(entries=entries, width=width, started_at=started_at, has_lump=has_lump)


def _forecast(
    entries: list[Entries],
    days: float,
    *,
    target: Target,
    running: bool = True,
    detectable_now: float | None = 0.1,
) -> Runtime:
    return forecast(
        _stream([entries, entries]),
        users=2 * sum(entry.users for entry in entries),
        now=_T0 + days * _DAY,
        running=running,
        target=target,
        detectable_now=detectable_now,
    )


_USERS = Target(users=5000, detectable=None)


def test_forecast__even_stream__extends_it() -> None:
    assert _forecast(_daily(*[100] * 5), 5, target=_USERS) == Runtime(
        users_per_day=200, remaining_days=20, null_reason=None
    )


def test_forecast__rate_changed_a_week_ago__goes_by_the_present_one() -> None:
    found = _forecast(_daily(*[1000] * 2, *[10] * 7), 9, target=_USERS)

    assert found.users_per_day == 20
    assert found.remaining_days == (5000 - 2 * 2070) / 20


def test_forecast__effect_to_be_detectable__takes_the_square_of_the_ratio() -> None:
    found = _forecast(_daily(100, 100), 2, target=Target(users=None, detectable=0.05))

    assert found.remaining_days == pytest.approx((4 * 400 - 400) / 200)


@pytest.mark.parametrize(
    ("entries", "days", "target", "running", "now", "reason"),
    [
        (_daily(100), 1, _USERS, False, 0.1, "NOT_RUNNING"),
        (_daily(100), 1, Target(users=None, detectable=None), True, 0.1, "NO_TARGET"),
        (_daily(100), 1, Target(users=None, detectable=0.1), True, None, "NO_DETECTABLE_EFFECT"),
        (_daily(100), 0.01, _USERS, True, 0.1, "TOO_EARLY"),
        (_daily(100), 30, _USERS, True, 0.1, "NO_EXPOSURES"),
        ([], 1, _USERS, True, 0.1, "NO_EXPOSURES"),
    ],
)
def test_forecast__nothing_to_extend__says_why(
    entries: list[Entries], days: float, target: Target, now: float | None, reason: str, *, running: bool
) -> None:
    found = _forecast(entries, days, target=target, running=running, detectable_now=now)

    assert (found.remaining_days, found.null_reason) == (None, reason)


def test_forecast__answer_without_series__says_so() -> None:
    found = forecast(_stream([]), users=10, now=_T0, running=True, target=_USERS, detectable_now=None)

    assert (found.users_per_day, found.remaining_days, found.null_reason) == (None, None, "NO_SERIES")


@given(st.integers(1, 10**9), st.floats(1e-12, 10))
def test_forecast__target_reached__nothing_remains(users: int, detectable: float) -> None:
    entries = _daily(users)

    assert _forecast(entries, 1, target=Target(users=users, detectable=None)).remaining_days == 0
    found = _forecast(entries, 1, target=Target(users=None, detectable=detectable), detectable_now=detectable)
    assert found.remaining_days == 0


@pytest.mark.parametrize("minutes", [1, 60, 24 * 60])
def test_forecast__any_granularity__tells_the_same_rate(minutes: int) -> None:
    width = timedelta(minutes=minutes)
    began, now = _T0 + timedelta(hours=7), _T0 + timedelta(days=20, hours=7)
    moments = [began + number * timedelta(minutes=30) for number in range(20 * 48)]
    counts = Counter(moment - (moment - _T0) % width for moment in moments)
    stream = _stream([[Entries(*item) for item in sorted(counts.items())]], width=width, started_at=began)

    found = forecast(
        stream,
        users=len(moments),
        now=now,
        running=True,
        target=Target(users=1200, detectable=None),
        detectable_now=None,
    )

    assert found.users_per_day == pytest.approx(48, rel=0.02)
    assert found.remaining_days == pytest.approx(5, rel=0.02)


@pytest.mark.parametrize(("started", "rate"), [(timedelta(hours=8), 1500), (timedelta(hours=15, minutes=30), None)])
def test_forecast__first_day__counts_from_the_start(started: timedelta, rate: float | None) -> None:
    stream = _stream([[Entries(_T0, 500)]], started_at=_T0 + started)

    found = forecast(stream, users=500, now=_T0 + timedelta(hours=16), running=True, target=_USERS, detectable_now=None)

    assert (found.users_per_day, found.null_reason) == (rate, None if rate else "TOO_EARLY")


def test_forecast__first_bucket_holds_all_before_it__is_left_out() -> None:
    stream = _stream([_daily(5000, 100, 100)], has_lump=True)

    found = forecast(
        stream,
        users=5200,
        now=_T0 + 3 * _DAY,
        running=True,
        target=Target(users=6000, detectable=None),
        detectable_now=None,
    )

    assert (found.users_per_day, found.remaining_days) == (100, 8)
