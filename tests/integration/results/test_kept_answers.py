"""An answer that was given can be had again, over HTTP, as it was."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.core.db import Database
from app.core.problems import install_problem_handlers
from app.experiments.values import Experiment
from app.results import kept
from app.results.errors import AnswerNotFound
from app.results.provenance import NOT_STORED, without_answer_id
from app.results.router import router
from app.results.schemas import ResultsOut
from app.results.service import ResultsService
from app.results.values import Question
from tests.integration.results.services import Bench, running_service
from tests.integration.results.test_http import OpenGate
from tests.integration.results.world import FAR, Assigned, Happened, History, World

_T0 = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
async def service(world: World) -> AsyncIterator[ResultsService]:
    async with running_service(world, Bench(), clickhouse=world.clickhouse) as running:
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


async def _count(database: Database, experiment: Experiment) -> int:
    async with database.read() as connection:
        found: int = (
            await connection.execute(
                text("SELECT count(*) FROM answers WHERE experiment_id = :id"), {"id": experiment.id}
            )
        ).scalar_one()
    return found


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
    answers = [(await client.get(f"/{experiment.id}/results?min_sample=3")).json() for _ in range(3)]

    assert len({answer["provenance"]["answer_id"] for answer in answers}) == 1
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

    ids = [await _answer_id(service, experiment) for _ in range(5)]

    assert await _count(world.database, experiment) == 3
    assert json.loads(await service.kept_answer(experiment.project_id, experiment.key, ids[-3]))
    with pytest.raises(AnswerNotFound):
        await service.kept_answer(experiment.project_id, experiment.key, ids[0])


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


async def test_keep__experiment_deleted_meanwhile__answer_comes_without_its_id(
    service: ResultsService, experiment: Experiment, world: World
) -> None:
    found = await service.results(experiment.project_id, experiment.key, Question(fresh=True))
    unnamed = replace(found, experiment_id=10**12, provenance=without_answer_id(found.provenance, NOT_STORED))

    assert await kept.KeptAnswers(world.database).keep(unnamed) == unnamed


async def _answer_id(service: ResultsService, experiment: Experiment) -> UUID:
    found = await service.results(experiment.project_id, experiment.key, Question(fresh=True))
    assert found.provenance.answer_id is not None
    return UUID(found.provenance.answer_id)
