"""The embedded engine's folder is deleted: the service fills it again, also with what the outbox no longer holds."""

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.factories import event_body, make_experiment
from tests.service_process import ServiceProcess, running_service, wait_until, without_origin

pytestmark = pytest.mark.timeout(300)

USERS = 40


def test_service__history_deleted__claims_nothing_until_every_row_is_back(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_service(data, RECONCILE_SECONDS="1") as service, _client(service) as client:
        experiment = make_experiment(client)
        for number in range(USERS):
            client.get(f"/experiments/{experiment['key']}/assignment/user-{number}").raise_for_status()
            client.post("/events", json=event_body(user_id=f"user-{number}", value=number / 7)).raise_for_status()
        forced = f"/experiments/{experiment['key']}/overrides/user-0"
        client.put(forced, json={"variant": experiment["variants"][1]["key"]}).raise_for_status()
        hot = _results(client, experiment, "hot").json()
        wait_until(lambda: _results(client, experiment, "cold").status_code == 200, "the history is complete")
        wait_until(lambda: _told(_results(client, experiment, "cold")) == _told(hot), "cold tells the same")
        # As after OUTBOX_RETENTION_DAYS.
        service.rows("DELETE FROM outbox_events")
    shutil.rmtree(data / "clickhouse")

    with running_service(data, RECONCILE_SECONDS="1") as service, _client(service) as client:
        # Whatever it answers from the history is whole; before that it answers nothing from there.
        assert _results(client, experiment, "cold").status_code == 503
        assert _told(_results(client, experiment, "auto")) == _told(hot)
        wait_until(lambda: _results(client, experiment, "cold").status_code == 200, "the history is complete")
        assert _told(_results(client, experiment, "cold")) == _told(hot)
        status = client.get("/system/pipeline").raise_for_status().json()
        assert status["reconciliation"]["proven"]
        assert status["reconciliation"]["open_mismatches"] == 0


def _client(service: ServiceProcess) -> httpx.Client:
    client = service.client()
    client.base_url = httpx.URL(f"{service.url}/api/v1")
    return client


def _results(client: httpx.Client, experiment: dict[str, Any], source: str) -> httpx.Response:
    metrics = ["conversion_rate", "value_per_user"]
    parameters: dict[str, Any] = {"source": source, "fresh": True, "metrics": metrics}
    return client.get(f"/experiments/{experiment['key']}/results", params=parameters)


def _told(answer: httpx.Response | dict[str, Any]) -> dict[str, Any]:
    """Return what an answer says, without where it comes from."""
    body: dict[str, Any] = answer if isinstance(answer, dict) else answer.raise_for_status().json()
    return without_origin(body)
