"""Diagnosis over HTTP: a world in which much is wrong, one in which nothing is, and those in which little is known."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from tests.conftest import MakeClient
from tests.factories import Json, ask_many, expect_problem, make_experiment, take, unique
from tests.service_process import ServiceProcess

_CODES = {
    "SRM",
    "SRM_BY_DAY",
    "SRM_BY_ATTRIBUTE",
    "SRM_SEQUENTIAL",
    "USERS_IN_TWO_VARIANTS",
    "EXPOSURE_BEFORE_START",
    "EXPOSURE_RECORDED_LATE",
    "MID_RUN_CHANGES",
    "PRE_EXPOSURE_DIFFERENCE",
    "EMPTY_METRIC",
    "SMALL_SAMPLE",
    "CANNOT_TELL",
    "HEAVY_TAILS",
    "NOVELTY",
    "STALE_DATA",
    "CLOCK_SKEW",
}
_DAY = timedelta(days=1)


def _moment(days_ago: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days_ago)).isoformat()


def _diagnose(client: httpx.Client, experiment: Json) -> Json:
    response = client.get(f"/experiments/{experiment['key']}/diagnosis")
    assert response.status_code == 200, response.text
    body: Json = response.json()
    named = {finding["code"] for finding in body["findings"]} | {one["code"] for one in body["checked"]}
    assert named == _CODES
    return body


def _found(body: Json, code: str) -> Json:
    """Return the one finding with this code."""
    (finding,) = [finding for finding in body["findings"] if finding["code"] == code]
    assert set(finding) == {"code", "severity", "title", "evidence", "text", "action"}
    return dict(finding)


def _import(client: httpx.Client, experiment: Json, users: Sequence[tuple[str, str, float]]) -> None:
    rows = [{"user_id": user, "variant": variant, "assigned_at": _moment(ago)} for user, variant, ago in users]
    for start in range(0, len(rows), 1000):
        body = {"assignments": rows[start : start + 1000]}
        response = client.post(f"/experiments/{experiment['key']}/assignments/import", json=body)
        assert response.json()["rejected"] == 0, response.text


def _send(client: httpx.Client, events: Sequence[Json]) -> None:
    for start in range(0, len(events), 1000):
        response = client.post("/events/batch", json={"events": events[start : start + 1000]})
        assert response.json()["rejected"] == 0, response.text


def _event(user_id: str, event_type: str, days_ago: float, **fields: Any) -> Json:
    return {"user_id": user_id, "event_type": event_type, "timestamp": _moment(days_ago), **fields}


@pytest.fixture(scope="module")
def broken(client: httpx.Client) -> Json:
    """Diagnose 900 imported users, most of them and all of one day in the control, with metrics that cannot work."""
    for metric in (
        {"key": "refunds_never", "kind": "count", "event_type": "no_such_type"},
        {"key": "early_only", "kind": "count", "event_type": "early_type"},
        {
            "key": "wrong_filter",
            "kind": "sum",
            "event_type": "pay",
            "filters": [{"property": "currency", "operator": "eq", "value": "XXX"}],
        },
        {"key": "payments", "kind": "sum", "event_type": "pay"},
    ):
        made = client.post("/metrics", json=metric)
        assert made.status_code == 201, made.text
    keys = ("payments", "refunds_never", "early_only", "wrong_filter")
    plan = {"metrics": [{"metric": key, "role": "primary" if key == "payments" else "secondary"} for key in keys]}
    experiment = make_experiment(client, traffic_pct=50, plan={**plan, "sample_size": 5000})
    name = unique("user")
    users = [
        (f"{name}-{number}", "v0" if number % 3 or number % 10 == 7 else "v1", 20 - number % 10)
        for number in range(900)
    ]
    _import(client, experiment, users)
    first = [user for user, _, _ in users]
    _send(
        client,
        [
            *(
                _event(user, "pay", 9.5, value=10_000.0 if index < 2 else 1 + index % 7, properties={"currency": "EUR"})
                for index, user in enumerate(first)
            ),
            # Before the exposure only those of the treatment do something, and they do a lot.
            *(
                _event(user, "early_type", ago + 0.5)
                for user, variant, ago in users
                if variant == "v1"
                for _ in range(4)
            ),
            *(
                _event(user, "exposure", 9, experiment_id=experiment["id"], properties={"variant": "v1"})
                for user in first[1:3]
            ),
        ],
    )
    changed = client.patch(f"/experiments/{experiment['key']}", json={"traffic_pct": 100})
    assert changed.status_code == 200, changed.text
    forced = client.put(f"/experiments/{experiment['key']}/overrides/{name}-qa", json={"variant": "v1"})
    assert forced.status_code == 200, forced.text
    return _diagnose(client, experiment)


def test_diagnosis__two_thirds_in_the_control__finds_the_mismatch_over_all_and_by_day(broken: Json) -> None:
    overall = _found(broken, "SRM")

    assert overall["severity"] == "critical"
    # Users 1 and 2 were seen in another variant.
    assert overall["evidence"]["observed"] == {"v0": 628, "v1": 270}
    assert overall["evidence"]["imported"] == 900
    assert _found(broken, "SRM_BY_DAY")["evidence"]["tested"] >= 10
    assert _found(broken, "SRM_SEQUENTIAL")["evidence"]["p_value"] < 0.001


def test_diagnosis__users_seen_elsewhere__are_counted(broken: Json) -> None:
    assert _found(broken, "USERS_IN_TWO_VARIANTS")["evidence"]["users"] == 2


def test_diagnosis__imports_of_earlier_times__are_before_the_start(broken: Json) -> None:
    evidence = _found(broken, "EXPOSURE_BEFORE_START")["evidence"]

    assert (evidence["users"], evidence["imported"], evidence["assigned"]) == (900, 900, 900)


def test_diagnosis__empty_metrics__each_with_its_reason(broken: Json) -> None:
    reasons = {
        finding["evidence"]["metric"]: (finding["evidence"]["reason"], finding["evidence"]["events_sent"])
        for finding in broken["findings"]
        if finding["code"] == "EMPTY_METRIC"
    }

    assert reasons == {
        "refunds_never": ("NEVER_SENT", 0),
        "early_only": ("BEFORE_EXPOSURE", 1080),
        "wrong_filter": ("FILTERED", 900),
    }


def test_diagnosis__traffic_raised_while_it_runs__says_who_and_when(broken: Json) -> None:
    finding = _found(broken, "MID_RUN_CHANGES")
    changes = {change["action"]: change for change in finding["evidence"]["shown"]}

    assert finding["severity"] == "warning"
    assert changes["experiment.changed"]["fields"] == ["traffic_pct"]
    assert changes["experiment.changed"]["users_before"] == {"v0": 628, "v1": 270}
    assert changes["experiment.changed"]["users_after"] == {"v0": 0, "v1": 0}
    assert changes["override.put"]["times"] == 1


def test_diagnosis__robot_that_overrides_in_turn__is_one_change(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    path = f"/experiments/{experiment['key']}/overrides/{unique('robot')}"
    for _ in range(20):
        client.put(path, json={"variant": "v1"}).raise_for_status()
        client.delete(path).raise_for_status()

    finding = _found(_diagnose(client, experiment), "MID_RUN_CHANGES")

    (shown,) = finding["evidence"]["shown"]
    assert (finding["severity"], finding["evidence"]["changes"]) == ("info", 1)
    assert (sorted(shown["actions"]), shown["times"]) == (["override.put", "override.removed"], 40)
    assert shown["at"] < shown["last_at"]
    assert "(40 times)" in finding["text"]


def test_diagnosis__busier_users_in_one_variant_before__is_critical(broken: Json) -> None:
    finding = _found(broken, "PRE_EXPOSURE_DIFFERENCE")

    assert (finding["severity"], finding["evidence"]["measure"]) == ("critical", "events per user")
    assert (finding["evidence"]["control_value"], finding["evidence"]["variant_value"]) == (0, 4)


def test_diagnosis__two_users_pay_nearly_all__suggests_a_bound(broken: Json) -> None:
    evidence = _found(broken, "HEAVY_TAILS")["evidence"]

    assert evidence["metric"] == "payments"
    assert evidence["share_of_squares"] > 0.99


def test_diagnosis__plan_of_5000__is_not_reached(broken: Json) -> None:
    evidence = _found(broken, "SMALL_SAMPLE")["evidence"]

    assert (evidence["users"], evidence["planned_users"]) == (898, 5000)


def test_diagnosis__findings__begin_with_the_gravest(broken: Json) -> None:
    order = ["critical", "warning", "info"]
    severities = [order.index(finding["severity"]) for finding in broken["findings"]]

    assert severities == sorted(severities)
    assert broken["complete_until"] <= broken["computed_at"]


def test_diagnosis__browser_that_loses_users__is_found_by_its_attribute(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    name = unique("user")
    users = [f"{name}-{number}" for number in range(400)]
    variants = {
        answer["user_id"]: answer["variant"]["key"] for answer in ask_many(client, experiment, users, enroll=False)
    }
    body = {"experiment": experiment["key"]}
    for user in users:
        browser = "Safari" if int(user.rpartition("-")[2]) % 2 else "Firefox"
        if browser == "Safari" and variants[user] == "v1":
            continue
        client.post("/assignments", json={**body, "user_id": user, "context": {"browser": browser}}).raise_for_status()

    finding = _found(_diagnose(client, experiment), "SRM_BY_ATTRIBUTE")

    (worst,) = finding["evidence"]["worst"]
    assert (worst["attribute"], worst["value"], worst["observed"]["v1"]) == ("browser", "Safari", 0)


def test_diagnosis__nothing_wrong__finds_nothing_grave(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    name = unique("user")
    users = [f"{name}-{number}" for number in range(200)]
    answers = ask_many(client, experiment, users)
    _send(client, [{"user_id": answer["user_id"], "event_type": "buy", "value": 5} for answer in answers[::2]])

    body = _diagnose(client, experiment)

    assert [finding["code"] for finding in body["findings"] if finding["severity"] == "critical"] == []
    outcomes = {one["code"]: one["outcome"] for one in body["checked"]}
    assert outcomes.items() >= {"SRM": "fine", "EMPTY_METRIC": "fine", "STALE_DATA": "fine"}.items()
    assert outcomes["NOVELTY"] == "not_checked"


@pytest.mark.parametrize("state", ["draft", "running", "archived"])
def test_diagnosis__nobody_in_it__says_what_could_not_be_checked(client: httpx.Client, state: str) -> None:
    experiment = make_experiment(client, state=state)

    body = _diagnose(client, experiment)

    reasons = {one["code"]: one["reason"] for one in body["checked"] if one["outcome"] == "not_checked"}
    assert reasons["SRM"] == "Nobody is exposed yet."
    assert body["findings"] == []


def test_diagnosis__exposed_by_events__counts_from_these_on(client: httpx.Client) -> None:
    experiment = make_experiment(client, population={"exposure": "event"})
    users = [unique("user") for _ in range(20)]
    ask_many(client, experiment, users)
    _send(client, [{"user_id": user, "event_type": "exposure"} for user in users[:12]])
    take(client, experiment, "pause")

    body = _diagnose(client, experiment)

    assert _found(body, "MID_RUN_CHANGES")["evidence"]["touching"] == 1
    (shown,) = _found(body, "MID_RUN_CHANGES")["evidence"]["shown"]
    assert sum(shown["users_before"].values()) == 12


def test_diagnosis__unknown_experiment__is_not_found(client: httpx.Client) -> None:
    expect_problem(client.get("/experiments/no-such-experiment/diagnosis"), 404)
    expect_problem(client.get("/experiments/no-such-experiment/diagnosis?of=all"), 422, field="of")


def test_diagnosis__audit_log_with_a_hole__does_not_call_the_run_unchanged(
    service: ServiceProcess, client_of: MakeClient, make_project: Callable[[], str]
) -> None:
    with client_of(service, project=make_project()) as client:
        whole, holed = make_experiment(client), make_experiment(client)
        asyncio.run(_forget(service.postgres_url, f"experiment:{holed['id']}"))
        found = {
            experiment["key"]: next(
                one for one in _diagnose(client, experiment)["checked"] if one["code"] == "MID_RUN_CHANGES"
            )
            for experiment in (whole, holed)
        }

    assert found[whole["key"]]["outcome"] == "fine"
    assert found[holed["key"]]["outcome"] == "not_checked"
    assert "no entry of the start" in found[holed["key"]]["reason"]


async def _forget(url: str, subject: str) -> None:
    """Remove entries of the audit log, past its triggers."""
    connection = await asyncpg.connect(url, ssl=False)
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")
            await connection.execute("DELETE FROM audit_log WHERE subject = $1", subject)
    finally:
        await connection.close()
