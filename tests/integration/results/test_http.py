"""The endpoint: parameters, problems, and answers that match their schema."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.access.caller import Caller, Identity
from app.access.scopes import Scope
from app.core.problems import install_problem_handlers
from app.experiments.values import Experiment
from app.results.router import router
from app.results.schemas import ResultsOut
from tests.integration.results.services import Bench, running_service
from tests.integration.results.world import Assigned, Happened, History, World

_T0 = datetime(2026, 3, 1, tzinfo=UTC)


class OpenGate:
    """Admits everybody to one project and notes the scope that was asked for."""

    def __init__(self) -> None:
        self.project_id = 0
        self.scopes: set[Scope] = set()

    async def admit(self, *, scope: Scope, **_request: Any) -> Caller:
        self.scopes.add(scope)
        return Caller(Identity(1, "tester", frozenset(Scope), None, "tester"), self.project_id, "request")


@pytest.fixture(scope="module")
def gate() -> OpenGate:
    return OpenGate()


@pytest.fixture(scope="module")
async def client(world: World, gate: OpenGate) -> AsyncIterator[httpx.AsyncClient]:
    api = FastAPI()
    install_problem_handlers(api, [])
    api.include_router(router)
    async with running_service(world, Bench(), clickhouse=world.clickhouse) as service:
        api.state.services = SimpleNamespace(gate=gate, results=service)
        transport = httpx.ASGITransport(app=api)
        async with httpx.AsyncClient(transport=transport, base_url="http://test/api/v1/experiments") as opened:
            yield opened


@pytest.fixture(scope="module")
async def experiment(world: World, gate: OpenGate, client: httpx.AsyncClient) -> Experiment:
    assert client
    made = await world.experiment(key="checkout")
    gate.project_id = made.project_id
    assignments = [
        Assigned(f"user-{number}", number % 2, _T0, _T0, {"country": "DE" if number < 6 else "FR"})
        for number in range(10)
    ]
    events = [
        Happened(f"user-{number}", event_type, _T0 + timedelta(hours=number), _T0, float(number))
        for number in range(8)
        for event_type in ("buy", "view")
    ]
    await world.store(made, History(assignments, (), events))
    return made


@pytest.mark.parametrize(
    "query",
    [
        "",
        "event_type=buy&event_type=view&metrics=avg_value&metrics=p95_value&metrics=value_per_user",
        "start_date=2026-03-01&end_date=2026-03-02T00:00:00%2B01:00&granularity=hour",
        "start_date=2026-03-01T00:00:00 01:00",
        "context.country=DE&context.age=3&include_overrides=true&fresh=true&source=hot",
        "confidence_level=99.9&min_sample=0&include_ci=false&granularity=realtime",
        "event_type=nothing",
        "compare=control:treatment_1&prior_alpha=2&prior_beta=9&prior_lift_mean=0.01&prior_lift_std=0.1",
        "planned_sample=100&target_mde=0.05&metrics=value_per_user&metrics=avg_value",
    ],
)
async def test_results__every_kind_of_question__answer_matches_its_schema(
    client: httpx.AsyncClient, experiment: Experiment, query: str
) -> None:
    answer = await client.get(f"/{experiment.id}/results?{query}")

    assert answer.status_code == 200, answer.text
    ResultsOut.model_validate_json(answer.content, strict=False)


async def test_results__by_key__shows_what_dashboards_rely_on(
    client: httpx.AsyncClient, experiment: Experiment, gate: OpenGate
) -> None:
    body = (await client.get("/checkout/results?metrics=conversion_rate&metrics=value_per_user&event_type=buy")).json()

    assert gate.scopes == {Scope.RESULTS}
    assert body["experiment_id"] == experiment.id
    assert set(body) >= {"experiment_id", "summary", "variants", "comparisons", "srm", "metadata"}
    control, treatment = body["variants"]
    assert (control["key"], control["is_control"], treatment["is_control"]) == ("control", True, False)
    # Users 0, 2, 4, 6 of 0, 2, 4, 6, 8 and users 1, 3, 5, 7 of 1, 3, 5, 7, 9.
    assert control["metrics"]["conversion_rate"]["value"] == 0.8
    assert control["metrics"]["value_per_user"]["value"] == 12 / 5
    assert treatment["metrics"]["value_per_user"]["lift_vs_control"] == 33.33
    assert body["srm"]["observed"] == {"control": 5, "treatment_1": 5}
    assert body["metadata"]["total_users"] == 10
    assert body["metadata"]["start_date"] is None
    assert treatment["time_series"][0]["time"] == "2026-03-01T00:00:00Z"
    assert body["exposures_over_time"][1]["points"] == [
        {"time": "2026-03-01T00:00:00Z", "users": 5, "total": 5, "null_reason": None}
    ]
    assert body["summary"]["decision"]["verdict"] == "KEEP_RUNNING"
    assert [definition["key"] for definition in body["definitions"]] == ["conversion_rate", "value_per_user"]
    assert body["provenance"]["events_counted"] == 8
    comparison = body["comparisons"][0]
    assert (comparison["n_variant"], comparison["n_control"]) == (5, 5)
    assert comparison["bayes"]["prior"] == {
        "kind": "beta",
        "alpha": 1.0,
        "beta": 1.0,
        "lift_mean": None,
        "lift_std": None,
    }


async def test_results__context__keeps_those_users(client: httpx.AsyncClient, experiment: Experiment) -> None:
    body = (await client.get(f"/{experiment.id}/results?context.country=FR")).json()

    assert body["metadata"]["total_users"] == 4
    assert body["metadata"]["context"] == {"country": "FR"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("metrics=sum", "metrics.0"),
        ("granularity=week", "granularity"),
        ("start_date=yesterday", "start_date"),
        ("start_date=2026-03-01T00:00:00", "start_date"),
        ("start_date=2026-02-30", "start_date"),
        ("end_date=0001-01-01", "end_date"),
        ("start_date=2026-03-02&end_date=2026-03-02", "end_date"),
        ("start_date=2026-03-02&end_date=2026-03-01", "end_date"),
        ("confidence_level=0", "confidence_level"),
        ("confidence_level=100", "confidence_level"),
        ("confidence_level=nan", "confidence_level"),
        ("min_sample=-1", "min_sample"),
        ("source=warm", "source"),
        ("include_ci=perhaps", "include_ci"),
        ("event_type=", "event_type.0"),
        ("event_type=a%00b", "event_type.0"),
        ("event_type=" + "x" * 101, "event_type.0"),
        ("&".join(f"event_type=t{number}" for number in range(51)), "event_type"),
        ("context.=x", "context."),
        ("context.country=a%00", "context.country"),
        ("context." + "x" * 101 + "=1", "context." + "x" * 101),
        ("context.country=" + "x" * 257, "context.country"),
        ("context.country=DE&context.country=FR", "context.country"),
        ("&".join(f"context.c{number}=1" for number in range(11)), "context.c10"),
        ("limit=5", "limit"),
        ("compare=treatment_1", "compare.0"),
        ("compare=treatment_1:nobody", "compare"),
        ("compare=control:control", "compare"),
        ("&".join(f"compare=a{number}:b" for number in range(21)), "compare"),
        ("prior_alpha=0.01", "prior_alpha"),
        ("prior_lift_std=0", "prior_lift_std"),
        ("planned_sample=0", "planned_sample"),
        ("target_mde=nan", "target_mde"),
    ],
)
async def test_results__bad_parameter__is_refused_by_name(
    client: httpx.AsyncClient, experiment: Experiment, query: str, field: str
) -> None:
    answer = await client.get(f"/{experiment.id}/results?{query}")

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert field in {error["field"] for error in answer.json()["errors"]}


@pytest.mark.parametrize("reference", ["nothing", "999999", "0"])
async def test_results__unknown_experiment__is_not_found(client: httpx.AsyncClient, reference: str) -> None:
    answer = await client.get(f"/{reference}/results")

    assert (answer.status_code, answer.json()["type"]) == (404, "urn:experimentation:problem:experiment-not-found")


async def test_results__cold_before_anything_is_proven__is_unavailable(
    client: httpx.AsyncClient, experiment: Experiment
) -> None:
    answer = await client.get(f"/{experiment.id}/results?source=cold")

    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
