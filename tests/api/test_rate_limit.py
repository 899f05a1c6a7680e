"""Token buckets: one for management, one for traffic, one for strangers."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.conftest import MakeClient, shared_stores
from tests.factories import Json, event_body, expect_problem, make_experiment
from tests.service_process import ServiceProcess, running_service

pytestmark = pytest.mark.xdist_group("rate-limit")

_MANAGEMENT, _TRAFFIC, _PERIOD_S = 6, 9, 600
_METRICS_TOKEN = "metrics-token"


@pytest.fixture(scope="module")
def limited(service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    environment = {
        "RATE_LIMIT_ENABLED": "true",
        "RATE_LIMIT_REQUESTS": str(_MANAGEMENT),
        "RATE_LIMIT_PERIOD": str(_PERIOD_S),
        "TRAFFIC_RATE_LIMIT_REQUESTS": str(_TRAFFIC),
        "TRAFFIC_RATE_LIMIT_PERIOD": str(_PERIOD_S),
        "METRICS_TOKEN": _METRICS_TOKEN,
    }
    with running_service(
        tmp_path_factory.mktemp("limited") / "data", **shared_stores(service), **environment
    ) as running:
        yield running


@pytest.fixture
def make_limited_client(
    limited: ServiceProcess, client_of: MakeClient, make_token: Callable[..., Json]
) -> Callable[[], httpx.Client]:
    return lambda: client_of(limited, token=make_token("admin")["token"])


def _expect_429(response: httpx.Response, capacity: int) -> None:
    expect_problem(response, 429)
    assert response.headers["retry-after"].isdecimal()
    # One request comes back each period / capacity seconds.
    assert 1 <= int(response.headers["retry-after"]) <= _PERIOD_S / capacity + 1


def test_limit__management_used_up__is_429_with_whole_seconds(make_limited_client: Callable[[], httpx.Client]) -> None:
    client = make_limited_client()
    assert [client.get("/experiments?limit=1").status_code for _ in range(_MANAGEMENT)] == [200] * _MANAGEMENT
    for _ in range(3):
        _expect_429(client.get("/experiments?limit=1"), _MANAGEMENT)


def test_limit__traffic_and_management__have_buckets_of_their_own(
    make_limited_client: Callable[[], httpx.Client], client: httpx.Client
) -> None:
    limited_client = make_limited_client()
    experiment = make_experiment(client)
    path = f"/experiments/{experiment['id']}/assignment/u"
    for _ in range(_MANAGEMENT):
        limited_client.get("/experiments?limit=1")
    _expect_429(limited_client.get("/experiments?limit=1"), _MANAGEMENT)
    row = {"user_id": "w", "variant": "v1", "assigned_at": "2026-01-01T00:00:00Z"}
    statuses = [
        limited_client.get(path).status_code,
        limited_client.get(f"{path}?enroll=0").status_code,
        limited_client.post("/assignments", json={"experiment": experiment["id"], "user_id": "u"}).status_code,
        limited_client.post("/assignments/bulk", json={"user_id": "u"}).status_code,
        limited_client.post("/events", json=event_body()).status_code,
        limited_client.post("/events/batch", json={"events": [event_body()]}).status_code,
        limited_client.put(f"/experiments/{experiment['id']}/overrides/u", json={"variant": "v1"}).status_code,
        limited_client.post(
            f"/experiments/{experiment['id']}/assignments/import", json={"assignments": [row]}
        ).status_code,
        limited_client.post("/events", json={}).status_code,
    ]
    assert statuses == [200, 200, 200, 200, 201, 200, 200, 200, 422]
    assert len(statuses) == _TRAFFIC
    _expect_429(limited_client.get(path), _TRAFFIC)
    _expect_429(limited_client.post("/events", json=event_body()), _TRAFFIC)
    _expect_429(limited_client.post("/events/batch", json={"events": [event_body()]}), _TRAFFIC)


def test_limit__one_client_used_up__does_not_slow_another(make_limited_client: Callable[[], httpx.Client]) -> None:
    busy, calm = make_limited_client(), make_limited_client()
    for _ in range(_MANAGEMENT + 2):
        busy.get("/experiments?limit=1")
    assert calm.get("/experiments?limit=1").status_code == 200


def test_limit__invalid_tokens__are_limited_by_address_and_leave_good_ones_alone(
    limited: ServiceProcess, make_limited_client: Callable[[], httpx.Client]
) -> None:
    with httpx.Client(base_url=f"{limited.url}/api/v1") as stranger:
        statuses = [
            stranger.get("/experiments", headers={"Authorization": f"Bearer guess-{index}"}).status_code
            for index in range(_MANAGEMENT + 3)
        ]
        assert statuses == [401] * _MANAGEMENT + [429] * 3
        _expect_429(stranger.get("/experiments"), _MANAGEMENT)
        _expect_429(stranger.post("/events", json=event_body()), _MANAGEMENT)
    assert make_limited_client().get("/experiments?limit=1").status_code == 200


def test_limit__open_paths__have_none(limited: ServiceProcess) -> None:
    with httpx.Client(base_url=limited.url) as root:
        for path in ("/health", "/ready", "/api/v1/openapi.json"):
            assert {root.get(path).status_code for _ in range(_MANAGEMENT + 2)} == {200}


def test_limit__refused_for_its_scope__costs_a_request_too(
    limited: ServiceProcess, client_of: MakeClient, make_token: Callable[..., Json]
) -> None:
    client = client_of(limited, token=make_token("events")["token"])
    statuses = [client.get("/experiments").status_code for _ in range(_MANAGEMENT + 1)]
    assert statuses == [403] * _MANAGEMENT + [429]


@pytest.mark.parametrize(
    ("authorization", "status"),
    [(None, 401), ("Bearer wrong", 401), (_METRICS_TOKEN, 401), (f"Bearer {_METRICS_TOKEN}", 200)],
)
def test_metrics__with_a_token_set__need_it(limited: ServiceProcess, authorization: str | None, status: int) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    response = httpx.get(f"{limited.url}/metrics", headers=headers)
    assert response.status_code == status
    if status == 401:
        expect_problem(response, 401)
