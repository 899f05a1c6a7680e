"""The buckets of the time series."""

from datetime import UTC, datetime, timedelta

import pytest

from app.results.series import length_of, series_of
from app.results.values import ArmObservations, Entries, Slot
from app.stats.proportions import wilson_interval
from app.stats.samples import Proportion

_DAY = timedelta(days=1)


def _day(number: int) -> datetime:
    return datetime(2026, 3, number, tzinfo=UTC)


_ARM = ArmObservations(
    exposed=10,
    slots=(Slot(_day(2), "buy", 3, 2), Slot(_day(5), "buy", 1, 1), Slot(_day(3), "view", 4, 4)),
    entries=(Entries(_day(1), 4), Entries(_day(3), 5), Entries(_day(9), 1)),
)


def test_series_of__gaps__are_filled_with_zeros_for_every_type() -> None:
    entries = series_of(_ARM, _DAY, 0.95)

    assert [(entry.time.day, entry.event_type, entry.count, entry.users) for entry in entries] == [
        (2, "buy", 3, 2),
        (2, "view", 0, 0),
        (3, "buy", 0, 0),
        (3, "view", 4, 4),
        (4, "buy", 0, 0),
        (4, "view", 0, 0),
        (5, "buy", 1, 1),
        (5, "view", 0, 0),
    ]
    assert length_of(_ARM, _DAY) == len(entries)


def test_series_of__interval__is_of_users_over_those_exposed_before_the_buckets_end() -> None:
    entries = {(entry.time.day, entry.event_type): entry for entry in series_of(_ARM, _DAY, 0.9)}

    for key, users, exposed in (((2, "buy"), 2, 4), ((3, "view"), 4, 9), ((5, "buy"), 1, 9)):
        interval = wilson_interval(Proportion(users, exposed), confidence=0.9)
        assert (entries[key].ci_lower, entries[key].ci_upper) == (interval.lower, interval.upper)


def test_series_of__intervals_not_wanted__are_null() -> None:
    assert {(entry.ci_lower, entry.ci_upper) for entry in series_of(_ARM, _DAY, None)} == {(None, None)}


@pytest.mark.parametrize("arm", [ArmObservations(), ArmObservations(exposed=5, entries=(Entries(_day(1), 5),))])
def test_series_of__nothing_happened__is_empty(arm: ArmObservations) -> None:
    assert series_of(arm, _DAY, 0.95) == ()
    assert length_of(arm, _DAY) == 0
