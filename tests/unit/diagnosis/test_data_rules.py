"""Users in two variants, early exposures, changes during the run, stale data and wrong clocks."""

import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.diagnosis.changes import changes_from, moments_of, with_users
from app.diagnosis.facts import Around, Arrivals, Change, Entrances
from app.diagnosis.values import Code, Finding, Severity, Unchecked
from app.experiments.lifecycle import Status
from tests.unit.diagnosis.worlds import NOW, START, facts, found, unchecked


def _change(day: float, action: str = "experiment.changed", *fields: str, actor: str = "ada") -> Change:
    at = START + timedelta(days=day)
    return Change(at=at, last_at=at, actor=actor, actions=(action,), fields=fields)


@pytest.mark.parametrize(
    "code",
    [
        Code.USERS_IN_TWO_VARIANTS,
        Code.EXPOSURE_BEFORE_START,
        Code.EXPOSURE_RECORDED_LATE,
        Code.MID_RUN_CHANGES,
        Code.STALE_DATA,
        Code.CLOCK_SKEW,
    ],
)
def test_data__as_they_should_be__nothing_is_found(code: Code) -> None:
    assert found(code, facts()) == []


@pytest.mark.parametrize(("users", "severity"), [(5, Severity.WARNING), (200, Severity.CRITICAL)])
def test_users_in_two_variants__few_or_many__are_counted(users: int, severity: Severity) -> None:
    (finding,) = found(Code.USERS_IN_TWO_VARIANTS, facts(two_variants=users))

    assert finding.severity is severity
    assert finding.evidence["users"] == users
    assert finding.evidence["share"] == users / (10_000 + users)


def test_users_in_two_variants__nobody_is_in__is_not_checked() -> None:
    assert unchecked(Code.USERS_IN_TWO_VARIANTS, facts(days=[])) == "Nobody is exposed yet."


def test_users_in_two_variants__everybody_is_left_out__is_found() -> None:
    (finding,) = found(Code.USERS_IN_TWO_VARIANTS, facts(days=[], two_variants=3))

    assert finding.severity is Severity.CRITICAL


def test_mid_run_changes__start_is_not_in_the_audit_log__is_not_checked() -> None:
    assert "no entry of the start" in unchecked(Code.MID_RUN_CHANGES, facts(start_noted=False))


def test_mid_run_changes__start_is_not_in_the_audit_log_but_changes_are__says_that_there_may_be_more() -> None:
    changes = with_users([_change(3, "experiment.pause")], {}, (1, 2))

    (finding,) = found(Code.MID_RUN_CHANGES, facts(start_noted=False, changes=changes))

    assert "no entry of the start" in finding.text


def test_exposure_before_start__imports_of_earlier_times__are_told_apart() -> None:
    came = Entrances(
        assigned=10_000, imported=50, before_start=40, imported_before_start=39, earliest=START - timedelta(days=3)
    )

    (finding,) = found(Code.EXPOSURE_BEFORE_START, facts(entrances=came))
    (of_imports_alone,) = found(
        Code.EXPOSURE_BEFORE_START, facts(entrances=replace(came, imported_before_start=came.before_start))
    )

    assert (finding.severity, of_imports_alone.severity) == (Severity.WARNING, Severity.INFO)
    assert (finding.evidence["users"], finding.evidence["imported"]) == (40, 39)
    assert "2026-03-01 00:00 UTC" in finding.text


def test_exposure_before_start__never_started__is_not_checked() -> None:
    assert unchecked(Code.EXPOSURE_BEFORE_START, facts(started_at=None)) == "The experiment was never started."


def test_exposure_recorded_late__most_events_before_it__is_found() -> None:
    (finding,) = found(Code.EXPOSURE_RECORDED_LATE, facts(around=Around(before=900, after=300)))

    assert finding.evidence["share_before"] == 0.75


def test_exposure_recorded_late__hardly_any_event__is_not_checked() -> None:
    assert "fewer than 100 events" in unchecked(Code.EXPOSURE_RECORDED_LATE, facts(around=Around(9, 3)))


def test_mid_run_changes__traffic_raised__shows_who_when_and_the_users_on_both_sides() -> None:
    changes = with_users(
        changes_from([_change(2, "experiment.changed", "traffic_pct")]),
        {0: {1: 90, 2: 110}, 1: {1: 400, 2: 600}},
        (1, 2),
    )

    (finding,) = found(Code.MID_RUN_CHANGES, facts(changes=changes))

    assert finding.severity is Severity.WARNING
    assert "traffic_pct by ada at 2026-03-03 00:00 UTC" in finding.text
    (shown,) = _shown(finding)
    assert shown["users_before"] == {"control": 90, "treatment": 110}
    assert shown["users_after"] == {"control": 400, "treatment": 600}
    assert shown["srm_p_value_before"] > 0.05
    assert shown["srm_p_value_after"] < 1e-6


def test_mid_run_changes__words_and_overrides_alone__are_good_to_know() -> None:
    changes = changes_from([_change(2, "experiment.changed", "name"), _change(3, "override.put")])
    filled = with_users(changes, {0: {1: 5, 2: 5}}, (1, 2))

    (finding,) = found(Code.MID_RUN_CHANGES, facts(changes=filled))

    assert finding.severity is Severity.INFO
    assert finding.evidence["touching"] == 0


def test_mid_run_changes__users_not_known__says_so_and_not_zero() -> None:
    (finding,) = found(Code.MID_RUN_CHANGES, facts(changes=[_change(2, "experiment.pause")]))

    (shown,) = _shown(finding)
    assert (shown["users_before"], shown["users_after"]) == (None, None)
    assert (shown["srm_p_value_before"], shown["srm_p_value_after"]) == (None, None)


def test_mid_run_changes__more_of_them_than_are_read__says_how_many_more() -> None:
    changes = with_users([_change(2, "experiment.pause")], {}, (1, 2))

    (finding,) = found(Code.MID_RUN_CHANGES, facts(changes=changes, more_changes=1234))

    assert "Not looked at: 1,234 later changes." in finding.text
    assert finding.evidence["not_looked_at"] == 1234


def test_mid_run_changes__many__shows_those_that_touch_users_first() -> None:
    entries = [_change(1 + number / 100, "experiment.changed", "name") for number in range(30)]
    changes = with_users([*entries, _change(3, "experiment.pause")], {0: {1: 5}}, (1, 2))

    (finding,) = found(Code.MID_RUN_CHANGES, facts(changes=changes))

    assert [shown["action"] for shown in _shown(finding)] == ["experiment.pause", *["experiment.changed"] * 19]
    assert finding.evidence["changes"] == 31


def _shown(finding: Finding) -> list[dict[str, Any]]:
    shown = finding.evidence["shown"]
    assert isinstance(shown, list)
    return shown


def test_changes_from__start_and_many_overrides__leaves_one_series_of_each_actor() -> None:
    entries = [
        _change(0, "experiment.start"),
        *(_change(1, "override.put") for _ in range(5)),
        _change(1, "override.put", actor="bob"),
        _change(2, "experiment.pause"),
        _change(2.5, "override.put"),
        _change(3, "experiment.complete"),
    ]

    changes = changes_from(entries)

    assert [(change.actions, change.actor, change.times) for change in changes] == [
        (("override.put",), "ada", 6),
        (("override.put",), "bob", 1),
        (("experiment.pause",), "ada", 1),
    ]
    assert moments_of(changes) == [START + timedelta(days=day) for day in (1, 2)]
    assert (changes[0].at, changes[0].last_at) == (START + timedelta(days=1), START + timedelta(days=2.5))


def test_changes_from__robots_that_put_and_remove_overrides_in_turn__are_a_series_each() -> None:
    actions = ("override.put", "override.removed", "assignments.imported")
    entries = [
        _change(1 + number / 10_000, actions[number % 4 // 2] if number % 8 else actions[2], actor=f"qa-{number % 2}")
        for number in range(8000)
    ]

    (imported, *overrides) = changes_from(entries)

    assert (imported.actions, imported.actor, imported.times) == (("assignments.imported",), "qa-0", 1000)
    assert [(set(change.actions), change.actor, change.times) for change in overrides] == [
        ({"override.put", "override.removed"}, "qa-1", 4000),
        ({"override.put", "override.removed"}, "qa-0", 3000),
    ]


def test_with_users__many_changes_and_stretches__adds_up_what_lies_before_and_after() -> None:
    dice = random.Random(5)
    changes = [_change(dice.randint(0, 12), "experiment.pause", actor=f"a{number}") for number in range(20)]
    moments = moments_of(changes)
    users = [(START + timedelta(days=dice.randint(-1, 14)), dice.randint(1, 2)) for _ in range(500)]
    by_stretch: dict[int, dict[int, int]] = {}
    for at, variant in users:
        arms = by_stretch.setdefault(sum(moment <= at for moment in moments), {})
        arms[variant] = arms.get(variant, 0) + 1

    for change in with_users(changes, by_stretch, (2, 1)):
        before = [variant for at, variant in users if at < change.at]
        after = [variant for at, variant in users if at >= change.at]
        assert change.before == (before.count(2), before.count(1))
        assert change.after == (after.count(2), after.count(1))


def test_stale_data__history_behind__says_how_far() -> None:
    (finding,) = found(Code.STALE_DATA, facts(history_until=NOW - timedelta(hours=1)))

    assert finding.severity is Severity.WARNING
    assert finding.evidence["lag_seconds"] == 3600


@pytest.mark.parametrize("newest", [None, NOW - timedelta(days=2)])
def test_stale_data__no_event_since_the_day_before_yesterday__is_found(newest: datetime | None) -> None:
    (finding,) = found(Code.STALE_DATA, facts(arrivals=Arrivals(0, 0, 0, newest)))

    assert finding.title == "No events arrive any more"


def test_stale_data__silence_after_the_end__is_as_it_should_be() -> None:
    world = facts(arrivals=Arrivals(0, 0, 0, None), status=Status.COMPLETED)

    assert found(Code.STALE_DATA, world) == []
    assert unchecked(Code.STALE_DATA, replace(world, history_until=Unchecked("away"))) == "away"


@pytest.mark.parametrize(
    ("arrivals", "severity"),
    [(Arrivals(1000, 0, 50, NOW), Severity.WARNING), (Arrivals(1000, 500, 0, NOW), Severity.INFO)],
)
def test_clock_skew__events_ahead_or_late__are_found(arrivals: Arrivals, severity: Severity) -> None:
    (finding,) = found(Code.CLOCK_SKEW, facts(arrivals=arrivals))

    assert finding.severity is severity


def test_clock_skew__few_events__is_not_checked() -> None:
    assert "Fewer than 100" in unchecked(Code.CLOCK_SKEW, facts(arrivals=Arrivals(99, 99, 99, NOW)))
