"""A tail that is too large to travel with a query is refused before it is read."""

import random
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.experiments.values import Experiment
from app.measurement import tail_size
from app.measurement.errors import TailTooLarge
from app.metrics.repository import MetricRepository
from app.metrics.values import Direction, Kind, MetricSpec, Recipe, Selection
from app.results import hot
from app.results.hot import HotStore
from app.results.values import Question, Source, Subject, Wanted
from tests.integration.results.services import Bench, running_service
from tests.integration.results.world import Assigned, Happened, History, World

_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_ORDERS = Recipe(kind=Kind.COUNT, selections=(Selection(("buy",)),))
_WANTED = Wanted(recipes={"orders": _ORDERS})
_PROPERTIES = 16_000


def _document(kind: str, number: int) -> dict[str, Any]:
    """Return properties of 16 kB that PostgreSQL compresses to next to nothing, or not at all."""
    if kind == "repeating":
        return {"note": "x" * _PROPERTIES}
    return {"note": random.Random(number).randbytes(_PROPERTIES // 2).hex()}


async def _stored(world: World, documents: list[dict[str, Any]], *, in_context: bool = False) -> Experiment:
    """Store a user for each document, who has it as context or sends it, and buys once."""
    experiment = await world.experiment()
    users = [f"user {number}" for number in range(len(documents))]
    contexts = documents if in_context else [{} for _ in documents]
    properties = [{} for _ in documents] if in_context else documents
    assigned = [Assigned(user, 0, _T0, _T0, context) for user, context in zip(users, contexts, strict=True)]
    events = [
        Happened(user, "buy", _T0 + _HOUR, _T0 + _HOUR, 1.0, properties=own)
        for user, own in zip(users, properties, strict=True)
    ]
    await world.store(experiment, History(assigned, (), events))
    return experiment


@pytest.mark.parametrize("kind", ["repeating", "random"])
@pytest.mark.parametrize("column", ["properties", "context"])
async def test_tail__holds_more_than_travels_with_a_query__is_refused_and_never_read(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str, column: str
) -> None:
    monkeypatch.setattr(tail_size, "MOST_BYTES", 100 * _PROPERTIES)
    experiment = await _stored(
        world, [_document(kind, number) for number in range(200)], in_context=column == "context"
    )
    subject, store = Subject.of(experiment), HotStore(world.database)

    tracemalloc.start()
    with pytest.raises(TailTooLarge):
        await store.tail(subject, Question(), _T0, _WANTED)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 200 * _PROPERTIES / 2
    # What is older has arrived, and need not travel.
    tail, _ = await store.tail(subject, Question(), _T0 + 2 * _HOUR, _WANTED)
    assert (tail.exposures, tail.measured) == ([], [])


async def test_tail__as_much_as_travels_with_a_query__is_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_size, "MOST_BYTES", 30 * _PROPERTIES)
    experiment = await _stored(world, [_document("random", number) for number in range(20)])

    tail, _ = await HotStore(world.database).tail(Subject.of(experiment), Question(), _T0, _WANTED)

    assert (len(tail.exposures), len(tail.events), len(tail.measured)) == (20, 20, 20)


async def test_tail__as_many_rows_as_travel_and_one_more__is_read_and_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = await _stored(world, [{"price": number} for number in range(20)])
    subject, store = Subject.of(experiment), HotStore(world.database)

    monkeypatch.setattr(hot, "_MOST_TAIL_ROWS", 20)
    tail, _ = await store.tail(subject, Question(), _T0, _WANTED)
    monkeypatch.setattr(hot, "_MOST_TAIL_ROWS", 19)

    assert (len(tail.exposures), len(tail.events), len(tail.measured)) == (20, 20, 20)
    with pytest.raises(TailTooLarge):
        await store.tail(subject, Question(), _T0, _WANTED)
    # Without recipes as well.
    with pytest.raises(TailTooLarge):
        await store.tail(subject, Question(), _T0)


async def test_results__tail_holds_more_than_travels__are_the_same_from_postgresql(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = await _stored(world, [_document("repeating", number) for number in range(40)])
    async with world.database.begin() as connection:
        spec = MetricSpec(
            key="orders", name="Orders", description=None, recipe=_ORDERS, direction=Direction.UP, unit=None
        )
        await MetricRepository(connection).insert(experiment.project_id, spec, 1)
    question = Question(metrics=("orders",), fresh=True)

    async with running_service(world, Bench(watermark=_T0), clickhouse=world.clickhouse) as service:
        split = await service.results(experiment.project_id, experiment.key, question)
        monkeypatch.setattr(tail_size, "MOST_BYTES", 10 * _PROPERTIES)
        whole = await service.results(experiment.project_id, experiment.key, question)

    assert (split.metadata.source, whole.metadata.source) == (Source.BOTH, Source.HOT)
    assert (split.variants, split.comparisons) == (whole.variants, whole.comparisons)
    assert whole.variants[0].metrics["orders"].value == 1
