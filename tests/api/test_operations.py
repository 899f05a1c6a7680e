"""Health, readiness, metrics, the schema and its UI."""

import re
import socket

import httpx
import pytest

from tests.factories import expect_problem, make_experiment

# The contract's table, and what came to it.
_CONTRACT = {
    "/experiments": {"post", "get"},
    "/experiments/{experiment}": {"get", "patch", "delete"},
    **{f"/experiments/{{experiment}}/{move}": {"post"} for move in ("start", "pause", "resume", "complete", "archive")},
    "/experiments/{experiment}/assignment/{user_id}": {"get"},
    "/experiments/{experiment}/plan": {"get"},
    "/experiments/{experiment}/metrics": {"get", "post"},
    "/experiments/{experiment}/metrics/{metric}": {"delete"},
    "/metrics": {"get", "post"},
    "/metrics/{metric}": {"get", "patch", "delete"},
    "/metrics/{metric}/versions": {"get"},
    "/assignments": {"post"},
    "/assignments/bulk": {"post"},
    "/experiments/{experiment}/assignments": {"get"},
    "/experiments/{experiment}/assignments/import": {"post"},
    "/experiments/{experiment}/overrides/{user_id}": {"put", "delete"},
    "/events": {"post"},
    "/events/batch": {"post"},
    "/experiments/{experiment}/results": {"get"},
    "/experiments/{experiment}/results/{answer_id}": {"get"},
    "/experiments/{experiment}/diagnosis": {"get"},
    "/experiments/{experiment}/query/explain": {"post"},
    "/experiments/{experiment}/report": {"get"},
    "/experiments/{experiment}/calibrations": {"post", "get"},
    "/experiments/{experiment}/calibrations/{calibration_id}": {"get"},
    "/experiments/{experiment}/calibrations/{calibration_id}/cancel": {"post"},
    "/experiments/{experiment}/export": {"get"},
    "/power": {"post"},
    "/tokens": {"post", "get"},
    "/tokens/{id}": {"delete"},
}


def test_health__without_token__is_ok(root: httpx.Client) -> None:
    response = root.get("/health")
    assert (response.status_code, response.json()["status"]) == (200, "ok")
    assert response.headers["x-request-id"]


def test_ready__all_servers_up__says_so_for_each(root: httpx.Client) -> None:
    response = root.get("/ready")
    assert response.status_code == 200
    assert set(response.json()["checks"].values()) == {"ok"}


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes__by_head__answer_as_by_get_without_a_body(root: httpx.Client, path: str) -> None:
    response = root.head(path)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == root.get(path).headers["content-length"]


@pytest.mark.parametrize(
    "sent",
    [
        "GET /api/v1/experiments?q=jürgen HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        "FOO /health HTTP/1.1\r\nHost: x\r\n\r\n",
        "nonsense\r\n\r\n",
    ],
)
def test_request__that_is_no_http__is_answered_with_a_problem_and_closed(root: httpx.Client, sent: str) -> None:
    with socket.create_connection((root.base_url.host, root.base_url.port or 80), timeout=10) as connection:
        connection.sendall(sent.encode())
        received = b"".join(iter(lambda: connection.recv(65_536), b""))

    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = httpx.Headers(dict(line.split(": ", 1) for line in lines))
    assert status == "HTTP/1.1 400 Bad Request"
    assert int(headers["content-length"]) == len(body)
    problem = expect_problem(httpx.Response(400, headers=headers, content=body), 400)
    assert problem["type"].endswith(":malformed-request")
    assert root.get("/health").status_code == 200


def test_metrics__after_requests__count_them_by_route_and_name_no_user(
    root: httpx.Client, client: httpx.Client
) -> None:
    experiment = make_experiment(client)
    client.get(f"/experiments/{experiment['key']}/assignment/secret-person")
    client.get("/no-such-path-secret")
    text = root.get("/metrics").text
    assert re.search(r'http_requests_total\{method="GET",route="/api/v1/experiments/\{experiment\}/assignment', text)
    assert "secret" not in text
    assert experiment["key"] not in text


def test_docs__without_token__need_no_other_server(root: httpx.Client) -> None:
    page = root.get("/api/v1/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"(https?:)?//[a-z0-9]", page.text)
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert assets
    for asset in assets:
        answer = root.get(asset)
        assert (answer.status_code, bool(answer.content)) == (200, True), asset
    assert "/api/v1/openapi.json" in page.text


def test_openapi__without_token__documents_every_path_of_the_contract(root: httpx.Client) -> None:
    response = root.get("/api/v1/openapi.json")
    assert response.status_code == 200
    documented = {
        re.sub(r"\{token_id\}", "{id}", path.removeprefix("/api/v1")): set(methods)
        for path, methods in response.json()["paths"].items()
        if path.startswith("/api/v1/")  # Beside them is the /metrics of Prometheus.
    }
    missing = {path: methods for path, methods in _CONTRACT.items() if not methods <= documented.get(path, set())}
    assert missing == {}


def test_openapi__every_operation__documents_its_errors_as_problems(root: httpx.Client) -> None:
    document = root.get("/api/v1/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not path.startswith("/api/v1/"):
                continue
            where = f"{method} {path}"
            assert operation["responses"].keys() >= {"401", "403", "422", "429"}, where
            for status, answer in operation["responses"].items():
                if status >= "400":
                    assert set(answer["content"]) == {"application/problem+json"}, where
            assert operation["security"], where


def test_openapi__references__lead_somewhere(root: httpx.Client) -> None:
    text = root.get("/api/v1/openapi.json").text
    schemas = root.get("/api/v1/openapi.json").json()["components"]["schemas"]
    for name in set(re.findall(r'"#/components/schemas/([^"]+)"', text)):
        assert name in schemas


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/api/v1/docs", "/api/v1/openapi.json"])
def test_open_paths__with_a_wrong_token__answer_all_the_same(root: httpx.Client, path: str) -> None:
    assert root.get(path, headers={"Authorization": "Bearer nonsense"}).status_code == 200
