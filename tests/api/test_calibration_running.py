"""Calibrations while they run: beside everything else, cancelled, and after whoever worked on them has ended."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
import pytest

from tests.api.calibrating import WITHIN_S, begin, calibrated, read, sold_to_many, until_ended
from tests.conftest import MakeClient
from tests.factories import Json, ask_many, expect_problem, make_experiment, unique
from tests.service_process import TOKEN, ServiceProcess, running_service, wait_until


@pytest.fixture(scope="module")
def sold(client: httpx.Client) -> Json:
    return sold_to_many(client)


def test_calibration__one_is_running__refuses_another_and_shows_it_from_any_process(
    client: httpx.Client, service: ServiceProcess, second_service: ServiceProcess, client_of: MakeClient, sold: Json
) -> None:
    elsewhere = client_of(second_service)
    begun = begin(client, sold, resplits=2500, metrics=["conversion_rate", "value_per_user", "avg_value"])
    held_up = _held_up(service)

    refused = client.post(f"/experiments/{sold['key']}/calibrations", json={})
    assert int(refused.headers["retry-after"]) > 0
    assert expect_problem(refused, 429)["type"].endswith("too-many-calibrations")
    assert read(elsewhere, begun)["status"] == "running"
    # The limit is one for each process.
    assert until_ended(elsewhere, begin(elsewhere, sold, resplits=100))["status"] == "done"
    assert read(elsewhere, begun)["status"] == "running"
    for helper in held_up:
        helper.resume()
    assert until_ended(elsewhere, begun)["result"] == read(client, begun)["result"]


def test_calibration__while_one_runs__assignment_is_as_quick_as_ever(client: httpx.Client, sold: Json) -> None:
    def took() -> float:
        started = time.perf_counter()
        client.get(f"/experiments/{sold['key']}/assignment/{unique('quick')}").raise_for_status()
        return time.perf_counter() - started

    before = [took() for _ in range(80)]
    begun = begin(client, sold, resplits=10_000, metrics=["conversion_rate", "value_per_user", "avg_value"])
    meanwhile: list[float] = []
    # However quick or slow the machine is, only what was asked while the calibration ran is counted.
    while len(meanwhile) < 80 and read(client, begun)["status"] == "running":
        meanwhile.append(took())
    _cancel(client, begun)

    # Its process alone takes longer to start than so many requests.
    assert len(meanwhile) >= 10
    # Machines that run tests have other things to do as well.
    assert _slowest_of_most(meanwhile) < max(20 * _slowest_of_most(before), 0.2)


def _slowest_of_most(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.9 * len(seconds))]


def _client(service: ServiceProcess) -> httpx.Client:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return httpx.Client(base_url=f"{service.url}/api/v1", headers=headers, timeout=30)


def _helpers(service: ServiceProcess) -> list[psutil.Process]:
    return [process for process in service.family() if _works_on_calibrations(process)]


def _works_on_calibrations(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):  # It ended meanwhile, or is a zombie, which is one of these.
        return "app.calibration.worker" in " ".join(process.cmdline())
    return False


def _users_in_the_history(client: httpx.Client, experiment_id: int) -> int:
    """Return how many users the control has, once ClickHouse has all 1000 of the experiment."""

    def sizes() -> list[int]:
        query: Json = {"source": "cold", "metrics": "conversion_rate", "fresh": True}
        variants = client.get(f"/experiments/{experiment_id}/results", params=query).json().get("variants", [])
        return [variant["metrics"]["conversion_rate"]["sample_size"] for variant in variants]

    wait_until(lambda: sum(sizes()) == 1000, "the users are in ClickHouse", within_s=WITHIN_S)
    return sizes()[0]


def _begin_long(client: httpx.Client, service: ServiceProcess, *, stands_still: bool = True) -> Json:
    """Begin a calibration that goes on for a while, and wait until its process is there.

    On a quick machine a while is not long, so that the process is held up, and never ends by itself.
    """
    experiment = make_experiment(client)
    ask_many(client, experiment, [unique("user") for _ in range(1000)])
    begun = begin(client, experiment, resplits=10_000)
    if stands_still:
        _held_up(service)
    else:
        wait_until(lambda: bool(_helpers(service)), "the helping process is there")
    return begun


def _held_up(service: ServiceProcess) -> list[psutil.Process]:
    """Have the service's calibration stand still, and return the process that works on it."""
    wait_until(lambda: bool(_helpers(service)), "the helping process is there")
    found = _helpers(service)
    for helper in found:
        helper.suspend()
    return found


def _cancel(client: httpx.Client, begun: Json) -> httpx.Response:
    return client.post(f"/experiments/{begun['experiment_id']}/calibrations/{begun['id']}/cancel")


def test_calibration__cancelled__ends_at_once_and_stays_so(client: httpx.Client, service: ServiceProcess) -> None:
    begun = _begin_long(client, service)

    response = _cancel(client, begun)

    assert response.status_code == 200, response.text
    cancelled = response.json()
    assert (cancelled["status"], cancelled["result"], cancelled["reason"]) == ("cancelled", None, None)
    assert cancelled["ended_at"] is not None
    # The request waits a second for it, which is not enough on every machine.
    wait_until(lambda: not _helpers(service), "the helping process is gone", within_s=WITHIN_S)
    assert _cancel(client, begun).json() == read(client, begun) == cancelled
    # There is room for another one.
    assert calibrated(client, {**begun, "id": begun["experiment_id"], "key": begun["experiment_id"]}, resplits=100)
    path = f"/experiments/{begun['experiment_id']}/calibrations"
    assert [item["status"] for item in client.get(path).json()["items"]] == ["done", "cancelled"]


def test_calibration__cancelled_in_another_process__ends_soon(
    client: httpx.Client, service: ServiceProcess, second_service: ServiceProcess, client_of: MakeClient
) -> None:
    begun = _begin_long(client, service)

    cancelled = _cancel(client_of(second_service), begun).json()

    assert cancelled["status"] == "cancelled"
    wait_until(lambda: not _helpers(service), "the helping process is gone", within_s=WITHIN_S)
    assert read(client, begun) == cancelled


def test_calibration__cancelled_after_its_end__is_409_by_its_state(client: httpx.Client, sold: Json) -> None:
    done = until_ended(client, begin(client, sold, resplits=100))
    failed = until_ended(client, begin(client, make_experiment(client)))

    for ended in (done, failed):
        problem = expect_problem(_cancel(client, ended), 409)
        assert problem["type"].endswith("calibration-ended")
        assert problem["current_status"] == ended["status"]
        assert read(client, ended) == ended


def test_calibration__cancelled_by_somebody_else__goes_on(
    client: httpx.Client,
    service: ServiceProcess,
    client_of: MakeClient,
    make_token: Callable[..., Json],
    empty_project: httpx.Client,
) -> None:
    begun = _begin_long(client, service)
    elsewhere = {**begun, "experiment_id": make_experiment(client)["id"]}
    reader = client_of(service, token=make_token("experiments:write", "events", "assignments")["token"])

    expect_problem(_cancel(empty_project, begun), 404)
    assert expect_problem(_cancel(client, elsewhere), 404)["type"].endswith("calibration-not-found")
    expect_problem(_cancel(client, {**begun, "id": uuid4()}), 404)
    expect_problem(_cancel(client, {**begun, "id": 7}), 422, field="calibration_id")
    expect_problem(_cancel(reader, begun), 403)
    assert read(client, begun)["status"] == "running"
    assert _cancel(client, begun).json()["status"] == "cancelled"


@pytest.mark.timeout(120)
def test_calibration__whoever_works_on_it_ends__has_failed_with_the_reason(tmp_path: Path) -> None:
    with running_service(tmp_path / "data") as service, _client(service) as client:
        stopped = _begin_long(client, service)
        assert service.terminate() == 0
        assert service.left_behind() == []

    with running_service(tmp_path / "data") as service, _client(service) as client:
        assert "service was stopped" in read(client, stopped)["reason"]

        lost = _begin_long(client, service)
        _helpers(service)[0].kill()
        ended = until_ended(client, lost)
        assert (ended["status"], ended["result"]) == ("failed", None)
        assert "killed or memory ran out" in ended["reason"]

        # Somebody who has not been heard of for longer than anybody who works is silent.
        service.rows(
            "UPDATE calibrations SET status = 'running', reason = NULL, ended_at = NULL,"
            " seen_at = clock_timestamp() - interval '1 minute' WHERE id = $1",
            lost["id"],
        )
        silent = read(client, lost)
        assert (silent["status"], silent["result"]) == ("failed", None)
        assert "has ended" in silent["reason"]

        lost = _begin_long(client, service)
        # What PostgreSQL has dropped is missing there, and ClickHouse has it.
        service.rows("INSERT INTO dropped_partitions (name, upper_bound, row_count) VALUES ('old', now() + '1 day', 1)")
        _helpers(service)[0].kill()
        until_ended(client, lost)
        users = _users_in_the_history(client, lost["experiment_id"])
        experiment = {"id": lost["experiment_id"], "key": lost["experiment_id"]}
        found = calibrated(client, experiment, resplits=100, metrics=["conversion_rate", "p95_value"])
        assert (found[""]["source"], found[""]["users"]) == ("cold", users)
        assert found[""]["complete_until"] is not None
        service.rows("DELETE FROM dropped_partitions")

        # It hears by itself that nobody is there any more.
        _begin_long(client, service, stands_still=False)
        service.kill()
        assert service.left_behind() == []
