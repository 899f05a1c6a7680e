"""How the pipeline stands, for administrators."""

from collections.abc import Callable

import httpx
import pytest

from tests.conftest import MakeClient
from tests.factories import Json, event_body, unique
from tests.service_process import ServiceProcess, wait_until

PATH = "/system/pipeline"


def test_pipeline__relay_running__says_how_far_it_is(client: httpx.Client) -> None:
    client.post("/events", json=event_body(user_id=unique("user"))).raise_for_status()
    wait_until(lambda: client.get(PATH).json()["watermark"] is not None, "the history is proven")

    found = client.get(PATH).raise_for_status().json()

    assert found["mode"] == "relay"
    assert found["clickhouse"] == {"reachable": True}
    assert 0 <= found["watermark_lag_seconds"] < 60
    assert found["outbox"]["backlog_rows"] >= 0
    assert found["outbox"]["oldest_age_seconds"] >= 0
    assert found["outbox"]["partitions"]["default_rows"] == 0
    assert found["events"]["partitions"]["count"] >= 4
    assert found["events"]["kept_since"] is None
    assert found["dead_letters"] == {"count": 0, "newest_at": None, "where": "table dead_letters of ClickHouse"}
    assert found["reconciliation"]["proven"]
    assert found["reconciliation"]["open_mismatches"] == 0
    assert found["reconciliation"]["hours"] == []
    assert found["slot"] is None
    assert found["consumer_lag"] is None
    assert found["reasons"] == {
        "slot": "there is no replication slot",
        "consumer_lag": "Kafka is not used",
    }


@pytest.mark.parametrize("scope", ["results", "experiments:write"])
def test_pipeline__token_without_admin__is_forbidden(
    service: ServiceProcess, client_of: MakeClient, make_token: Callable[..., Json], scope: str
) -> None:
    weak = client_of(service, token=make_token(scope)["token"])

    assert weak.get(PATH).status_code == 403


def test_pipeline__no_token__is_unauthenticated(service: ServiceProcess, client_of: MakeClient) -> None:
    assert client_of(service, token=None).get(PATH).status_code == 401


def test_pipeline__in_openapi__is_described(root: httpx.Client) -> None:
    document = root.get("/api/v1/openapi.json").json()

    answer = document["paths"]["/api/v1/system/pipeline"]["get"]["responses"]["200"]
    schema = answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert set(document["components"]["schemas"][schema]["required"]) >= {"mode", "watermark", "slot", "reasons"}
