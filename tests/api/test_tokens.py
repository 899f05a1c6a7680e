"""Tokens: made, listed, revoked, expired; and what each scope opens."""

import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.conftest import MakeClient
from tests.factories import Json, expect_problem, make_experiment, unique, walk
from tests.service_process import ServiceProcess

_SCOPES = ("experiments:read", "experiments:write", "assignments", "events", "results", "admin")
_INCLUDED = {"experiments:write": {"experiments:read"}, "admin": set(_SCOPES)}
# What each operation needs; paths of later additions belong here, too. `~` is one experiment.
_OPERATIONS = {
    "experiments:read": "get /experiments, get ~, get ~/plan, get ~/metrics, get /metrics, get /metrics/{metric},"
    " get /metrics/{metric}/versions",
    "experiments:write": "post /experiments, patch ~, delete ~, post ~/start, post ~/pause, post ~/resume,"
    " post ~/complete, post ~/archive, post ~/assignments/import, post ~/metrics, delete ~/metrics/{metric},"
    " post /metrics, patch /metrics/{metric}, delete /metrics/{metric}, put ~/overrides/{user_id},"
    " delete ~/overrides/{user_id}",
    "assignments": "get ~/assignment/{user_id}, post /assignments, post /assignments/bulk",
    "events": "post /events, post /events/batch",
    "results": "get ~/assignments, get ~/results, get ~/results/{answer_id}, get ~/diagnosis, post ~/query/explain,"
    " get ~/report, post ~/calibrations, get ~/calibrations, get ~/calibrations/{calibration_id},"
    " post ~/calibrations/{calibration_id}/cancel, get ~/export, post /power",
    "admin": "post /tokens, get /tokens, delete /tokens/{token_id}, post /projects, get /projects, get /audit,"
    " get /audit/verify, get /system/pipeline",
}
_NEEDS = {
    (method, path.replace("~", "/experiments/{experiment}")): scope
    for scope, operations in _OPERATIONS.items()
    for method, path in (operation.split() for operation in operations.split(", "))
}


def _documented(client: httpx.Client) -> set[tuple[str, str]]:
    paths = client.get("/openapi.json").json()["paths"]
    return {
        (method, path.removeprefix("/api/v1"))
        for path, methods in paths.items()
        if path.startswith("/api/v1/")
        for method in methods
    }


def _call(client: httpx.Client, method: str, path: str, token: str | None) -> httpx.Response:
    """Call an operation in a way that changes nothing, whoever calls."""
    path = path.format(
        experiment="no-such-experiment",
        metric="no-such-metric",
        user_id="u",
        token_id=999_999_999,
        answer_id="00000000-0000-0000-0000-000000000000",
        calibration_id="00000000-0000-0000-0000-000000000000",
    )
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    return client.request(method, path, headers=headers, json={} if method in {"post", "put", "patch"} else None)


@pytest.fixture(scope="module")
def token_with(make_token: Callable[..., Json]) -> dict[str, str]:
    """One token for each scope, with that scope alone."""
    return {scope: make_token(scope)["token"] for scope in _SCOPES}


@pytest.fixture(scope="module")
def stranger(service: ServiceProcess, client_of: MakeClient) -> httpx.Client:
    return client_of(service, token=None)


def test_scopes__every_documented_operation__is_in_this_files_table(client: httpx.Client) -> None:
    assert _documented(client) <= set(_NEEDS)


@pytest.mark.parametrize(("method", "path"), _NEEDS)
def test_scopes__every_operation_with_every_scope__opens_to_those_alone_that_cover_it(
    stranger: httpx.Client, token_with: dict[str, str], method: str, path: str
) -> None:
    if (method, path) not in _documented(stranger):
        return  # Another test says what is missing.
    for scope in _SCOPES:
        response = _call(stranger, method, path, token_with[scope])
        if _NEEDS[method, path] in {scope} | _INCLUDED.get(scope, set()):
            assert response.status_code not in {401, 403}, (scope, response.text)
            assert response.status_code < 500, (scope, response.text)
        else:
            expect_problem(response, 403)
    for wrong in (None, "nonsense", "exp_" + "x" * 43, token_with["admin"][:-1], token_with["admin"] + "x"):
        expect_problem(_call(stranger, method, path, wrong), 401)


def test_scopes__several_together__open_what_each_of_them_opens(
    stranger: httpx.Client, make_token: Callable[..., Json]
) -> None:
    token = make_token("events", "results")["token"]
    assert _call(stranger, "post", "/events", token).status_code == 422
    assert _call(stranger, "get", "/experiments/{experiment}/assignments", token).status_code == 404
    expect_problem(_call(stranger, "get", "/experiments", token), 403)


def test_token__made__is_shown_once_and_kept_as_a_hash(
    client: httpx.Client, service: ServiceProcess, make_token: Callable[..., Json]
) -> None:
    made = make_token("events", "results", expires_at="2031-01-01T00:00:00Z")
    assert (made["scopes"], made["expires_at"], made["revoked_at"]) == (
        ["events", "results"],
        "2031-01-01T00:00:00Z",
        None,
    )
    listed = client.get("/tokens", params={"limit": 200})
    assert made["token"] not in listed.text
    (item,) = [item for item in listed.json()["items"] if item["id"] == made["id"]]
    assert item == {key: value for key, value in made.items() if key != "token"}
    (row,) = service.rows("SELECT * FROM api_tokens WHERE id = $1", made["id"])
    assert row["token_hash"] == hashlib.sha256(made["token"].encode()).digest()
    assert made["token"] not in str(row)
    assert made["token"] not in service.said()


def test_token__scope_named_twice__has_it_once(make_token: Callable[..., Json]) -> None:
    assert make_token("results", "events", "results", "events")["scopes"] == ["results", "events"]


def test_tokens__listed__come_newest_first_each_once(client: httpx.Client, make_token: Callable[..., Json]) -> None:
    made = [make_token("events")["id"] for _ in range(5)]
    listed = [item["id"] for item in walk(client, "/tokens", limit=2)]
    assert listed[:5] == made[::-1]
    assert listed == sorted(set(listed), reverse=True)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        *(
            ({"name": None}, "name"),
            ({"name": ""}, "name"),
            ({"name": "  "}, "name"),
            ({"name": "x" * 201}, "name"),
            ({"name": "a\n"}, "name"),
        ),
        *(({"scopes": []}, "scopes"), ({"scopes": None}, "scopes"), ({"scopes": ["all"]}, "scopes.0")),
        *(({"scopes": "events"}, "scopes"), ({"scopes": ["events", 1]}, "scopes.1"), ({"token": "mine"}, "token")),
        *(
            ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
            ({"expires_at": "2031-01-01T00:00:00"}, "expires_at"),
        ),
        *(({"expires_at": 1_900_000_000}, "expires_at"), ({"project": "A"}, "project"), ({"project": ""}, "project")),
    ],
)
def test_token__wrong_field__is_422(client: httpx.Client, change: Json, field: str) -> None:
    body = {"name": "t", "scopes": ["events"], **change}
    expect_problem(client.post("/tokens", json=body), 422, field=field)


def test_token__of_an_unknown_project__is_404(client: httpx.Client) -> None:
    body = {"name": "t", "scopes": ["events"], "project": unique("none")}
    expect_problem(client.post("/tokens", json=body), 404)


def test_token__revoked__is_refused_at_once_on_every_kind_of_path(
    client: httpx.Client, stranger: httpx.Client, make_token: Callable[..., Json]
) -> None:
    experiment = make_experiment(client)
    made = make_token("admin")
    headers = {"Authorization": f"Bearer {made['token']}"}
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/experiments?limit=1", {}),
        ("GET", f"/experiments/{experiment['key']}/assignment/u", {}),
        ("POST", "/events", {"json": {"user_id": "u", "event_type": "x"}}),
        ("POST", "/events/batch", {"json": {"events": [{"user_id": "u", "event_type": "x"}]}}),
    ]
    for method, path, options in calls:
        assert stranger.request(method, path, headers=headers, **options).status_code in {200, 201}
    revoked = client.delete(f"/tokens/{made['id']}")
    assert (revoked.status_code, revoked.content) == (204, b"")
    for method, path, options in calls:
        expect_problem(stranger.request(method, path, headers=headers, **options), 401)
    (item,) = [item for item in walk(client, "/tokens", limit=200) if item["id"] == made["id"]]
    assert item["revoked_at"] is not None
    assert client.delete(f"/tokens/{made['id']}").status_code == 204
    (again,) = [item for item in walk(client, "/tokens", limit=200) if item["id"] == made["id"]]
    assert again["revoked_at"] == item["revoked_at"]


@pytest.mark.parametrize(("token_id", "status"), [("999999999", 404), ("0", 422), ("x", 422), ("9" * 30, 422)])
def test_token__unknown__cannot_be_revoked(client: httpx.Client, token_id: str, status: int) -> None:
    expect_problem(client.delete(f"/tokens/{token_id}"), status)


@pytest.mark.parametrize("spelling", ["{}.0", "+{}", "%2B{}", "0{}", "{}%20", "%20{}", "{}_"])
def test_token__id_in_another_spelling__revokes_nothing(
    client: httpx.Client, make_token: Callable[..., Json], spelling: str
) -> None:
    made = make_token("admin")

    expect_problem(client.delete(f"/tokens/{spelling.format(made['id'])}"), 422, field="token_id")

    (item,) = [item for item in walk(client, "/tokens", limit=200) if item["id"] == made["id"]]
    assert item["revoked_at"] is None


def test_token__revoking_itself__is_refused_afterwards(stranger: httpx.Client, make_token: Callable[..., Json]) -> None:
    made = make_token("admin")
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert stranger.delete(f"/tokens/{made['id']}", headers=headers).status_code == 204
    expect_problem(stranger.get("/tokens", headers=headers), 401)


def test_token__past_its_expiry__is_refused(stranger: httpx.Client, make_token: Callable[..., Json]) -> None:
    expires_at = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    made = make_token("events", expires_at=expires_at)
    headers = {"Authorization": f"Bearer {made['token']}"}
    body = {"user_id": "u", "event_type": "x"}
    assert stranger.post("/events", json=body, headers=headers).status_code == 201
    time.sleep(1.1)
    for content_type in ("application/json", "application/json; charset=utf-8"):
        response = stranger.post("/events", json=body, headers={**headers, "Content-Type": content_type})
        expect_problem(response, 401)
