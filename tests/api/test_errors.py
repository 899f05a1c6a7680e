"""Every error is a complete problem, and every answer carries a request id."""

import json
import re
from typing import Any

import httpx
import pytest

from tests.conftest import MakeClient
from tests.factories import Json, event_body, expect_problem, experiment_body, make_experiment, unique
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


def test_query__parameter_given_twice__is_422_on_every_path_that_takes_one_value(
    client: httpx.Client, root: httpx.Client, key: str
) -> None:
    document = root.get("/api/v1/openapi.json").json()
    tried = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] != "query" or not path.startswith("/api/v1/"):
                    continue
                name, is_list = parameter["name"], parameter["schema"].get("type") == "array"
                there = re.sub(r"\{[^}]*\}", "1", path.replace("{experiment}", key)).removeprefix("/api/v1")
                response = client.request(method, f"{there}?{name}=1&{name}=1")
                refused = response.status_code == 422 and f"{name}: is given 2 times" in response.json()["detail"]
                assert refused is not is_list, f"{method} {path} {name}: {response.text[:300]}"
                tried += 1
    assert tried > 60


def test_query__parameter_given_twice__is_named_with_the_way_out(client: httpx.Client, key: str) -> None:
    path = f"/experiments/{key}/results?source=hot&source=cold&min_sample=1&min_sample=1&min_sample=2&metrics=avg_value"
    problem = expect_problem(client.get(f"{path}&metrics=p95_value"), 422)
    assert problem["errors"] == [
        {"field": "source", "detail": "is given 2 times, but has one value; give it once"},
        {"field": "min_sample", "detail": "is given 3 times, but has one value; give it once"},
    ]


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "-Infinity", "1e999"])
def test_query__number_that_is_not_finite__says_so_and_what_to_send(
    client: httpx.Client, root: httpx.Client, key: str, value: str
) -> None:
    operation = root.get("/api/v1/openapi.json").json()["paths"]["/api/v1/experiments/{experiment}/results"]["get"]
    numbers = [item["name"] for item in operation["parameters"] if '"number"' in json.dumps(item["schema"])]
    assert {"confidence_level", "prior_alpha", "prior_lift_std", "target_mde"} <= set(numbers)
    problem = expect_problem(client.get(f"/experiments/{key}/results", params=dict.fromkeys(numbers, value)), 422)
    assert sorted(error["field"] for error in problem["errors"]) == sorted(numbers)
    for error in problem["errors"]:
        assert re.match(r"must be a finite number, not (NaN|infinity); send a number (at|more|less)", error["detail"])


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/power", '{"baseline": 1e999, "mde_relative": 0.1, "power": 0.8}', "baseline"),
        ("/power", '{"baseline": 0.1, "mde_relative": 0.1, "power": -1e999}', "power"),
        ("/events", '{"user_id": "u", "event_type": "e", "value": 1e999}', "value"),
        ("/metrics", '{"key": "m", "kind": "sum", "cap": 1e999}', "cap"),
        ("/metrics", '{"key": "m", "kind": "sum", "winsorize": 1e999}', "winsorize"),
    ],
)
def test_body__number_that_is_not_finite__says_so(client: httpx.Client, path: str, body: str, field: str) -> None:
    problem = expect_problem(client.post(path, content=body, headers=_json()), 422, field=field)
    assert "must be a finite number, not infinity; send " in problem["detail"]


@pytest.mark.parametrize("blank", [" ", "\u3000\u00a0", "\u200b", "\u2800"])
@pytest.mark.parametrize(
    ("path", "fields", "field"),
    [
        ("/experiments", {"name": "_"}, "name"),
        ("/experiments", {"plan": {"hypothesis": "_"}}, "plan.hypothesis"),
        (
            "/experiments",
            {"population": {"exposure": "event", "exposure_event_type": "_"}},
            "population.exposure_event_type",
        ),
        ("/metrics", {"kind": "sum", "name": "_"}, "name"),
        ("/metrics", {"kind": "sum", "unit": "_"}, "unit"),
        ("/metrics", {"kind": "sum", "event_type": "_"}, "event_type"),
        ("/metrics", {"kind": "sum", "event_types": ["buy", "_"]}, "event_types.1"),
        ("/metrics", {"kind": "funnel", "steps": [{"event_type": "a"}, {"event_type": "_"}]}, "steps.1.event_type"),
        ("/metrics", {"kind": "ratio", "denominator": {"event_type": "_"}}, "denominator.event_type"),
        ("/tokens", {"name": "_", "scopes": ["events"]}, "name"),
        ("/projects", {"name": "_"}, "name"),
        ("/events", {"event_type": "_"}, "event_type"),
    ],
)
def test_text__of_blanks_alone__is_422(
    client: httpx.Client, path: str, fields: dict[str, Any], field: str, blank: str
) -> None:
    body = {"/experiments": experiment_body(), "/tokens": {}, "/events": {"user_id": " "}}.get(
        path, {"key": unique("blank")}
    )
    filled = json.loads(json.dumps({**body, **fields}).replace('"_"', json.dumps(blank)))
    problem = expect_problem(client.post(path, json=filled), 422, field=field)
    assert problem["errors"] == [{"field": field, "detail": "must not be blank; give at least one visible character"}]


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


_NO_REFERENCES = [
    *("0", "01", "007", "+1", "-1", "1.0", "1e0", "0x1", "%201", "1%20", "1%0A", "%D9%A1", "%EF%BC%91", "1_0"),
    *("9" * 19, "9" * 30, "9" * 31, "A", "a.b", "-a", "a" * 65, "%00", "..%2F1", "%F0%9F%98%80"),
]


@pytest.mark.parametrize("reference", _NO_REFERENCES)
def test_reference__that_nothing_can_have__is_404_on_every_path(client: httpx.Client, reference: str) -> None:
    """Experiment 1 and metric 1 are not there under other spellings of 1."""
    for path in ("", "/assignment/u", "/assignment/u?enroll=1", "/assignments", "/results", "/plan", "/calibrations"):
        problem = expect_problem(client.get(f"/experiments/{reference}{path}"), 404)
        # A slash makes it another path, which is not there either.
        assert problem["type"].endswith("experiment-not-found") or "%2F" in reference
    for path in ("start", "query/explain", "calibrations"):
        body: Json | None = None if path == "start" else {}
        expect_problem(client.post(f"/experiments/{reference}/{path}", json=body), 404)
    expect_problem(client.put(f"/experiments/{reference}/overrides/u", json={"variant": "v0"}), 404)
    expect_problem(client.get(f"/metrics/{reference}"), 404)
    expect_problem(client.patch(f"/metrics/{reference}", json={"name": "n"}), 404)


@pytest.mark.parametrize(
    ("path", "body", "field", "detail"),
    [
        ("/experiments", {"status": "Running"}, "status", "must be draft or running; the other states are reached"),
        ("/experiments", {"status": "paused"}, "status", "must be draft or running; the other states are reached"),
        ("/experiments", [], "body", "must be an object"),
        ("/experiments", {"plan": 7}, "plan", "must be an object"),
        ("/experiments", {"variants": []}, "variants", "must have at least 2 items, not 0"),
        ("/experiments", {"ends_at": "2026-01-31T12:00:00"}, "ends_at", "must have an offset, as in 2026-01-31T12:00"),
        ("/tokens", {}, "scopes", "is required"),
        (
            "/assignments/bulk",
            {"user_id": "u", "experiment_ids": ["e"] * 1001},
            "experiment_ids",
            "at most 1000 items, not",
        ),
        (
            "/assignments/bulk",
            {"user_id": "u", "experiment_ids": ["e" * 201]},
            "experiment_ids.0",
            "200 characters, not",
        ),
        ("/power", {"baseline": 0.1, "mde_relative": 0.1}, "power", "give exactly two of n_control, power and mde_"),
        ("/power", {"baseline": 0.1, "power": 0.01, "n_control": 9}, "power", "more than alpha"),
        ("/power", {"kind": "mean", "power": 0.8, "n_control": 9}, "std", "must be given when kind is mean"),
    ],
)
def test_body__wrong_in_a_field__names_it_in_the_callers_words(
    client: httpx.Client, path: str, body: Any, field: str, detail: str
) -> None:
    problem = expect_problem(client.post(path, json=body), 422, field=field)
    assert detail in next(error["detail"] for error in problem["errors"] if error["field"] == field)


def test_batch__row_that_is_no_object__is_named_in_the_callers_words(client: httpx.Client) -> None:
    (error,) = client.post("/events/batch", json={"events": [7]}).json()["errors"]
    assert error == {"index": 0, "code": "INVALID_FIELD", "detail": "body: must be an object"}


def test_query__mean_of_a_prior_without_its_deviation__is_refused(client: httpx.Client, key: str) -> None:
    path = f"/experiments/{key}/results"
    problem = expect_problem(client.get(f"{path}?prior_lift_mean=0.1"), 422, field="prior_lift_mean")
    assert "prior_lift_std" in problem["detail"]
    assert client.get(f"{path}?prior_lift_mean=0.1&prior_lift_std=0.2").status_code == 200


@pytest.mark.parametrize("path", ["/experiments/{e}/pause", "/experiments/{e}/archive", "/experiments/none/start"])
@pytest.mark.parametrize(
    ("content", "field"),
    [
        *(('{"reason": "holidays"}', "reason"), ("[1]", "body"), ("[[]]", "body"), ('"\\ud800"', "body")),
        *(('" "', "body"), ("7", "body"), ("0", "body"), ("false", "body")),
    ],
)
def test_body__where_none_is_taken__is_refused(
    client: httpx.Client, key: str, path: str, content: str, field: str
) -> None:
    problem = expect_problem(client.post(path.format(e=key), content=content), 422, field=field)
    assert "this path takes no body; remove it" in problem["detail"]


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        *(("x=1", "application/json", 400), ("{", "application/json", 400), ("NaN", None, 400)),
        *(("{}", "text/plain", 415), ("x=1", "application/x-www-form-urlencoded", 415)),
        (" " * (1024 * 1024 + 1), "application/json", 413),
    ],
    ids=["form", "cut", "NaN", "text", "form by its own account", "long"],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/pause"), ("DELETE", ""), ("DELETE", "/overrides/u")])
def test_body__that_is_no_json_where_none_is_taken__is_refused_as_everywhere(
    client: httpx.Client, key: str, method: str, path: str, content: str, media_type: str | None, status: int
) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    response = client.request(method, f"/experiments/{key}{path}", content=content, headers=headers)
    expect_problem(response, status)


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded"])
def test_body__of_no_length_where_none_is_taken__may_be_of_any_media_type(
    client: httpx.Client, media_type: str
) -> None:
    experiment = make_experiment(client)
    paused = client.post(f"/experiments/{experiment['id']}/pause", headers={"Content-Type": media_type})
    assert (paused.status_code, paused.json()["status"]) == (200, "paused")


@pytest.mark.parametrize("content", ["", " ", "{}", "null", "[]", '""', " [ ]\n"])
def test_body__that_says_nothing_where_none_is_taken__is_let_through(client: httpx.Client, content: str) -> None:
    experiment = make_experiment(client)
    paused = client.post(f"/experiments/{experiment['id']}/pause", content=content, headers=_json())
    assert (paused.status_code, paused.json()["status"]) == (200, "paused")
    removed = client.request("DELETE", f"/experiments/{experiment['id']}", content=content, headers=_json())
    expect_problem(removed, 409)
