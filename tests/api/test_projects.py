"""Projects do not see each other, on any path."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.conftest import MakeClient
from tests.factories import Json, ask, event_body, expect_problem, experiment_body, make_experiment, unique, walk
from tests.service_process import ServiceProcess


@dataclass(frozen=True)
class Tenant:
    """A project with a token that belongs to it."""

    key: str
    token: Json
    client: httpx.Client


@pytest.fixture
def make_tenant(
    service: ServiceProcess,
    client_of: MakeClient,
    make_project: Callable[[], str],
    make_token: Callable[..., Json],
) -> Iterator[Callable[[], Tenant]]:
    made: list[Tenant] = []

    def make() -> Tenant:
        key = make_project()
        token = make_token("admin", project=key)
        made.append(Tenant(key, token, client_of(service, token=token["token"])))
        return made[-1]

    yield make
    for tenant in made:
        tenant.client.close()


_CALLS: list[tuple[str, str, Any]] = [
    ("GET", "/experiments/{e}", None),
    ("PATCH", "/experiments/{e}", {"name": "Taken over"}),
    ("DELETE", "/experiments/{e}", None),
    *(("POST", f"/experiments/{{e}}/{move}", None) for move in ("start", "pause", "resume", "complete", "archive")),
    ("GET", "/experiments/{e}/assignment/u", None),
    ("GET", "/experiments/{e}/assignment/u?enroll=0", None),
    ("POST", "/assignments", {"experiment": "{e}", "user_id": "u"}),
    ("POST", "/assignments/bulk", {"experiment": "{e}", "user_ids": ["u"]}),
    ("GET", "/experiments/{e}/assignments", None),
    (
        *("POST", "/experiments/{e}/assignments/import"),
        {"assignments": [{"user_id": "w", "variant": "v1", "assigned_at": "2026-01-01T00:00:00Z"}]},
    ),
    ("PUT", "/experiments/{e}/overrides/u", {"variant": "v1"}),
    ("DELETE", "/experiments/{e}/overrides/u", None),
    ("GET", "/experiments/{e}/results", None),
    ("POST", "/events", {"user_id": "u", "event_type": "x", "experiment_id": "{e}"}),
]


@pytest.mark.parametrize("named", ["id", "key"])
def test_project__experiment_of_another__does_not_exist_on_any_path(
    make_tenant: Callable[[], Tenant], named: str
) -> None:
    owner, other = make_tenant(), make_tenant()
    experiment = make_experiment(owner.client)
    reference = str(experiment[named])
    for method, path, body in _CALLS:
        sent = {key: reference if value == "{e}" else value for key, value in (body or {}).items()}
        response = other.client.request(method, path.format(e=reference), json=sent or None)
        expect_problem(response, 404)
    bulk = {"user_id": "u", "experiment_ids": [reference]}
    (item,) = other.client.post("/assignments/bulk", json=bulk).json()["assignments"]
    assert item["error"]["status"] == 404
    batch = {"events": [event_body(experiment_id=reference), event_body()]}
    answer = other.client.post("/events/batch", json=batch).json()
    assert [error["code"] for error in answer["errors"]] == ["UNKNOWN_EXPERIMENT"]
    assert other.client.post("/assignments/bulk", json={"user_id": "u"}).json() == {"assignments": []}
    assert other.client.get("/experiments").json()["items"] == []
    assert owner.client.get(f"/experiments/{experiment['id']}").json() == experiment
    assert walk(owner.client, f"/experiments/{experiment['id']}/assignments") == []


def test_project__same_key_and_user__are_two_experiments_and_two_users(make_tenant: Callable[[], Tenant]) -> None:
    first, second = make_tenant(), make_tenant()
    key = unique("same")
    experiments = [
        make_experiment(tenant.client, *shares, key=key) for tenant, shares in ((first, (100, 0)), (second, (0, 100)))
    ]
    answers = [
        ask(tenant.client, experiment, "u") for tenant, experiment in zip((first, second), experiments, strict=True)
    ]
    assert [item["reason"] for item in answers] == ["NEW_ASSIGNMENT", "NEW_ASSIGNMENT"]
    assert [item["variant"]["key"] for item in answers] == ["v0", "v1"]
    event = event_body(event_id=str(uuid4()))
    assert [tenant.client.post("/events", json=event).status_code for tenant in (first, second)] == [201, 201]


def test_project__tokens_and_audit_of_another__are_out_of_reach(
    make_tenant: Callable[[], Tenant], client: httpx.Client, make_token: Callable[..., Json]
) -> None:
    owner, other = make_tenant(), make_tenant()
    everywhere = make_token("events", project="*")
    make_experiment(owner.client)
    assert [item["id"] for item in walk(other.client, "/tokens")] == [other.token["id"]]
    for token_id in (owner.token["id"], everywhere["id"]):
        expect_problem(other.client.delete(f"/tokens/{token_id}"), 404)
    assert owner.client.get("/experiments").status_code == 200
    assert all("experiment" not in item["subject"] for item in walk(other.client, "/audit"))
    assert [item["key"] for item in other.client.get("/projects").json()["items"]] == [other.key]
    assert {item["key"] for item in walk(client, "/projects")} >= {owner.key, other.key, "default"}


def test_project__token_of_one__cannot_reach_beyond_it(make_tenant: Callable[[], Tenant]) -> None:
    owner, other = make_tenant(), make_tenant()
    for project in (owner.key, "default", unique("none")):
        response = other.client.get("/experiments", headers={"X-Project": project})
        expect_problem(response, 403)
        response = other.client.post("/events", json=event_body(), headers={"X-Project": project})
        expect_problem(response, 403)
    assert other.client.get("/experiments", headers={"X-Project": other.key}).status_code == 200
    for project in (owner.key, "*"):
        body = {"name": "t", "scopes": ["events"], "project": project}
        expect_problem(other.client.post("/tokens", json=body), 403)
    expect_problem(other.client.post("/projects", json={"key": unique("p"), "name": "P"}), 403)
    made = other.client.post("/tokens", json={"name": "t", "scopes": ["events"]}).json()
    assert made["project"] == other.key


def test_project__chosen_by_header__is_the_one_that_is_used(
    make_tenant: Callable[[], Tenant], client: httpx.Client
) -> None:
    tenant = make_tenant()
    body = experiment_body()
    assert client.post("/experiments", json=body, headers={"X-Project": tenant.key}).status_code == 201
    assert tenant.client.get(f"/experiments/{body['key']}").status_code == 200
    expect_problem(client.get(f"/experiments/{body['key']}"), 404)
    expect_problem(client.get("/experiments", headers={"X-Project": unique("none")}), 404)
    expect_problem(client.post("/events", json=event_body(), headers={"X-Project": unique("none")}), 404)


def test_project__key_taken__is_409(client: httpx.Client, make_project: Callable[[], str]) -> None:
    expect_problem(client.post("/projects", json={"key": make_project(), "name": "Again"}), 409)
    expect_problem(client.post("/projects", json={"key": "default", "name": "Again"}), 409)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"key": "A"}, "key"), ({"key": ""}, "key"), ({"key": "*"}, "key"), ({"name": ""}, "name"), ({"x": 1}, "x")],
)
def test_project__wrong_field__is_422(client: httpx.Client, change: Json, field: str) -> None:
    body = {"key": unique("p"), "name": "P", **change}
    expect_problem(client.post("/projects", json=body), 422, field=field)
