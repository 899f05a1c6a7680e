"""Calibrations: the control's users are split at random, and the tests find what is not there as rarely as they say."""

import contextlib
import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest

from tests.conftest import MakeClient
from tests.factories import Json, ask_many, expect_problem, make_experiment, unique
from tests.service_process import INTERRUPTED, TOKEN, ServiceProcess, running_service, wait_until

_WITHIN_S = 60.0


def _send(client: httpx.Client, events: list[Json]) -> None:
    for start in range(0, len(events), 1000):
        response = client.post("/events/batch", json={"events": events[start : start + 1000]})
        assert response.json()["rejected"] == 0, response.text


def _begin(client: httpx.Client, experiment: Json, **body: Any) -> Json:
    response = client.post(f"/experiments/{experiment['key']}/calibrations", json=body)
    assert response.status_code == 202, response.text
    begun: Json = response.json()
    path = f"/api/v1/experiments/{experiment['id']}/calibrations/{begun['id']}"
    assert response.headers["location"] == path
    assert (begun["status"], begun["result"], begun["reason"]) == ("running", None, None)
    return begun


def _read(client: httpx.Client, begun: Json) -> Json:
    response = client.get(f"/experiments/{begun['experiment_id']}/calibrations/{begun['id']}")
    assert response.status_code == 200, response.text
    found: Json = response.json()
    return found


def _ended(client: httpx.Client, begun: Json) -> Json:
    wait_until(lambda: _read(client, begun)["status"] != "running", "the calibration ends", within_s=_WITHIN_S)
    return _read(client, begun)


def _calibrated(client: httpx.Client, experiment: Json, **body: Any) -> dict[str, Json]:
    ended = _ended(client, _begin(client, experiment, **body))
    assert ended["status"] == "done", ended
    assert (ended["progress"], ended["reason"]) == (1.0, None)
    return {found["metric"]: found for found in ended["result"]["metrics"]} | {"": ended["result"]}


@pytest.fixture(scope="module")
def sold(client: httpx.Client) -> Json:
    """An experiment without an effect: some of 1,500 users buy, some of these more than once."""
    experiment = make_experiment(client)
    users = [unique("buyer") for _ in range(1500)]
    for start in range(0, len(users), 500):
        ask_many(client, experiment, users[start : start + 500])
    chance = random.Random(11)
    events = [
        {"user_id": user, "event_type": "purchase", "value": round(chance.lognormvariate(3, 0.6), 2)}
        for user in users
        for _ in range(chance.choice([0, 0, 0, 1, 1, 2]))
    ]
    _send(client, [*events, *({"user_id": user, "event_type": "view"} for user in users)])
    return experiment


def test_calibration__users_decided_one_by_one__keeps_its_level(client: httpx.Client, sold: Json) -> None:
    metrics = ["conversion_rate", "value_per_user", "avg_value"]
    found = _calibrated(client, sold, metrics=metrics, event_type=["purchase"], resplits=500, seed=3)

    query = {"metrics": metrics, "event_type": "purchase", "source": "hot"}
    results = client.get(f"/experiments/{sold['key']}/results", params=query).json()
    control = next(variant for variant in results["variants"] if variant["is_control"])
    assert found[""]["users"] == found[""]["units"] == control["metrics"]["conversion_rate"]["sample_size"]
    assert (found[""]["alpha"], found[""]["source"], found[""]["complete_until"]) == (0.05, "hot", None)
    for metric in metrics:
        one = found[metric]
        # The same users and events as in the results.
        assert one["value"] == pytest.approx(control["metrics"][metric]["value"], rel=1e-12)
        assert (one["resplits"], one["undefined"], one["version"]) == (500, 0, None)
        assert one["inside"] is True, one
        assert one["lower"] <= one["false_positive_rate"] <= one["upper"]
        assert one["false_positive_rate_ci_lower"] < one["false_positive_rate"] < one["false_positive_rate_ci_upper"]
        adjusted = one["adjusted"]
        assert (adjusted["undefined"], adjusted["false_positive_rate"], adjusted["inside"]) == (500, None, None)
        assert adjusted["null_reason"] == "NO_COVARIATE"
        assert (len(one["p_value_histogram"]), sum(one["p_value_histogram"])) == (20, 500)
        assert 0 <= one["ks_p_value"] <= 1


def test_calibration__percentile__is_the_one_of_the_results_and_keeps_its_level(
    client: httpx.Client, sold: Json
) -> None:
    found = _calibrated(client, sold, metrics=["p95_value"], event_type=["purchase"], resplits=300)["p95_value"]

    query = {"metrics": "p95_value", "event_type": "purchase", "source": "hot"}
    control = client.get(f"/experiments/{sold['key']}/results", params=query).json()["variants"][0]
    assert found["value"] == pytest.approx(control["metrics"]["p95_value"]["value"], rel=1e-12)
    assert (found["resplits"], found["undefined"], found["null_reason"]) == (300, 0, None)
    # The interval that its standard error comes from is an outer one, so it may find too little, but not too much.
    assert found["false_positive_rate"] <= found["upper"]


def test_calibration__numbers_from_before__adjusts_by_them_and_keeps_its_level(client: httpx.Client) -> None:
    prefix = unique("m")
    body: Json = {"key": f"{prefix}-spend", "kind": "sum", "event_type": "purchase", "covariate_days": 14}
    assert client.post("/metrics", json=body).status_code == 201
    experiment = make_experiment(client, 90, 10)
    users = [unique("regular") for _ in range(500)]
    ask_many(client, experiment, users)
    chance, events = random.Random(8), []
    for user in users:
        habit = chance.lognormvariate(2, 0.7)
        for at in (datetime.now(UTC) - timedelta(days=3), None):
            event: Json = {"user_id": user, "event_type": "purchase", "value": habit * chance.uniform(0.8, 1.2)}
            events.append(event if at is None else event | {"timestamp": at.isoformat()})
    _send(client, events)
    metrics = [f"{prefix}-spend", "value_per_user", "avg_value"]

    found = _calibrated(client, experiment, metrics=metrics, cuped_days=7, resplits=400)

    for metric in metrics[:2]:
        adjusted = found[metric]["adjusted"]
        assert (adjusted["undefined"], adjusted["null_reason"]) == (0, None)
        assert adjusted["inside"] is True, adjusted
        assert found[metric]["inside"] is True
        assert 80 < adjusted["variance_reduction_percent"] < 100
    assert found["avg_value"]["adjusted"]["null_reason"] == "NO_COVARIATE"
    path = f"/experiments/{experiment['key']}/calibrations"
    assert client.get(path).json()["items"][0]["cuped_days"] == 7


def test_calibration__same_seed__gives_the_same_result(client: httpx.Client, sold: Json) -> None:
    first = _calibrated(client, sold, metrics=["value_per_user"], resplits=100, seed=1)
    assert _calibrated(client, sold, metrics=["value_per_user"], resplits=100, seed=1) == first


def test_calibration__users_of_a_household_alike__is_outside_when_split_by_household(client: httpx.Client) -> None:
    experiment = make_experiment(client, 90, 10)
    chance, events = random.Random(5), []
    for household in range(60):
        spends = chance.lognormvariate(3, 1)
        for _ in range(5):
            user = unique("member")
            body = {"experiment": experiment["key"], "user_id": user, "context": {"household": household}}
            assert client.post("/assignments", json=body).status_code == 200
            value = spends * chance.uniform(0.9, 1.1)
            events.append({"user_id": user, "event_type": "purchase", "value": value})
    _send(client, events)

    together = _calibrated(client, experiment, metrics=["value_per_user"], split_by="household", resplits=500)
    alone = _calibrated(client, experiment, metrics=["value_per_user"], resplits=500)
    misspelt = _ended(client, _begin(client, experiment, metrics=["value_per_user"], split_by="houshold"))

    assert together[""]["units"] == 60
    assert together["value_per_user"]["inside"] is False
    assert together["value_per_user"]["false_positive_rate"] > 2 * together["value_per_user"]["upper"]
    assert alone["value_per_user"]["inside"] is True
    assert alone[""]["units"] == alone[""]["users"]
    # Nobody has such a value, and a split by user would be none that was asked for.
    assert (misspelt["status"], misspelt["result"]) == ("failed", None)
    assert "split_by" in misspelt["reason"]
    assert "'houshold'" in misspelt["reason"]


def test_calibration__stored_metrics__are_those_of_the_experiment(client: httpx.Client) -> None:
    prefix = unique("m")
    bodies: list[Json] = [
        {"key": f"{prefix}-buyers", "kind": "conversion", "event_type": "purchase"},
        {"key": f"{prefix}-orders", "kind": "count", "event_type": "purchase"},
        {"key": f"{prefix}-capped", "kind": "sum", "event_type": "purchase", "cap": 30},
        {"key": f"{prefix}-per-order", "kind": "mean", "event_type": "purchase"},
        {"key": f"{prefix}-funnel", "kind": "funnel", "steps": [{"event_type": "view"}, {"event_type": "purchase"}]},
        {"key": f"{prefix}-median", "kind": "quantile", "event_type": "purchase", "quantile": 0.5},
    ]
    for body in bodies:
        created = client.post("/metrics", json=body)
        assert created.status_code == 201, created.text
    plan = {"metrics": [{"metric": body["key"], "role": "secondary"} for body in bodies]}
    experiment = make_experiment(client, plan=plan)
    users = [unique("user") for _ in range(400)]
    ask_many(client, experiment, users)
    chance = random.Random(2)
    for user in users:
        if chance.random() < 0.9:
            client.post("/events", json={"user_id": user, "event_type": "view"})
    _send(
        client,
        [
            {"user_id": user, "event_type": "purchase", "value": chance.uniform(1, 60)}
            for user in users
            for _ in range(chance.randrange(3))
        ],
    )

    found = _calibrated(client, experiment, resplits=200)

    measured = [body["key"] for body in bodies]
    assert list(found)[:-1] == measured
    for key in measured:
        assert (found[key]["version"], found[key]["undefined"], found[key]["null_reason"]) == (1, 0, None)
        assert found[key]["value"] > 0
    assert found[f"{prefix}-orders"]["value"] > found[f"{prefix}-buyers"]["value"] >= found[f"{prefix}-funnel"]["value"]
    assert found[f"{prefix}-median"]["value"] == pytest.approx(30, abs=6)


def test_calibration__who_counts__is_who_counts_in_results(client: httpx.Client) -> None:
    """Exposed by an event, not excluded, in one variant alone, and not forced."""
    population = {"exposure": "event", "exposure_event_type": "seen", "exclude_users": ["bot"]}
    experiment = make_experiment(client, 99.99, 0.01, population=population)
    users = [*(unique("user") for _ in range(100)), "bot"]
    ask_many(client, experiment, users)
    forced, strayed, unseen = users[0], users[1], users[2]
    path = f"/experiments/{experiment['key']}/overrides/{forced}"
    assert client.put(path, json={"variant": "v0"}).status_code == 200
    chance = random.Random(1)
    _send(client, [{"user_id": user, "event_type": "buy", "value": 1000} for user in users])  # Before the exposure.
    _send(client, [{"user_id": user, "event_type": "seen"} for user in users if user != unseen])
    other = {"variant": "v1"}
    stray = {"user_id": strayed, "event_type": "seen", "experiment_id": experiment["id"], "properties": other}
    _send(client, [stray])
    _send(client, [{"user_id": user, "event_type": "buy", "value": chance.uniform(1, 9)} for user in users])

    found = _calibrated(client, experiment, metrics=["value_per_user"], event_type=["buy"], resplits=100)

    query = {"metrics": "value_per_user", "event_type": "buy", "source": "hot"}
    results = client.get(f"/experiments/{experiment['key']}/results", params=query).json()
    control = results["variants"][0]["metrics"]["value_per_user"]
    assert results["provenance"]["users_excluded"].keys() >= {"OVERRIDE", "EXCLUDED_USER", "TWO_VARIANTS"}
    assert found[""]["users"] == control["sample_size"]
    assert 90 <= found[""]["users"] <= 97
    assert found["value_per_user"]["value"] == pytest.approx(control["value"], rel=1e-12)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"resplits": 99}, "resplits"),
        ({"resplits": 10_001}, "resplits"),
        ({"resplits": 100.0}, "resplits"),
        ({"metrics": ["no-such-metric"]}, "metrics"),
        ({"metrics": ["unique_users"]}, "metrics"),
        ({"cuped_days": 0}, "cuped_days"),
        ({"cuped_days": 366}, "cuped_days"),
        ({"cuped_days": 7.0}, "cuped_days"),
        ({"metrics": ["conversion_rate"] * 21}, "metrics"),
        ({"seed": -1}, "seed"),
        ({"alpha": 0}, "alpha"),
        ({"alpha": "0.05"}, "alpha"),
        ({"split_by": ""}, "split_by"),
        ({"split_by": "a\nb"}, "split_by"),
        ({"halves": 3}, "halves"),
    ],
)
def test_calibration__wrong_body__is_refused_by_field(client: httpx.Client, sold: Json, body: Json, field: str) -> None:
    expect_problem(client.post(f"/experiments/{sold['key']}/calibrations", json=body), 422, field=field)


def test_calibration__total__names_what_is_taken(client: httpx.Client, sold: Json) -> None:
    refused = client.post(f"/experiments/{sold['key']}/calibrations", json={"metrics": ["event_count"]})
    detail = expect_problem(refused, 422, field="metrics")["detail"]
    assert "avg_value, conversion_rate, p95_value, value_per_user" in detail
    assert "event_count" not in detail.partition("event_count")[2]


def test_calibrations__listed__are_newest_first_in_pages(
    client: httpx.Client, sold: Json, empty_project: httpx.Client
) -> None:
    experiment = make_experiment(client)
    path = f"/experiments/{experiment['key']}/calibrations"
    assert client.get(path).json() == {"items": [], "next_cursor": None}
    begun = [_begin_and_end(client, experiment, seed) for seed in range(3)]

    first = client.get(path, params={"limit": 2}).json()
    second = client.get(path, params={"limit": 2, "cursor": first["next_cursor"]}).json()

    assert [*first["items"], *second["items"]] == begun[::-1]
    assert second["next_cursor"] is None
    expect_problem(client.get(path, params={"cursor": "MQ"}), 422, field="cursor")
    expect_problem(client.get(f"/experiments/{sold['key']}/calibrations", params={"limit": 0}), 422, field="limit")
    expect_problem(empty_project.get(f"/experiments/{experiment['id']}/calibrations"), 404)


def _begin_and_end(client: httpx.Client, experiment: Json, seed: int) -> Json:
    return _ended(client, _begin(client, experiment, seed=seed))


def test_calibration__nobody_in_the_control__fails_with_the_reason(client: httpx.Client) -> None:
    ended = _ended(client, _begin(client, make_experiment(client)))
    assert (ended["status"], ended["result"]) == ("failed", None)
    assert "0 users" in ended["reason"]


def test_calibration__unknown__is_not_found(client: httpx.Client, sold: Json, empty_project: httpx.Client) -> None:
    expect_problem(client.get(f"/experiments/{sold['key']}/calibrations/{uuid4()}"), 404)
    expect_problem(client.get(f"/experiments/{sold['key']}/calibrations/7"), 422)
    expect_problem(client.post("/experiments/no-such/calibrations", json={}), 404)
    begun = _begin(client, sold, resplits=100)
    other = make_experiment(client)
    expect_problem(client.get(f"/experiments/{other['key']}/calibrations/{begun['id']}"), 404)
    expect_problem(empty_project.get(f"/experiments/{sold['id']}/calibrations/{begun['id']}"), 404)
    _ended(client, begun)


def test_calibration__one_is_running__refuses_another_and_shows_it_from_any_process(
    client: httpx.Client, second_service: ServiceProcess, client_of: MakeClient, sold: Json
) -> None:
    elsewhere = client_of(second_service)
    begun = _begin(client, sold, resplits=2500, metrics=["conversion_rate", "value_per_user", "avg_value"])

    refused = client.post(f"/experiments/{sold['key']}/calibrations", json={})
    assert int(refused.headers["retry-after"]) > 0
    assert expect_problem(refused, 429)["type"].endswith("too-many-calibrations")
    assert _read(elsewhere, begun)["status"] == "running"
    # The limit is one for each process.
    assert _ended(elsewhere, _begin(elsewhere, sold, resplits=100))["status"] == "done"
    assert _ended(elsewhere, begun)["result"] == _read(client, begun)["result"]


def test_calibration__while_one_runs__assignment_is_as_quick_as_ever(client: httpx.Client, sold: Json) -> None:
    def slowest_of_most() -> float:
        took = []
        for number in range(80):
            started = time.perf_counter()
            client.get(f"/experiments/{sold['key']}/assignment/{unique(f'quick-{number}')}").raise_for_status()
            took.append(time.perf_counter() - started)
        return sorted(took)[int(0.9 * len(took))]

    before = slowest_of_most()
    begun = _begin(client, sold, resplits=4000, metrics=["conversion_rate", "value_per_user", "avg_value"])
    meanwhile = slowest_of_most()
    still_running = _read(client, begun)["status"] == "running"
    _ended(client, begun)

    assert still_running
    # Machines that run tests have other things to do as well.
    assert meanwhile < max(20 * before, 0.2)


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

    wait_until(lambda: sum(sizes()) == 1000, "the users are in ClickHouse", within_s=_WITHIN_S)
    return sizes()[0]


def _begin_long(client: httpx.Client, service: ServiceProcess) -> Json:
    """Begin a calibration that goes on for a while, and wait until its process is there."""
    experiment = make_experiment(client)
    ask_many(client, experiment, [unique("user") for _ in range(1000)])
    begun = _begin(client, experiment, resplits=10_000)
    wait_until(lambda: bool(_helpers(service)), "the helping process is there")
    return begun


@pytest.mark.timeout(120)
def test_calibration__whoever_works_on_it_ends__has_failed_with_the_reason(tmp_path: Path) -> None:
    with running_service(tmp_path / "data") as service, _client(service) as client:
        stopped = _begin_long(client, service)
        assert service.terminate() in {0, INTERRUPTED}
        assert service.left_behind() == []

    with running_service(tmp_path / "data") as service, _client(service) as client:
        assert "service was stopped" in _read(client, stopped)["reason"]

        lost = _begin_long(client, service)
        _helpers(service)[0].kill()
        ended = _ended(client, lost)
        assert (ended["status"], ended["result"]) == ("failed", None)
        assert "killed or memory ran out" in ended["reason"]

        # Somebody who has not been heard of for longer than anybody who works is silent.
        service.rows(
            "UPDATE calibrations SET status = 'running', reason = NULL, ended_at = NULL,"
            " seen_at = clock_timestamp() - interval '1 minute' WHERE id = $1",
            lost["id"],
        )
        silent = _read(client, lost)
        assert (silent["status"], silent["result"]) == ("failed", None)
        assert "has ended" in silent["reason"]

        lost = _begin_long(client, service)
        # What PostgreSQL has dropped is missing there, and ClickHouse has it.
        service.rows("INSERT INTO dropped_partitions (name, upper_bound, row_count) VALUES ('old', now() + '1 day', 1)")
        _helpers(service)[0].kill()
        _ended(client, lost)
        users = _users_in_the_history(client, lost["experiment_id"])
        experiment = {"id": lost["experiment_id"], "key": lost["experiment_id"]}
        found = _calibrated(client, experiment, resplits=100, metrics=["conversion_rate", "p95_value"])
        assert (found[""]["source"], found[""]["users"]) == ("cold", users)
        assert found[""]["complete_until"] is not None
        service.rows("DELETE FROM dropped_partitions")

        _begin_long(client, service)
        service.kill()
        assert service.left_behind() == []
