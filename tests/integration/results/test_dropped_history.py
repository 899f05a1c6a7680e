"""Results of an experiment whose oldest events the history has given up: from PostgreSQL, or an error, never zero."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from app.core.db import Database
from app.experiments.population import ExposureRule, Population
from app.experiments.values import Experiment
from app.results.answer import Results
from app.results.errors import HistoryDropped, NoSourceAvailable
from app.results.reach import Reach
from app.results.service import ResultsService
from app.results.values import Metric, Question, Source, SourceChoice, Subject
from tests.integration.results.services import Bench, running_service
from tests.integration.results.world import FAR, Assigned, Happened, History, World

_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_GIVEN_UP = _T0 + timedelta(days=31)
_LATER = _GIVEN_UP + timedelta(days=1)
_METRICS = (Metric.EVENT_COUNT, Metric.UNIQUE_USERS)


@pytest.fixture
def bench() -> Bench:
    return Bench(watermark=FAR)


@pytest.fixture
async def service(world: World, bench: Bench) -> AsyncIterator[ResultsService]:
    async with running_service(world, bench, clickhouse=world.clickhouse) as running:
        yield running


@pytest.fixture
async def old(world: World) -> Experiment:
    """An experiment with an event in the dropped month, which ClickHouse has no more, and one after it."""
    experiment = await world.experiment()
    users = [Assigned(name, 0, _T0, _T0) for name in ("a", "b")]
    events = [Happened("a", "buy", at, at) for at in (_T0 + timedelta(days=1), _LATER)]
    await world.store_hot(experiment, History(users, (), events))
    await world.store_cold(experiment, History(users, (), events[1:]))
    record = {"ingested_before": _GIVEN_UP, "decided_at": _GIVEN_UP}
    await world.clickhouse.insert_json("dropped_history", [msgspec.json.encode(record)])
    return experiment


async def test_results__events_given_up__come_from_postgresql(service: ResultsService, old: Experiment) -> None:
    results = await _ask(service, old)

    assert results.metadata.source is Source.HOT
    assert results.variants[0].metrics[Metric.EVENT_COUNT].value == 2


async def test_results__events_given_up_and_history_asked__is_an_error(
    service: ResultsService, old: Experiment
) -> None:
    with pytest.raises(HistoryDropped, match="HISTORY_RETENTION_DAYS"):
        await _ask(service, old, source=SourceChoice.COLD)


async def test_results__start_after_what_was_given_up__come_from_the_history(
    service: ResultsService, old: Experiment
) -> None:
    results = await _ask(service, old, source=SourceChoice.COLD, start=_LATER)

    assert results.metadata.source is Source.COLD
    assert results.variants[0].metrics[Metric.EVENT_COUNT].value == 1


async def test_results__import_of_an_earlier_time_that_only_postgresql_knows__come_from_postgresql(
    world: World, service: ResultsService, old: Experiment
) -> None:
    del old
    late = await world.experiment()
    await world.store_hot(late, History([Assigned("a", 0, _T0, _LATER)]))

    assert (await _ask(service, late)).metadata.source is Source.HOT


async def test_results__postgresql_away__is_an_error_as_well(world: World, bench: Bench, old: Experiment) -> None:
    nobody = Database.connect("postgresql+asyncpg://nobody@127.0.0.1:1/none", pool_size=1)
    async with running_service(world, bench, clickhouse=world.clickhouse, database=nobody) as service:
        with pytest.raises(NoSourceAvailable):
            await _ask(service, old)
    await nobody.close()


async def test_results__experiment_that_began_later__is_not_concerned(
    world: World, service: ResultsService, old: Experiment
) -> None:
    del old
    younger = await world.experiment()
    await world.store(younger, History([Assigned("a", 0, _LATER, _LATER)], (), [Happened("a", "buy", _LATER, _LATER)]))

    results = await _ask(service, younger)

    assert results.metadata.source is Source.BOTH
    assert results.variants[0].metrics[Metric.EVENT_COUNT].value == 1


async def test_covers__first_exposure_event_may_have_been_given_up__does_not(world: World, old: Experiment) -> None:
    reach, later = Reach(world.clickhouse, world.database), Question(start=_LATER)
    by_event = replace(old, population=Population(ExposureRule.EVENT))

    assert await reach.covers(Subject.of(old), later)
    assert not await reach.covers(Subject.of(by_event), later)


async def _ask(service: ResultsService, experiment: Experiment, **question: object) -> Results:
    asked = Question(metrics=_METRICS, **question)  # type: ignore[arg-type]  # Fields of one type each.
    return await service.results(experiment.project_id, experiment.key, asked)
