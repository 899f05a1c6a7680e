"""How long an experiment still has to run."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.results.runtime import Runtime, Target, forecast
from app.results.values import Entries

_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_DAY = timedelta(days=1)


def _daily(*users: int) -> list[Entries]:
    return [Entries(_T0 + day * _DAY, count) for day, count in enumerate(users)]


def _forecast(
    entries: list[Entries],
    days: float,
    *,
    target: Target,
    running: bool = True,
    detectable_now: float | None = 0.1,
) -> Runtime:
    return forecast(
        [entries, entries],
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
    found = forecast([], users=10, now=_T0, running=True, target=_USERS, detectable_now=None)

    assert (found.users_per_day, found.remaining_days, found.null_reason) == (None, None, "NO_SERIES")


@given(st.integers(1, 10**9), st.floats(1e-12, 10))
def test_forecast__target_reached__nothing_remains(users: int, detectable: float) -> None:
    entries = _daily(users)

    assert _forecast(entries, 1, target=Target(users=users, detectable=None)).remaining_days == 0
    found = _forecast(entries, 1, target=Target(users=None, detectable=detectable), detectable_now=detectable)
    assert found.remaining_days == 0
