"""What a diagnosis reads of users and of lost events is the same in both stores, and whichever of them still has it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from app.diagnosis.facts import Change, Sent
from app.diagnosis.measuring import Measuring, OutOfReach
from app.diagnosis.people import People
from app.diagnosis.repository import DiagnosisRepository
from app.diagnosis.sought import Sought, sought
from app.experiments.population import ContextValue, ExposureRule, Population
from app.experiments.values import Experiment
from app.metrics.values import Kind, Operator, PropertyFilter, Recipe, Selection, ValueSource
from app.results.values import Subject
from tests.integration.results.services import Bench
from tests.integration.results.world import FAR, Assigned, Happened, History, Overridden, World

_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
# Numbers in different spellings, of one text or none, and what is no value.
_ODD: Sequence[dict[str, Any]] = (
    {"n": 1, "s": "", "é": "ü"},
    {"n": 1.0, "s": "a'b\"c", "é": "ü"},
    {"n": 1e25, "s": True},
    {"n": 2.5e-7, "s": "true"},
    {"n": -0.0, "s": None},
    {"n": 0, "s": {"of": "two"}},
    {"n": 123456789.25, "s": ["list"]},
    {},
)
_POPULATIONS = {
    "by assignment": Population(),
    "by event": Population(exposure=ExposureRule.EVENT),
    "with exclusions": Population(exclude_users=("user-1",), exclude_context=(ContextValue("browser", "b3"),)),
}


def _history() -> History:
    """Return 120 users of three days with contexts of all kinds, some with overrides, some seen in two variants."""
    assignments = [
        Assigned(
            f"user-{number}",
            number % 3 % 2,
            _T0 + number * _HOUR / 2,
            _T0 + number * _HOUR / 2,
            {
                **_ODD[number % len(_ODD)],
                **{f"name-{place}": place for place in range(number % 12)},
                "browser": f"b{number % 30}",
            },
        )
        for number in range(120)
    ]
    seen = [
        Happened(
            one.user_id,
            "exposure",
            one.at + _HOUR * (number % 4 - 1),
            one.at + 3 * _HOUR,
            names="this" if number % 2 else "none",
            properties={"variant": "control" if number % 5 == 0 else f"treatment_{one.variant}"},
        )
        for number, one in enumerate(assignments)
        if number % 7
    ]
    return History(assignments, [Overridden("user-2", 1, _T0, _T0), Overridden("user-9", 1, _T0, _T0, True)], seen)


def _measuring(world: World, watermark: datetime | None) -> Measuring:
    bench = Bench(watermark=watermark)
    return Measuring(world.database, world.clickhouse, bench.read_watermark)


def _plain(people: People) -> tuple[Mapping[Any, Any], ...]:
    return (
        {day: dict(users) for day, users in people.by_day.items()},
        {stretch: dict(users) for stretch, users in people.by_stretch.items()},
        {"in two": people.in_two_variants},
        {(one.name, one.value, one.variant_id): one.users for one in people.attributes},
    )


@pytest.mark.parametrize("population", _POPULATIONS.values(), ids=_POPULATIONS)
async def test_people__both_stores_have_all__are_the_same(world: World, population: Population) -> None:
    experiment = await world.experiment()
    await world.store(experiment, _history())
    subject = Subject.of(replace(experiment, population=population))
    # One is the very moment of an assignment.
    moments = [_T0 + 10 * _HOUR, _T0 + 10.25 * _HOUR, _T0 + 40 * _HOUR]

    hot = await _measuring(world, None).people(subject, moments)
    found = [await _measuring(world, at).people(subject, moments) for at in (_T0, _T0 + 30 * _HOUR, FAR)]

    assert [_plain(one) for one in found] == [_plain(hot)] * 3
    assert all(one.attributes == hot.attributes for one in found)
    assert hot.in_two_variants > 0
    values = {one.value for one in hot.attributes if one.name == "n"}
    assert values == {"1", "1e25", "2.5e-7", "0", "123456789.25"}
    assert len({one.value for one in hot.attributes if one.name == "browser"}) == 20
    assert len({one.name for one in hot.attributes}) == 10


async def test_people__no_changes_and_no_contexts__are_the_same(world: World) -> None:
    experiment = await world.experiment()
    await world.store(experiment, History([Assigned("a", 0, _T0, _T0), Assigned("b", 1, _T0 + _DAY, _T0)]))
    subject = Subject.of(experiment)

    hot, both = [await _measuring(world, at).people(subject, []) for at in (None, FAR)]

    assert _plain(hot) == _plain(both)
    assert [sum(users.values()) for users in both.by_day.values()] == [1, 1]


_EUR = PropertyFilter("currency", Operator.EQ, "EUR")
_SOUGHT = {
    "all": sought(Recipe(kind=Kind.SUM, selections=(Selection(()),)), Selection(())),
    "filtered": sought(
        Recipe(kind=Kind.SUM, selections=(Selection(("buy",)),), window_from_s=3600, window_s=7200),
        Selection(("buy",), (_EUR, PropertyFilter("big", Operator.GT, 2.0)), ValueSource.PROPERTY, "amount"),
    ),
    "returned": sought(
        Recipe(kind=Kind.RETENTION, selections=(Selection(("buy", "visit")),), first_day=1, last_day=1),
        Selection(("buy", "visit"), source=ValueSource.ONE),
    ),
    "never": sought(Recipe(kind=Kind.COUNT, selections=(Selection(("no",)),)), Selection(("no",))),
}


def _lost_events() -> History:
    """Return events around the exposures of 20 users, and of five others; some name another experiment."""
    assignments = [
        Assigned(f"u{number}", number % 2, _T0 + number * _HOUR, _T0 + number * _HOUR) for number in range(20)
    ]
    properties: Sequence[dict[str, Any] | None] = (
        {"currency": "EUR", "big": 3, "amount": 1.5},
        {"currency": "EUR", "big": 2**70, "amount": "7"},
        {"currency": "USD", "big": 9, "amount": 1},
        None,
    )
    events = []
    for index in range(500):
        at = _T0 + index % 25 * _HOUR + (-70, -30, -1, 1, 1.5, 4, 26)[index % 7] * _HOUR
        event = Happened(
            f"u{index % 25}",
            "buy" if index % 3 else "visit",
            at,
            # Some are older than anything that is looked at.
            at + 2 * _HOUR,
            value=1.0 if index % 2 else None,
            names=("none", "this", "another")[index % 11 % 3],
            properties=properties[index % 4],
        )
        events.append(event)
    return History(assignments, (), events)


async def test_sent__both_stores_have_all__is_the_same(world: World) -> None:
    experiment = await world.experiment()
    history = _lost_events()
    await world.store(experiment, history)
    # Redelivered rows count once.
    await world.store_cold(experiment, replace(history, assignments=(), events=history.events[::2]))
    subject, since = Subject.of(experiment), _T0 - _DAY

    hot = await _measuring(world, None).sent(subject, _SOUGHT, since)
    # The first watermark is older than all that is looked at.
    found = [await _measuring(world, at).sent(subject, _SOUGHT, since) for at in (_T0 - 9 * _DAY, _T0 + 3 * _HOUR, FAR)]

    assert found == [hot] * 3
    assert hot["never"] == Sent(event_types=("no",))
    counted = hot["filtered"]
    assert min(counted.of_others, counted.early, counted.outside, counted.filtered) > 0
    assert min(counted.without_number, counted.usable) > 0
    assert hot["returned"].usable > 0
    # Others' and earlier events that were ingested before the day before the first exposure are not looked at.
    assert hot["all"].total < len(history.events)


@pytest.fixture
async def dropped(world: World) -> AsyncIterator[None]:
    """PostgreSQL has dropped events that count."""
    async with world.database.begin() as connection:
        await connection.execute(
            text("INSERT INTO dropped_partitions (name, upper_bound, row_count) VALUES ('events_p202602', :until, 1)"),
            {"until": FAR},
        )
    yield
    async with world.database.begin() as connection:
        await connection.execute(text("DELETE FROM dropped_partitions"))


@pytest.mark.usefixtures("dropped")
async def test_people_and_sent__only_the_history_has_the_events__are_read_there(world: World) -> None:
    experiment = await world.experiment()
    await world.store_cold(experiment, _history())
    await world.store_hot(experiment, replace(_history(), events=()))
    subject = Subject.of(experiment)

    seen = await _measuring(world, FAR).people(subject, [])
    sent = await _measuring(world, FAR).sent(subject, {"seen": Sought(Selection(()), _HOUR, None)}, _T0 - _DAY)

    assert seen.in_two_variants > 0
    assert sent["seen"].outside > 0
    for ask in (_measuring(world, None).people(subject, []), _measuring(world, None).sent(subject, _SOUGHT, _T0)):
        with pytest.raises(OutOfReach):
            await ask


async def _note(world: World, experiment: Experiment, sql: str) -> None:
    """Add entries to the audit log past its chain, which does not matter here."""
    async with world.database.begin() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        await connection.execute(
            text(
                "INSERT INTO audit_log (at, project_id, actor, request_id, action, subject, details)"
                " SELECT CAST(:start AS timestamptz) + number * interval '1 second', :project_id, actor, '', action,"
                f" :subject, CAST(details AS jsonb) FROM ({sql}) AS entries(number, actor, action, details)"
            ),
            {"start": _T0, "project_id": experiment.project_id, "subject": f"experiment:{experiment.id}"},
        )


async def test_noted__robot_that_overrides_all_day__is_a_few_rows_beside_every_change(world: World) -> None:
    experiment = await world.experiment()
    robot = (
        "SELECT number, 'robot' AS actor, CASE number % 2 WHEN 0 THEN 'override.put' ELSE 'override.removed' END"
        " AS action, '{}' AS details FROM generate_series(1, 5000) AS number"
    )
    await _note(world, experiment, robot)
    await _note(
        world, experiment, "SELECT 6000, 'ada', 'experiment.changed', '{\"version\": 2, \"name\": 1, \"config\": {}}'"
    )
    await _note(world, experiment, "SELECT 6001, 'ada', 'experiment.changed', '[\"no object\"]'")
    await _note(world, experiment, "SELECT 6002, 'ada', 'experiment.complete', '{}'")

    async with world.database.read() as connection:
        noted = await DiagnosisRepository(connection, Subject.of(experiment)).noted(_T0)

    assert noted.more == 0
    told = [(one.actor, one.actions, one.times, one.fields) for one in noted.entries]
    assert told == [
        ("robot", ("override.removed",), 2500, ()),
        ("robot", ("override.put",), 2500, ()),
        ("ada", ("experiment.changed",), 1, ("config", "name")),
        ("ada", ("experiment.changed",), 1, ()),
    ]
    assert noted.entries[0] == Change(
        at=_T0 + timedelta(seconds=1),
        last_at=_T0 + timedelta(seconds=4999),
        actor="robot",
        actions=("override.removed",),
        times=2500,
    )


async def test_noted__thousands_of_changes__are_the_oldest_and_how_many_more_there_are(world: World) -> None:
    experiment = await world.experiment()
    await _note(
        world,
        experiment,
        "SELECT number, 'robot' AS actor, 'experiment.changed' AS action, '{\"traffic_pct\": 1}' AS details"
        " FROM generate_series(1, 1500) AS number",
    )

    async with world.database.read() as connection:
        noted = await DiagnosisRepository(connection, Subject.of(experiment)).noted(_T0 + timedelta(seconds=101))

    assert (len(noted.entries), noted.more) == (1000, 400)
    assert noted.entries[0].at == _T0 + timedelta(seconds=101)
