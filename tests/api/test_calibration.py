"""Calibrations: the control's users are split at random, and the tests find what is not there as rarely as they say."""

import random
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.api.calibrating import begin, calibrated, send, sold_to_many, until_ended
from tests.factories import Json, ask_many, make_experiment, unique


@pytest.fixture(scope="module")
def sold(client: httpx.Client) -> Json:
    return sold_to_many(client)


def test_calibration__users_decided_one_by_one__keeps_its_level(client: httpx.Client, sold: Json) -> None:
    metrics = ["conversion_rate", "value_per_user", "avg_value"]
    found = calibrated(client, sold, metrics=metrics, event_type=["purchase"], resplits=500, seed=3)

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
    found = calibrated(client, sold, metrics=["p95_value"], event_type=["purchase"], resplits=300)["p95_value"]

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
    send(client, events)
    metrics = [f"{prefix}-spend", "value_per_user", "avg_value"]

    found = calibrated(client, experiment, metrics=metrics, cuped_days=7, resplits=400)

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
    first = calibrated(client, sold, metrics=["value_per_user"], resplits=100, seed=1)
    assert calibrated(client, sold, metrics=["value_per_user"], resplits=100, seed=1) == first


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
    send(client, events)

    together = calibrated(client, experiment, metrics=["value_per_user"], split_by="household", resplits=500)
    alone = calibrated(client, experiment, metrics=["value_per_user"], resplits=500)
    misspelt = until_ended(client, begin(client, experiment, metrics=["value_per_user"], split_by="houshold"))

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
    send(
        client,
        [
            {"user_id": user, "event_type": "purchase", "value": chance.uniform(1, 60)}
            for user in users
            for _ in range(chance.randrange(3))
        ],
    )

    found = calibrated(client, experiment, resplits=200)

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
    send(client, [{"user_id": user, "event_type": "buy", "value": 1000} for user in users])  # Before the exposure.
    send(client, [{"user_id": user, "event_type": "seen"} for user in users if user != unseen])
    other = {"variant": "v1"}
    stray = {"user_id": strayed, "event_type": "seen", "experiment_id": experiment["id"], "properties": other}
    send(client, [stray])
    send(client, [{"user_id": user, "event_type": "buy", "value": chance.uniform(1, 9)} for user in users])

    found = calibrated(client, experiment, metrics=["value_per_user"], event_type=["buy"], resplits=100)

    query = {"metrics": "value_per_user", "event_type": "buy", "source": "hot"}
    results = client.get(f"/experiments/{experiment['key']}/results", params=query).json()
    control = results["variants"][0]["metrics"]["value_per_user"]
    assert results["provenance"]["users_excluded"].keys() >= {"OVERRIDE", "EXCLUDED_USER", "TWO_VARIANTS"}
    assert found[""]["users"] == control["sample_size"]
    assert 90 <= found[""]["users"] <= 97
    assert found["value_per_user"]["value"] == pytest.approx(control["value"], rel=1e-12)
