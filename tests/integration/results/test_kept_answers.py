"""An answer that was given can be had again, over HTTP, as it was."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.core.db import Database
from app.core.problems import install_problem_handlers
from app.experiments.values import Experiment
from app.results import kept
from app.results.answer import Results
from app.results.errors import AnswerNotFound
from app.results.models import answers
from app.results.provenance import NOT_STORED, STORE_UNAVAILABLE, without_answer_id
from app.results.router import router
from app.results.schemas import ResultsOut
from app.results.service import ResultsService
from app.results.values import LONGEST_KEPT, Question
from tests.integration.results.services import Bench, running_service
from tests.integration.results.test_http import OpenGate
from tests.integration.results.world import FAR, Assigned, Happened, History, World

_T0 = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
async def service(world: World, bench: Bench) -> AsyncIterator[ResultsService]:
    async with running_service(world, bench, clickhouse=world.clickhouse) as running:
        yield running


@pytest.fixture
async def experiment(world: World) -> Experiment:
    made = await world.experiment()
    assignments = [Assigned(f"user-{number}", number % 2, _T0, _T0) for number in range(40)]
    events = [Happened(f"user-{number}", "buy", _T0 + timedelta(hours=1), _T0, 2.5) for number in range(15)]
    await world.store(made, History(assignments, (), events))
    return made


@pytest.fixture
async def client(service: ResultsService, experiment: Experiment) -> AsyncIterator[httpx.AsyncClient]:
    api, gate = FastAPI(), OpenGate()
    gate.project_id = experiment.project_id
    install_problem_handlers(api, [])
    api.include_router(router)
    api.state.services = SimpleNamespace(gate=gate, results=service)
    transport = httpx.ASGITransport(app=api)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/api/v1/experiments") as opened:
        yield opened


async def _documents(database: Database, experiment: Experiment) -> int:
    return await _count(database, experiment, "packed")


async def _age(world: World, experiment: Experiment, by: timedelta) -> None:
    """Have all answers of the experiment been kept so much earlier."""
    async with world.database.begin() as connection:
        await connection.execute(
            text("UPDATE answers SET kept_at = kept_at - CAST(:by AS interval) WHERE experiment_id = :id"),
            {"id": experiment.id, "by": by},
        )


async def _count(database: Database, experiment: Experiment, column: str = "id") -> int:
    """Return how many answers of the experiment have something in the column."""
    statement = select(func.count(answers.c[column])).where(answers.c.experiment_id == experiment.id)
    async with database.read() as connection:
        return int((await connection.execute(statement)).scalar_one())


async def test_kept_answer__named_by_its_id__is_the_very_answer(
    client: httpx.AsyncClient, experiment: Experiment, world: World
) -> None:
    query = "metrics=conversion_rate&metrics=value_per_user&compare=control:treatment_1&fresh=true"
    given = await client.get(f"/{experiment.id}/results?{query}")
    assert given.status_code == 200, given.text
    # What comes later changes nothing of what was said.
    now = datetime.now(UTC)
    await world.store_hot(experiment, History([Assigned("late", 1, now, now)]))

    again = await client.get(f"/{experiment.key}/results/{given.json()['provenance']['answer_id']}")

    assert again.status_code == 200
    assert again.headers["content-type"] == "application/json"
    assert again.json() == given.json()
    ResultsOut.model_validate_json(again.content, strict=False)


async def test_kept_answer__from_the_cache__has_the_id_it_was_computed_under(
    client: httpx.AsyncClient, experiment: Experiment, world: World
) -> None:
    shown = [(await client.get(f"/{experiment.id}/results?min_sample=3")).json() for _ in range(3)]

    assert len({answer["provenance"]["answer_id"] for answer in shown}) == 1
    assert await _count(world.database, experiment) == 1


async def test_kept_answer__unknown_or_malformed_id__is_a_problem(
    client: httpx.AsyncClient, experiment: Experiment
) -> None:
    refused = await client.get(f"/{experiment.id}/results/{uuid4()}")

    assert (refused.status_code, refused.json()["type"]) == (404, "urn:experimentation:problem:answer-not-found")
    assert "provenance.answer_id" in refused.json()["detail"]
    assert (await client.get(f"/{experiment.id}/results/nonsense")).status_code == 422


async def test_kept_answer__asked_of_another_experiment__is_not_found(
    service: ResultsService, experiment: Experiment, world: World
) -> None:
    elsewhere = await world.experiment()
    answer_id = await _answer_id(service, experiment)

    with pytest.raises(AnswerNotFound):
        await service.kept_answer(elsewhere.project_id, elsewhere.key, answer_id)


async def test_keep__more_than_are_kept__the_newest_stay(
    service: ResultsService, experiment: Experiment, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST_KEPT", 3)
    monkeypatch.setattr(kept, "SPARED_FOR", timedelta(0))

    ids = [await _answer_id(service, experiment, min_sample=number) for number in range(5)]

    assert await _count(world.database, experiment) == 3
    assert json.loads(await service.kept_answer(experiment.project_id, experiment.key, ids[-3]))
    with pytest.raises(AnswerNotFound):
        await service.kept_answer(experiment.project_id, experiment.key, ids[0])


async def test_keep__more_than_are_kept_in_a_short_time__the_cache_never_names_one_that_is_gone(
    service: ResultsService, experiment: Experiment, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST_KEPT", 2)
    cached = await service.results(experiment.project_id, experiment.key, Question())
    for number in range(5):
        await _answer_id(service, experiment, min_sample=number)

    again = await service.results(experiment.project_id, experiment.key, Question())

    assert again.provenance.answer_id == cached.provenance.answer_id
    assert again.provenance.answer_id is not None
    assert await service.kept_answer(experiment.project_id, experiment.key, UUID(again.provenance.answer_id))
    assert await _count(world.database, experiment) == 6
    # Nor does it later, for as long as an answer stays in the cache.
    assert kept.SPARED_FOR >= 2 * LONGEST_KEPT

    await _age(world, experiment, kept.SPARED_FOR)
    await _answer_id(service, experiment, min_sample=6)
    assert await _count(world.database, experiment) == 2


async def test_keep__the_same_again__shares_the_document_and_keeps_its_own_moments(
    client: httpx.AsyncClient, bench: Bench, experiment: Experiment, world: World
) -> None:
    given = []
    for minute in range(4):
        bench.now += timedelta(minutes=minute, microseconds=1)
        given.append((await client.get(f"/{experiment.id}/results?fresh=true&metrics=p95_value")).json())
    other = (await client.get(f"/{experiment.id}/results?fresh=true&metrics=avg_value")).json()

    assert len({answer["provenance"]["answer_id"] for answer in given}) == 4
    assert len({answer["metadata"]["computed_at"] for answer in given}) == 4
    for answer in (*given, other):
        again = await client.get(f"/{experiment.id}/results/{answer['provenance']['answer_id']}")
        assert again.json() == answer
    assert await _documents(world.database, experiment) == 2


async def test_keep__something_happened_since__is_kept_as_a_whole(
    client: httpx.AsyncClient, experiment: Experiment, world: World
) -> None:
    before = (await client.get(f"/{experiment.id}/results?fresh=true")).json()
    now = datetime.now(UTC)
    await world.store_hot(experiment, History([Assigned("late", 1, now, now)]))
    after = (await client.get(f"/{experiment.id}/results?fresh=true")).json()

    assert before["metadata"]["total_users"] + 1 == after["metadata"]["total_users"]
    for answer in (before, after):
        again = await client.get(f"/{experiment.id}/results/{answer['provenance']['answer_id']}")
        assert again.json() == answer
    assert await _documents(world.database, experiment) == 2


async def test_keep__answers_that_share_a_document__never_outlive_it(
    service: ResultsService, experiment: Experiment, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST_KEPT", 3)
    monkeypatch.setattr(kept, "SPARED_FOR", timedelta(0))
    shared = [await _answer_id(service, experiment) for _ in range(3)]
    others = [await _answer_id(service, experiment, min_sample=number) for number in range(2)]

    # The document belongs to the first, which stays as long as one of the others does.
    assert await _documents(world.database, experiment) == 3
    for answer_id in (shared[0], *others):
        assert await service.kept_answer(experiment.project_id, experiment.key, answer_id)
    for answer_id in shared[1:]:
        with pytest.raises(AnswerNotFound):
            await service.kept_answer(experiment.project_id, experiment.key, answer_id)

    await _age(world, experiment, kept.KEPT_FOR)
    await _answer_id(service, experiment)
    assert await _count(world.database, experiment) == 1


async def test_keep__the_same_many_times_at_once__is_one_document(
    service: ResultsService, experiment: Experiment, world: World
) -> None:
    found = await service.results(experiment.project_id, experiment.key, Question(fresh=True))
    keeping = kept.KeptAnswers(world.database)

    named = await asyncio.gather(*[keeping.keep(found) for _ in range(8)])

    assert len({answer.provenance.answer_id for answer in named} - {None}) == 8
    assert await _documents(world.database, experiment) == 1


async def test_keep__role_allows_a_statement_less_time__answers_without_an_id(
    service: ResultsService, experiment: Experiment, world: World
) -> None:
    found = await service.results(experiment.project_id, experiment.key, Question(fresh=True))
    settings = {"server_settings": {"lock_timeout": "50"}}
    hurried = Database(create_async_engine(world.database.engine.url, connect_args=settings))

    async with world.database.begin() as connection:
        await connection.execute(text("LOCK TABLE answers IN ACCESS EXCLUSIVE MODE"))
        named = await kept.KeptAnswers(hurried).keep(found)

    await hurried.close()
    assert named.provenance.answer_id is None
    assert named.provenance.null_reasons["answer_id"] == STORE_UNAVAILABLE


async def test_kept_answer__of_an_earlier_release__is_shown_as_it_was(
    service: ResultsService, experiment: Experiment, world: World
) -> None:
    answer_id = await _answer_id(service, experiment)
    before = await service.kept_answer(experiment.project_id, experiment.key, answer_id)
    async with world.database.begin() as connection:
        await connection.execute(
            text("UPDATE answers SET document = :document, packed = NULL, content_hash = NULL WHERE id = :id"),
            {"id": answer_id, "document": before},
        )

    await _answer_id(service, experiment)

    assert await service.kept_answer(experiment.project_id, experiment.key, answer_id) == before
    assert await _documents(world.database, experiment) == 1


async def test_keep__older_than_the_term__is_not_shown_and_goes(
    service: ResultsService, experiment: Experiment, world: World
) -> None:
    old = await _answer_id(service, experiment)
    async with world.database.begin() as connection:
        await connection.execute(
            text("UPDATE answers SET kept_at = kept_at - interval '31 days' WHERE id = :id"), {"id": old}
        )

    with pytest.raises(AnswerNotFound):
        await service.kept_answer(experiment.project_id, experiment.key, old)
    await _answer_id(service, experiment)
    assert await _count(world.database, experiment) == 1


async def test_keep__many_at_once__all_are_kept(service: ResultsService, experiment: Experiment, world: World) -> None:
    await asyncio.gather(
        *[
            service.results(experiment.project_id, experiment.key, Question(fresh=True, min_sample=number))
            for number in range(12)
        ]
    )

    assert await _count(world.database, experiment) == 12


async def test_results__store_away__answer_has_no_id_and_says_why(world: World, experiment: Experiment) -> None:
    nobody = Database.connect("postgresql+asyncpg://nobody@127.0.0.1:1/none", pool_size=1)
    bench = Bench(watermark=FAR)

    async with running_service(world, bench, clickhouse=world.clickhouse, database=nobody) as running:
        found = await running.results(experiment.project_id, experiment.key, Question())

    await nobody.close()
    assert found.provenance.answer_id is None
    assert found.provenance.null_reasons["answer_id"] == "STORE_UNAVAILABLE"
    assert found.provenance.sources == ("clickhouse",)


async def test_keep__store_hangs__answer_comes_without_its_id(
    service: ResultsService, experiment: Experiment, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "_PATIENCE_S", 0.2)

    async with world.database.begin() as connection:
        await connection.execute(text("LOCK TABLE answers IN ACCESS EXCLUSIVE MODE"))
        found = await service.results(experiment.project_id, experiment.key, Question(fresh=True))

    assert found.provenance.null_reasons["answer_id"] == "STORE_UNAVAILABLE"
    assert found.variants[0].metrics["conversion_rate"].value == 0.4


async def test_keep__threads_that_all_share_are_busy__is_kept_all_the_same(
    service: ResultsService, experiment: Experiment, world: World
) -> None:
    found = await service.results(experiment.project_id, experiment.key, Question(fresh=True))
    done = threading.Event()
    # As many as there are, and more.
    busy = [asyncio.get_running_loop().run_in_executor(None, done.wait, 10) for _ in range(40)]

    try:
        named = await asyncio.wait_for(kept.KeptAnswers(world.database).keep(_another(found)), 5)
    finally:
        done.set()
        await asyncio.gather(*busy)

    assert named.provenance.answer_id is not None
    assert await _documents(world.database, experiment) == 2


async def test_keep__experiment_deleted_meanwhile__answer_comes_without_its_id(
    service: ResultsService, experiment: Experiment, world: World
) -> None:
    found = await service.results(experiment.project_id, experiment.key, Question(fresh=True))
    unnamed = replace(found, experiment_id=10**12, provenance=without_answer_id(found.provenance, NOT_STORED))

    assert await kept.KeptAnswers(world.database).keep(unnamed) == unnamed


def _another(results: Results) -> Results:
    """Return an answer to the same question that says something else."""
    return replace(results, summary=replace(results.summary, confidence_level=90))


async def _answer_id(service: ResultsService, experiment: Experiment, *, min_sample: int = 100) -> UUID:
    question = Question(fresh=True, min_sample=min_sample)
    found = await service.results(experiment.project_id, experiment.key, question)
    assert found.provenance.answer_id is not None
    return UUID(found.provenance.answer_id)
