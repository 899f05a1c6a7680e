"""Events sent again are dropped and counted, each once, and every answer says how many."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine

from app.core.changes import Changes
from app.core.db import Database
from app.core.metrics import Metrics
from app.events.repository import EventRepository
from app.events.service import EventService
from app.events.values import Event, SentEvent
from app.experiments.population import ExposureRule, Population
from app.experiments.registry import ExperimentRegistry
from app.experiments.values import Experiment
from app.pipeline.dropped_duplicates import fold_duplicates, forget_duplicates
from app.results import duplicates
from app.results.provenance import EVENTS_DROPPED, STORE_UNAVAILABLE, Duplicates
from app.results.service import ResultsService
from app.results.values import Question, Source, SourceChoice, Subject
from tests.integration.results.services import Bench, running_service
from tests.integration.results.world import FAR, Assigned, Happened, History, Overridden, World

_T0 = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
_HOUR = timedelta(hours=1)
# Far more than anybody waits, and less than it takes until a connection gives up a statement by itself.
_HANGS_S = 20.0
_KEEPS_IT = """
SELECT granted FROM pg_locks
WHERE pid = pg_backend_pid() AND relation = 'dropped_duplicates'::regclass AND mode = 'AccessExclusiveLock'
"""
_NOBODY = "postgresql+asyncpg://nobody@127.0.0.1:1/none"


@pytest.fixture
def bench() -> Bench:
    return Bench(watermark=_T0 + _HOUR)


@pytest.fixture
async def service(world: World, bench: Bench) -> AsyncIterator[ResultsService]:
    async with running_service(world, bench, clickhouse=world.clickhouse) as running:
        yield running


@pytest.fixture
async def registry(world: World) -> AsyncIterator[ExperimentRegistry]:
    changes = Changes(world.database)
    made = ExperimentRegistry(world.database, changes)
    await changes.start()
    world.followers.append(changes)
    yield made
    world.followers.remove(changes)
    await changes.stop()


@pytest.fixture
async def events(world: World, registry: ExperimentRegistry) -> AsyncIterator[EventService]:
    running = EventService(database=world.database, registry=registry, metrics=Metrics())
    yield running
    await running.stop()


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    url = make_url(database.engine.url).set(drivername="postgresql").render_as_string(hide_password=False)
    opened = await asyncpg.connect(url)
    yield opened
    opened.terminate()


@pytest.fixture
async def some(world: World) -> Experiment:
    """Ten users, exposed from half past twelve on, each with one event two hours later."""
    experiment = await world.experiment()
    assigned = [Assigned(f"user-{n}", n % 2, _T0 + n * _HOUR / 60, _T0) for n in range(10)]
    happened = [Happened(f"user-{n}", "buy", _T0 + 2 * _HOUR, _T0 + n * _HOUR / 2) for n in range(10)]
    await world.store(experiment, History(assigned, (), happened))
    return experiment


def _sent(event_id: UUID, at: datetime | None = _T0, **fields: Any) -> SentEvent:
    values = {"experiment": None, "user_id": "user-1", "event_type": "buy", "value": None, "properties": None, **fields}
    return SentEvent(event_id=event_id, timestamp=at, **values)


def _ids(number: int) -> list[UUID]:
    return [uuid4() for _ in range(number)]


async def _rows(world: World, experiment: Experiment) -> list[tuple[int | None, str, datetime, int]]:
    """Return what is counted in an experiment's project: experiment, event type, hour, events."""
    sql = (
        "SELECT experiment_id, event_type, bucket, events FROM dropped_duplicates WHERE project_id = :project_id"
        " ORDER BY experiment_id NULLS FIRST, event_type, bucket, events"
    )
    async with world.database.read() as connection:
        found = await connection.execute(text(sql), {"project_id": experiment.project_id})
        return [(row.experiment_id, row.event_type, row.bucket, row.events) for row in found]


async def _drop(world: World, experiment: Experiment, *rows: tuple[str, datetime, int], names: bool = False) -> None:
    """Count events as dropped: of a type, at a time, so many."""
    copies = [
        Event(experiment.project_id, uuid4(), experiment.id if names else None, "u", event_type, at, None, None)
        for event_type, at, number in rows
        for _ in range(number)
    ]
    async with world.database.begin() as connection:
        await EventRepository(connection).count_dropped(copies)


async def _count(service: ResultsService, experiment: Experiment, **question: Any) -> int | None:
    found = await service.results(experiment.project_id, experiment.key, Question(fresh=True, **question))
    return found.provenance.duplicates_dropped


async def test_record__no_duplicate__counts_nothing(world: World, events: EventService, some: Experiment) -> None:
    rows = list(enumerate(_sent(event_id) for event_id in _ids(50)))

    assert (await events.record_many(some.project_id, rows)).duplicates == 0

    assert await _rows(world, some) == []


async def test_record__duplicates_of_every_kind__are_counted_by_what_the_copies_say(
    world: World, events: EventService, some: Experiment
) -> None:
    known, twice, fresh = _ids(3)
    assert (await events.record(some.project_id, _sent(known))).is_new

    told = await events.record_many(
        some.project_id,
        list(
            enumerate(
                [
                    _sent(twice, event_type="view"),
                    # Twice within one request.
                    _sent(twice, event_type="view"),
                    _sent(fresh, experiment=some.key),
                    # Of another hour and type than the stored one, and naming the experiment.
                    _sent(known, _T0 + 5 * _HOUR, event_type="click", experiment=some.key),
                    _sent(known, _T0 + _HOUR / 3),
                    _sent(known, _T0 + _HOUR / 2 - timedelta(microseconds=1)),
                ]
            )
        ),
    )

    assert (told.accepted, told.duplicates) == (2, 4)
    assert not (await events.record(some.project_id, _sent(known, _T0 + _HOUR / 2))).is_new
    hour = _T0.replace(minute=0)
    assert await _rows(world, some) == [
        (None, "buy", hour, 2),
        (None, "buy", hour + _HOUR, 1),
        (None, "view", hour, 1),
        (some.id, "click", hour + 5 * _HOUR, 1),
    ]


async def test_record__duplicate_without_a_timestamp__is_counted_now(
    world: World, events: EventService, some: Experiment
) -> None:
    event_id = uuid4()
    before = datetime.now(UTC)
    for _ in range(2):
        await events.record(some.project_id, _sent(event_id, None))

    ((_, _, bucket, number),) = await _rows(world, some)

    assert number == 1
    assert before.replace(minute=0, second=0, microsecond=0) <= bucket <= datetime.now(UTC)


async def test_record__batch_fails_for_one_and_is_tried_again__counts_each_duplicate_once(
    world: World, events: EventService, some: Experiment
) -> None:
    known = uuid4()
    await events.record(some.project_id, _sent(known))
    too_long = _sent(uuid4(), user_id="x" * 300)

    # The first one is under way alone while the others queue up, and these then go out together.
    outcomes = await asyncio.gather(
        events.record(some.project_id, _sent(uuid4())),
        events.record(some.project_id, _sent(known)),
        events.record(some.project_id, too_long),
        events.record(some.project_id, _sent(known)),
        return_exceptions=True,
    )

    assert [getattr(outcome, "is_new", None) for outcome in outcomes] == [True, False, None, False]
    assert isinstance(outcomes[2], IntegrityError)
    assert sum(number for *_, number in await _rows(world, some)) == 2


async def test_record__same_events_through_two_services_at_once__counts_what_is_told(
    world: World, events: EventService, registry: ExperimentRegistry, some: Experiment
) -> None:
    other = EventService(database=world.database, registry=registry, metrics=Metrics())
    rows = list(enumerate(_sent(event_id) for event_id in _ids(100)))

    told = await asyncio.gather(
        *(
            service.record_many(some.project_id, rows if turn % 3 else rows[::-1])
            for turn in range(6)
            for service in (events, other)
        )
    )

    assert sum(batch.accepted for batch in told) == 100
    assert sum(batch.duplicates for batch in told) == 1100
    assert sum(number for *_, number in await _rows(world, some)) == 1100
    await other.stop()


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ({}, 2 + 4 + 8 + 16 + 64),
        ({"event_types": ("buy",)}, 2 + 4 + 8),
        ({"event_types": ("buy", "view", "none such")}, 2 + 4 + 8 + 16),
        # Hours that a bound cuts count whole; the end itself is not part of the range.
        ({"start": _T0 + _HOUR * 1.25}, 4 + 8 + 16),
        ({"start": _T0 + _HOUR * 1.5}, 8),
        ({"end": _T0.replace(minute=0) + 2 * _HOUR}, 2 + 4 + 16 + 64),
        ({"end": _T0.replace(minute=0) + 2 * _HOUR + timedelta(microseconds=1)}, 2 + 4 + 8 + 16 + 64),
        ({"start": _T0 - 100 * _HOUR, "end": _T0 - 2 * _HOUR}, 0),
    ],
)
@pytest.mark.parametrize("choice", SourceChoice)
async def test_results__duplicates_dropped__are_those_of_the_question_from_every_source(
    service: ResultsService,
    bench: Bench,
    world: World,
    some: Experiment,
    choice: SourceChoice,
    question: dict[str, Any],
    expected: int,
) -> None:
    elsewhere = await world.experiment()
    await _drop(world, elsewhere, ("buy", _T0, 128))
    # Before the hour of the first exposure nothing counts.
    await _drop(world, some, ("buy", _T0 - _HOUR, 1), ("buy", _T0 - _HOUR / 4, 2), ("buy", _T0 + _HOUR, 4))
    await _drop(world, some, ("buy", _T0 + 2 * _HOUR, 8), ("view", _T0 + _HOUR, 16), ("click", _T0, 64), names=True)
    if choice is SourceChoice.COLD:
        bench.watermark = FAR

    found = await service.results(some.project_id, some.key, Question(fresh=True, source=choice, **question))

    wanted = {SourceChoice.HOT: Source.HOT, SourceChoice.COLD: Source.COLD, SourceChoice.AUTO: Source.BOTH}
    assert found.metadata.source is wanted[choice]
    assert found.provenance.duplicates_dropped == expected
    assert "duplicates_dropped" not in found.provenance.null_reasons


async def test_results__override_before_all_assignments__counts_from_there_where_overrides_are_included(
    service: ResultsService, world: World, some: Experiment
) -> None:
    await _drop(world, some, ("buy", _T0 - 3 * _HOUR, 1), ("buy", _T0 - 2 * _HOUR, 2))
    await world.store_hot(some, History((), [Overridden("tester", 1, _T0 - 2 * _HOUR, _T0)]))

    assert await _count(service, some) == 0
    assert await _count(service, some, include_overrides=True) == 2


async def test_results__assignment_was_imported_later__counts_from_its_own_time(
    service: ResultsService, world: World, some: Experiment
) -> None:
    await _drop(world, some, ("buy", _T0 - 3 * _HOUR, 1), ("buy", _T0 - 2 * _HOUR, 2))
    await world.store_hot(some, History([Assigned("imported", 1, _T0 - 2 * _HOUR, _T0 + 5 * _HOUR)]))

    assert await _count(service, some) == 2


async def test_count__events_expose__counts_from_the_first_assignment(world: World, some: Experiment) -> None:
    await _drop(world, some, ("buy", _T0 - _HOUR, 1), ("buy", _T0, 2))
    await world.store_hot(some, History((), (), [Happened("user-1", "exposure", _T0 + 3 * _HOUR, _T0 + 3 * _HOUR)]))
    subject = replace(Subject.of(some), population=Population(exposure=ExposureRule.EVENT))

    assert await duplicates.DroppedDuplicates(world.database).count(subject, Question()) == Duplicates(2, None)


async def test_count__many_assignments__finds_the_first_by_an_index(world: World, some: Experiment) -> None:
    sql, values = duplicates.statement_for(Subject.of(some), Question())

    async with world.database.read() as connection:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        found = await connection.execute(text(f"EXPLAIN {sql}"), values)
        plan = "\n".join(found.scalars())

    assert "using ix_assignments_experiment_id_ingested_at" in plan
    assert "using ix_assignments_experiment_id_assigned_at" in plan


async def test_results__nobody_in_the_experiment__counts_none(service: ResultsService, world: World) -> None:
    experiment = await world.experiment()
    await _drop(world, experiment, ("buy", _T0, 3))

    assert await _count(service, experiment) == 0


async def test_results__duplicate_comes_after_the_answer_was_kept__is_told_at_once(
    service: ResultsService, bench: Bench, world: World, some: Experiment
) -> None:
    elsewhere = await world.experiment()
    first = await service.results(some.project_id, some.key, Question())
    bench.now += timedelta(seconds=1)
    await _drop(world, elsewhere, ("buy", _T0, 1))
    assert await service.results(some.project_id, some.key, Question()) == first
    await _drop(world, some, ("buy", _T0, 1))

    after = await service.results(some.project_id, some.key, Question())

    assert (first.provenance.duplicates_dropped, after.provenance.duplicates_dropped) == (0, 1)
    assert after.variants == first.variants


async def test_results__store_away__duplicates_are_null_with_the_reason(
    world: World, bench: Bench, some: Experiment
) -> None:
    nobody = Database.connect(_NOBODY, pool_size=1)
    bench.watermark = FAR

    async with running_service(world, bench, clickhouse=world.clickhouse, database=nobody) as running:
        found = await running.results(some.project_id, some.key, Question())

    await nobody.close()
    assert found.provenance.duplicates_dropped is None
    assert found.provenance.null_reasons["duplicates_dropped"] == STORE_UNAVAILABLE


async def test_count__store_away_or_hanging__is_unknown_and_nobody_waits(
    world: World, some: Experiment, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_PATIENCE_S", 0.2)
    nobody = Database.connect(_NOBODY, pool_size=1)
    subject, unknown = Subject.of(some), Duplicates(None, STORE_UNAVAILABLE)

    assert await duplicates.DroppedDuplicates(nobody).count(subject, Question()) == unknown
    async with connection.transaction():
        await connection.execute("LOCK TABLE dropped_duplicates IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(_HANGS_S):
            assert await duplicates.DroppedDuplicates(world.database).count(subject, Question()) == unknown
        assert await connection.fetchval(_KEEPS_IT)
    await nobody.close()

    assert await duplicates.DroppedDuplicates(world.database).count(subject, Question()) == Duplicates(0, None)


@pytest.mark.parametrize("limit", ["statement_timeout", "lock_timeout"])
async def test_count__role_allows_a_statement_less_time__is_unknown(
    world: World, some: Experiment, connection: asyncpg.Connection, limit: str
) -> None:
    hurried = Database(create_async_engine(world.database.engine.url, connect_args={"server_settings": {limit: "50"}}))

    async with connection.transaction():
        await connection.execute("LOCK TABLE dropped_duplicates IN ACCESS EXCLUSIVE MODE")
        found = await duplicates.DroppedDuplicates(hurried).count(Subject.of(some), Question())

    await hurried.close()
    assert found == Duplicates(None, STORE_UNAVAILABLE)


async def test_count__part_given_up_with_the_events__is_null_unless_the_question_begins_later(
    world: World, some: Experiment, connection: asyncpg.Connection
) -> None:
    end = datetime(2026, 4, 1, tzinfo=UTC)
    later = await world.experiment()
    await world.store_hot(later, History([Assigned("u", 0, end + _HOUR, end + _HOUR)]))
    empty = await world.experiment()
    counting = duplicates.DroppedDuplicates(world.database)
    for experiment in (some, later, empty):
        await _drop(world, experiment, ("buy", _T0, 1), ("buy", end + _HOUR, 2))
    dropped = "INSERT INTO dropped_partitions (name, upper_bound, row_count) VALUES ('of-a-test', $1, 0)"

    try:
        await connection.execute(dropped, end)
        await forget_duplicates(connection, end)

        async def count(experiment: Experiment, **question: Any) -> Duplicates:
            return await counting.count(Subject.of(experiment), Question(**question))

        assert await count(some) == Duplicates(None, EVENTS_DROPPED)
        assert await count(some, start=_T0) == Duplicates(None, EVENTS_DROPPED)
        assert await count(some, start=end) == Duplicates(2, None)
        assert await count(later) == Duplicates(2, None)
        assert await count(later, start=_T0) == Duplicates(2, None)
        assert await count(empty) == Duplicates(0, None)
    finally:
        await connection.execute("DELETE FROM dropped_partitions WHERE name = 'of-a-test'")


async def test_fold__many_rows_of_one_hour__become_one_and_the_sum_stays_whoever_adds(
    world: World, some: Experiment, connection: asyncpg.Connection
) -> None:
    async def add(times: int) -> None:
        for _ in range(times):
            await _drop(world, some, ("buy", _T0, 2), ("view", _T0, 1))
            await _drop(world, some, ("buy", _T0 + _HOUR, 3), names=True)

    await add(5)
    adding = asyncio.create_task(add(20))
    while not adding.done():
        await fold_duplicates(connection)
    newest = "SELECT max(dropped_at) FROM dropped_duplicates WHERE project_id = $1"
    before = await connection.fetchval(newest, some.project_id)
    await fold_duplicates(connection)

    hour = _T0.replace(minute=0)
    assert await _rows(world, some) == [
        (None, "buy", hour, 50),
        (None, "view", hour, 25),
        (some.id, "buy", hour + _HOUR, 75),
    ]
    assert await connection.fetchval(newest, some.project_id) == before


async def test_fold__cut_short__what_is_done_stays_done(
    world: World, some: Experiment, connection: asyncpg.Connection
) -> None:
    for _ in range(3):
        await _drop(world, some, ("buy", _T0, 1), ("buy", _T0 + _HOUR, 2))
    await connection.execute("SET lock_timeout = '50ms'")

    async with world.database.begin() as other:
        later = {"project_id": some.project_id, "bucket": _T0 + _HOUR / 2}
        keep = "SELECT FROM dropped_duplicates WHERE project_id = :project_id AND bucket = :bucket FOR UPDATE"
        await other.execute(text(keep), later)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await fold_duplicates(connection)

    hour = _T0.replace(minute=0)
    assert await _rows(world, some) == [(None, "buy", hour, 3), *3 * [(None, "buy", hour + _HOUR, 2)]]
    await fold_duplicates(connection)
    assert await _rows(world, some) == [(None, "buy", hour, 3), (None, "buy", hour + _HOUR, 6)]
