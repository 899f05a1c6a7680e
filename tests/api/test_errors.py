"""Every error is a complete problem, and every answer carries a request id."""

from typing import Any

import httpx
import pytest

from tests.conftest import MakeClient
from tests.factories import event_body, expect_problem, experiment_body, make_experiment
from tests.service_process import ServiceProcess

_BODY_ROUTES = [
    *(("POST", "/experiments"), ("PATCH", "/experiments/{e}"), ("POST", "/assignments"), ("POST", "/assignments/bulk")),
    *(("POST", "/events"), ("POST", "/events/batch"), ("POST", "/tokens"), ("POST", "/projects")),
    *(("PUT", "/experiments/{e}/overrides/u"), ("POST", "/experiments/{e}/assignments/import")),
]


@pytest.fixture(scope="module")
def key(client: httpx.Client) -> str:
    return str(make_experiment(client)["key"])


def _json(**headers: str) -> dict[str, str]:
    return {"Content-Type": "application/json", **headers}


@pytest.mark.parametrize(("method", "path"), _BODY_ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        *(b"{", b"nothing", b"{'a': 1}", b'{"a": 1,}', b'{"a": NaN}', b"\xff\xfe{}", b'{"a": "\xff"}', b"{} {}"),
        b"[" * 100_000,
    ],
    ids=["cut", "word", "single quotes", "comma", "NaN", "UTF-16", "not UTF-8", "two values", "deep"],
)
def test_body__not_json__is_400(client: httpx.Client, key: str, method: str, path: str, body: bytes) -> None:
    expect_problem(client.request(method, path.format(e=key), content=body, headers=_json()), 400)


@pytest.mark.parametrize(("method", "path"), _BODY_ROUTES)
@pytest.mark.parametrize(
    "media_type",
    [
        *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml"),
        *("application/json; charset=latin-1", "text/json", "application/jsonp", "garbage", "application/json-seq"),
    ],
)
def test_body__another_media_type__is_415(
    client: httpx.Client, key: str, method: str, path: str, media_type: str
) -> None:
    response = client.request(method, path.format(e=key), content=b"{}", headers={"Content-Type": media_type})
    expect_problem(response, 415)


@pytest.mark.parametrize("media_type", ["application/json; charset=UTF-8", "Application/JSON", "application/json;v=1"])
def test_body__json_in_another_spelling__is_taken(client: httpx.Client, media_type: str) -> None:
    content = httpx.Request("POST", client.base_url, json=event_body()).content
    assert client.post("/events", content=content, headers={"Content-Type": media_type}).status_code == 201


@pytest.mark.parametrize(("method", "path"), _BODY_ROUTES)
@pytest.mark.parametrize("body", [b"[]", b"null", b"7", b'"text"', b"true"])
def test_body__json_but_no_object__is_422(client: httpx.Client, key: str, method: str, path: str, body: bytes) -> None:
    expect_problem(client.request(method, path.format(e=key), content=body, headers=_json()), 422)


@pytest.mark.parametrize(("method", "path"), _BODY_ROUTES)
def test_body__past_its_limit__is_413(client: httpx.Client, key: str, method: str, path: str) -> None:
    limit = 8 << 20 if path.endswith(("batch", "import", "bulk")) else 1 << 20
    body = b'{"x": "' + b"x" * (limit - 8) + b'"}'
    expect_problem(client.request(method, path.format(e=key), content=body, headers=_json()), 413)


@pytest.mark.parametrize(("method", "path"), [route for route in _BODY_ROUTES if route[0] != "PATCH"])
def test_query__unknown_parameter__is_422_also_beside_a_body(
    client: httpx.Client, key: str, method: str, path: str
) -> None:
    response = client.request(method, f"{path.format(e=key)}?verbose=1", json={})
    expect_problem(response, 422, field="verbose")


@pytest.mark.parametrize(
    "path",
    [
        *("/experiments/{e}", "/experiments/{e}/assignment/u", "/experiments/{e}/assignments", "/tokens", "/projects"),
        *("/experiments", "/experiments/{e}/results"),
    ],
)
def test_query__unknown_parameter__is_422(client: httpx.Client, key: str, path: str) -> None:
    expect_problem(client.get(f"{path.format(e=key)}?verbose=1"), 422, field="verbose")


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/v1", "/api/v1/", "/api/v1/nothing", "/api/v2/experiments", "/x%00y"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_path__unknown__is_404(root: httpx.Client, method: str, path: str) -> None:
    expect_problem(root.request(method, path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        *(("PUT", "/experiments", {"GET", "POST"}), ("POST", "/experiments/{e}", {"GET", "PATCH", "DELETE"})),
        *(("GET", "/events", {"POST"}), ("DELETE", "/events/batch", {"POST"}), ("GET", "/assignments", {"POST"})),
        *(("POST", "/experiments/{e}/assignment/u", {"GET"}), ("GET", "/experiments/{e}/start", {"POST"})),
        *(("POST", "/experiments/{e}/overrides/u", {"PUT", "DELETE"}), ("PATCH", "/tokens/1", {"DELETE"})),
    ],
)
def test_method__not_allowed__is_405_and_lists_all_that_are(
    client: httpx.Client, key: str, method: str, path: str, allowed: set[str]
) -> None:
    response = client.request(method, path.format(e=key))
    expect_problem(response, 405)
    listed = {name.strip() for name in response.headers["allow"].split(",")}
    assert listed - {"HEAD", "OPTIONS"} == allowed


@pytest.mark.parametrize(
    "headers",
    [
        *({}, {"Authorization": ""}, {"Authorization": "Bearer"}),
        *(
            {"Authorization": "Bearer nonsense"},
            {"Authorization": "Basic dTpw"},
            {"Authorization": "token-of-the-tests"},
        ),
        *({"Authorization": "Bearer \u00e9"}, {"Authorization": "Bearer a b"}),
        {"Authorization": "Bearer " + "x" * 5000},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", "/experiments"), ("GET", "/experiments/{e}/assignment/u"), ("POST", "/assignments")),
        *(("POST", "/events"), ("POST", "/events/batch"), ("GET", "/tokens"), ("GET", "/experiments/{e}/results")),
    ],
)
def test_token__missing_or_wrong__is_401(
    service: ServiceProcess, client_of: MakeClient, key: str, method: str, path: str, headers: dict[str, str]
) -> None:
    stranger = client_of(service, token=None)
    sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    expect_problem(stranger.request(method, path.format(e=key), headers=sent), 401)
    stranger.close()


@pytest.mark.parametrize("path", ["/events", "/events/batch", "/experiments"])
def test_token__beside_a_wrong_body__is_looked_at_first(
    service: ServiceProcess, client_of: MakeClient, path: str
) -> None:
    stranger = client_of(service, token=None)
    for body, headers in ((b"{", _json()), (b"x", {"Content-Type": "text/plain"}), (b"{}", _json())):
        expect_problem(stranger.post(path, content=body, headers=headers), 401)
    stranger.close()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_token__scheme_in_any_case__is_taken(
    service: ServiceProcess, client_of: MakeClient, client: httpx.Client, scheme: str
) -> None:
    stranger = client_of(service, token=None)
    token = client.headers["authorization"].partition(" ")[2]
    response = stranger.get("/experiments?limit=1", headers={"Authorization": f"{scheme} {token}"})
    assert response.status_code == 200
    stranger.close()


_ANSWERS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "200": ("GET", "/experiments/{e}", {}, 200),
    "200 of the fast lane": ("GET", "/experiments/{e}/assignment/u", {}, 200),
    "201": ("POST", "/experiments", {"json": experiment_body()}, 201),
    "201 of the fast lane": ("POST", "/events", {"json": event_body()}, 201),
    "400": ("POST", "/events", {"content": b"{", "headers": _json()}, 400),
    "401": ("GET", "/experiments", {"headers": {"Authorization": "Bearer no"}}, 401),
    "404": ("GET", "/experiments/none", {}, 404),
    "404 of the fast lane": ("GET", "/experiments/none/assignment/u", {}, 404),
    "404 route": ("GET", "/none", {}, 404),
    "405": ("PUT", "/events", {}, 405),
    "409": ("POST", "/experiments/{e}/start", {}, 409),
    "413": ("POST", "/events", {"content": b" " * (1 << 20) + b"{}", "headers": _json()}, 413),
    "415": ("POST", "/events", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
    "422": ("POST", "/events", {"json": {}}, 422),
}


@pytest.mark.parametrize("case", _ANSWERS)
def test_request_id__given__comes_back(client: httpx.Client, key: str, case: str) -> None:
    method, path, options, status = _ANSWERS[case]
    given = {**options.get("headers", {}), "X-Request-ID": "abc-123_ABC.9"}
    response = client.request(method, path.format(e=key), **{**options, "headers": given})
    assert response.headers.get_list("x-request-id") == ["abc-123_ABC.9"]
    if case != "201":
        assert response.status_code == status


@pytest.mark.parametrize("case", _ANSWERS)
def test_request_id__not_given__is_made_anew_each_time(client: httpx.Client, key: str, case: str) -> None:
    method, path, options, _ = _ANSWERS[case]
    made = {client.request(method, path.format(e=key), **options).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    assert all(made)


@pytest.mark.parametrize(
    "hostile",
    [b"", b"a b", b"a\tb", b"<script>", b"\xe9", b"\xff", b"x" * 200, b'"', b"a;b", b"a,b", b"${jndi}", b"%0a"],
)
def test_request_id__hostile__is_replaced(client: httpx.Client, hostile: bytes) -> None:
    response = client.get("/experiments?limit=1", headers={b"X-Request-ID": hostile})
    assert response.headers["x-request-id"].encode() != hostile
    assert response.headers["x-request-id"].isalnum()


def test_problem__of_many_wrong_fields__names_each_of_them(client: httpx.Client) -> None:
    body = experiment_body(name="", seed=":", traffic_pct=101, owner=1)
    problem = expect_problem(client.post("/experiments", json=body), 422)
    assert {error["field"] for error in problem["errors"]} == {"name", "seed", "traffic_pct", "owner"}


def test_query__of_a_path_that_takes_none__says_so(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    path = f"/experiments/{experiment['id']}/results/00000000-0000-0000-0000-000000000000"
    problem = expect_problem(client.get(path, params={"x": 1}), 422, field="x")
    assert "this path takes none" in problem["errors"][0]["detail"]
