"""Plans and populations of experiments: said, sealed at the start, verified; metrics attached later."""

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg
import httpx
import pytest

from tests.factories import STATES, Json, expect_problem, experiment_body, make_experiment, take, unique, walk
from tests.service_process import ServiceProcess

_STARTED = [state for state in STATES if state not in {"draft", "archived"}]
_EMPTY_PLAN: Json = {
    **dict.fromkeys(("hypothesis", "sample_size", "looks", "spending", "sealed_at", "hash")),
    "stopping_rule": "fixed",
    "metrics": [],
}
_POPULATION: Json = {
    "exposure": "event",
    "exposure_event_type": "seen",
    "exclude_users": ["qa-1", "ü ☃"],
    "exclude_context": [{"name": "employee", "value": "true"}],
}


def _metric(client: httpx.Client, **fields: Any) -> str:
    body = {"key": unique("metric"), "kind": "sum", "event_type": "purchase", **fields}
    response = client.post("/metrics", json=body)
    assert response.status_code == 201, response.text
    return str(response.json()["key"])


def _plan(*keys: str, **fields: Any) -> Json:
    """Return a plan with `conversion_rate` as primary and the metrics of these keys as secondary."""
    uses = [{"metric": "conversion_rate", "role": "primary"}, *({"metric": key, "role": "secondary"} for key in keys)]
    return {"metrics": uses, **fields}


def _sealed(client: httpx.Client, experiment: Json) -> Json:
    response = client.get(f"/experiments/{experiment['key']}/plan")
    assert response.status_code == 200, response.text
    plan: Json = response.json()
    return plan


def _attached(client: httpx.Client, experiment: Json) -> list[Json]:
    items: list[Json] = client.get(f"/experiments/{experiment['id']}/metrics").json()["items"]
    return items


def test_experiment__with_neither__counts_everybody_and_promises_nothing(client: httpx.Client) -> None:
    experiment = make_experiment(client, state="draft")
    assert (experiment["population"], experiment["plan"]) == (None, _EMPTY_PLAN)
    empties: list[Json] = [{"population": None, "plan": None}, {"population": {}, "plan": {}}]
    for empty in empties:
        assert client.patch(f"/experiments/{experiment['id']}", json=empty).json() == experiment
    assert _attached(client, experiment) == []


def test_population__of_a_draft__is_stored_changed_and_cleared(client: httpx.Client) -> None:
    experiment = make_experiment(client, state="draft", population=_POPULATION)
    assert experiment["population"] == _POPULATION
    path = f"/experiments/{experiment['id']}"
    assert client.get(path).json() == experiment
    twice = {"exclude_users": ["a", "a", "b"], "exposure": "event"}
    assert client.patch(path, json={"population": twice}).json()["population"] == {
        "exposure": "event",
        "exposure_event_type": "exposure",
        "exclude_users": ["a", "b"],
        "exclude_context": [],
    }
    assert client.patch(path, json={"population": None}).json()["population"] is None


@pytest.mark.parametrize("state", _STARTED)
def test_population__after_the_start__may_leave_out_others_and_not_change_exposure(
    client: httpx.Client, state: str
) -> None:
    experiment = make_experiment(client, state=state, population=_POPULATION)
    path = f"/experiments/{experiment['id']}"
    for changed in ({**_POPULATION, "exposure_event_type": "other"}, {"exclude_users": ["qa-1"]}, None):
        expect_problem(client.patch(path, json={"population": changed}), 409, field="population")
    assert client.get(path).json() == experiment

    excluding = {**_POPULATION, "exclude_users": ["bot"], "exclude_context": []}
    after = client.patch(path, json={"population": excluding}).json()

    assert (after["population"], after["version"]) == (excluding, experiment["version"] + 1)
    sealed = _sealed(client, experiment)
    assert (sealed["verified"], sealed["problems"]) == (True, [])
    assert sealed["changed_since"] == ["population.exclude_users", "population.exclude_context"]
    (entry, *_) = client.get("/audit", params={"subject": f"experiment:{experiment['id']}"}).json()["items"]
    assert entry["details"]["population"]["exclude_users"] == ["bot"]


def test_population__stored_before_blank_types_were_refused__is_shown_and_keeps_nobody_from_anything(
    service: ServiceProcess, client: httpx.Client
) -> None:
    population: Json = {"exposure": "event", "exposure_event_type": "seen", "exclude_users": ["qa"]}
    experiment = make_experiment(client, state="draft", population=population)
    metric = client.post("/metrics", json={"key": unique("blank"), "kind": "sum", "event_type": "buy"}).json()
    path = f"/experiments/{experiment['id']}"
    client.patch(path, json={"plan": {"metrics": [{"metric": metric["key"], "role": "primary"}]}}).raise_for_status()
    # Draft and metric as a release before has left them: nothing told this one's memory.
    service.rows(
        "UPDATE experiments SET population = jsonb_set(population, '{exposure_event_type}', '\" \"') WHERE id = $1",
        experiment["id"],
    )
    service.rows(
        "UPDATE metric_versions SET recipe = jsonb_set(recipe, '{selections,0,event_types}', '[\" \"]')"
        " WHERE metric_id = $1",
        metric["id"],
    )

    renamed = client.patch(path, json={"name": "Another name"})
    started = client.post(f"{path}/start")

    for response in (renamed, started, client.get(path)):
        assert response.status_code == 200, response.text
        assert response.json()["population"]["exposure_event_type"] == " "
    attached = client.get(f"{path}/metrics").json()["items"]
    assert [item["recipe"]["event_types"] for item in attached] == [[" "]]
    assert client.get(f"{path}/plan").status_code == 200
    assert client.get(f"{path}/results").status_code == 200
    for move in ("pause", "resume", "complete", "archive"):
        take(client, experiment, move)


def test_population__of_an_archived_experiment__stays(client: httpx.Client) -> None:
    experiment = make_experiment(client, state="archived")
    response = client.patch(f"/experiments/{experiment['id']}", json={"population": {"exclude_users": ["x"]}})
    expect_problem(response, 409, field="population")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"population": {"exposure": "page"}}, "population.exposure"),
        ({"population": {"exposure_event_type": "x"}}, "population.exposure_event_type"),
        ({"population": {"exposure": "event", "exposure_event_type": ""}}, "population.exposure_event_type"),
        ({"population": {"exclude_users": [""]}}, "population.exclude_users.0"),
        ({"population": {"exclude_users": ["a\x00"]}}, "population.exclude_users.0"),
        ({"population": {"exclude_users": [str(number) for number in range(1001)]}}, "population.exclude_users"),
        ({"population": {"exclude_context": [{"name": "a"}]}}, "population.exclude_context.0.value"),
        ({"population": {"exclude_context": [{"name": "a", "value": True}]}}, "population.exclude_context.0.value"),
        (
            {"population": {"exclude_context": [{"name": str(number), "value": ""} for number in range(21)]}},
            "population.exclude_context",
        ),
        ({"population": {"x": 1}}, "population.x"),
        ({"population": []}, "population"),
        ({"plan": {"hypothesis": ""}}, "plan.hypothesis"),
        ({"plan": {"sample_size": 1}}, "plan.sample_size"),
        ({"plan": {"sample_size": 10.5}}, "plan.sample_size"),
        ({"plan": {"sample_size": True}}, "plan.sample_size"),
        ({"plan": {"stopping_rule": "never"}}, "plan.stopping_rule"),
        ({"plan": {"stopping_rule": "group_sequential", "looks": 3, "spending": "pocock"}}, "plan.stopping_rule"),
        ({"plan": {"stopping_rule": "group_sequential", "sample_size": 9, "spending": "pocock"}}, "plan.looks"),
        ({"plan": {"stopping_rule": "group_sequential", "sample_size": 9, "looks": 3}}, "plan.spending"),
        ({"plan": {"looks": 3}}, "plan.looks"),
        ({"plan": {"stopping_rule": "always_valid", "spending": "pocock"}}, "plan.spending"),
        ({"plan": {"metrics": [{"metric": "a"}]}}, "plan.metrics.0.role"),
        ({"plan": {"metrics": [{"metric": "no-such-metric", "role": "primary"}]}}, "plan.metrics.0.metric"),
        ({"plan": {"metrics": [{"metric": "unique_users", "role": "primary"}]}}, "plan.metrics.0.metric"),
        (
            {"plan": {"metrics": [{"metric": "conversion_rate", "role": "primary", "version": 1}]}},
            "plan.metrics.0.version",
        ),
        (
            {"plan": {"metrics": [{"metric": "conversion_rate", "role": "primary", "margin": 0.1}]}},
            "plan.metrics.0.margin",
        ),
        (
            {"plan": {"metrics": [{"metric": "conversion_rate", "role": "guardrail", "margin": 1}]}},
            "plan.metrics.0.margin",
        ),
        ({"plan": _plan() | {"metrics": _plan()["metrics"] * 2}}, "plan.metrics"),
        (
            {"plan": {"metrics": [{"metric": key, "role": "primary"} for key in ("avg_value", "p95_value")]}},
            "plan.metrics",
        ),
        ({"plan": {"sealed_at": "2026-01-01T00:00:00Z"}}, "plan.sealed_at"),
    ],
)
def test_experiment__wrong_population_or_plan__is_422_and_stores_nothing(
    client: httpx.Client, fields: Json, field: str
) -> None:
    body = experiment_body(**fields)
    expect_problem(client.post("/experiments", json=body), 422, field=field)
    expect_problem(client.get(f"/experiments/{body['key']}"), 404)
    draft = make_experiment(client, state="draft")
    expect_problem(client.patch(f"/experiments/{draft['id']}", json=fields), 422, field=field)
    assert client.get(f"/experiments/{draft['id']}").json() == draft


def test_plan__of_a_draft__follows_its_metrics_until_the_start(client: httpx.Client) -> None:
    follows, pinned = _metric(client), _metric(client)
    plan = _plan(follows, hypothesis="More sales", sample_size=5000, stopping_rule="always_valid")
    plan["metrics"].append({"metric": pinned, "role": "guardrail", "margin": 0.05, "version": 1})
    experiment = make_experiment(client, state="draft", plan=plan)
    assert [item["version"] for item in experiment["plan"]["metrics"]] == [None, None, 1]
    for key in (follows, pinned):
        assert client.patch(f"/metrics/{key}", json={"cap": 7}).json()["version"] == 2
    assert [(item["version"], item["recipe"]["cap"]) for item in _attached(client, experiment)] == [
        *((None, None), (2, 7), (1, None)),
    ]
    draft = _sealed(client, experiment)
    assert (draft["hash"], draft["sealed_at"], draft["verified"]) == (None, None, None)

    started = take(client, experiment, "start")
    assert client.patch(f"/metrics/{follows}", json={"cap": 8}).json()["version"] == 3

    assert [item["version"] for item in started["plan"]["metrics"]] == [None, 2, 1]
    assert [item["recipe"]["cap"] for item in _attached(client, experiment)] == [None, 7, None]
    assert client.get(f"/experiments/{experiment['id']}").json() == started
    document = _sealed(client, experiment)["document"]
    assert document | {"sealed_at": None} == draft["document"]
    assert (document["hypothesis"], document["metrics"][1]["recipe"]["cap"]) == ("More sales", 7)


def test_plan__changed_in_a_draft__is_set_as_a_whole(client: httpx.Client) -> None:
    experiment = make_experiment(client, state="draft", plan=_plan(_metric(client), hypothesis="A"))
    path = f"/experiments/{experiment['id']}"
    other = {"sample_size": 100, "metrics": [{"metric": "avg_value", "role": "secondary"}]}
    after = client.patch(path, json={"plan": other}).json()
    assert (after["plan"]["hypothesis"], after["plan"]["sample_size"]) == (None, 100)
    assert [item["metric"] for item in after["plan"]["metrics"]] == ["avg_value"]
    again = {name: after["plan"][name] for name in after["plan"] if name not in {"sealed_at", "hash"}}
    assert client.patch(path, json={"plan": again}).json() == after
    assert client.patch(path, json={"plan": None}).json()["plan"] == _EMPTY_PLAN
    assert client.delete(path).status_code == 204


@pytest.mark.parametrize("at_once", [True, False])
def test_plan__at_the_start__is_sealed_with_a_hash_that_anybody_can_check(
    client: httpx.Client, *, at_once: bool
) -> None:
    fields: Json = {"plan": _plan(_metric(client), sample_size=100), "population": _POPULATION}
    if at_once:
        experiment = client.post("/experiments", json=experiment_body(status="running", **fields)).json()
    else:
        experiment = make_experiment(client, **fields)

    sealed = _sealed(client, experiment)

    assert sealed["hash"] == hashlib.sha256(sealed["canonical"].encode()).hexdigest() == experiment["plan"]["hash"]
    assert sealed["sealed_at"] == experiment["plan"]["sealed_at"] == experiment["started_at"]
    assert (sealed["verified"], sealed["problems"], sealed["changed_since"]) == (True, [], [])
    document = sealed["document"]
    assert (document["seed"], document["traffic_pct"]) == (experiment["seed"], 100)
    assert document["population"] == _POPULATION
    assert [item["bucket_end"] for item in document["variants"]] == [5000, 10_000]
    assert [(item["metric"], item["version"], item["role"]) for item in document["metrics"]] == [
        ("conversion_rate", 1, "primary"),
        (fields["plan"]["metrics"][1]["metric"], 1, "secondary"),
    ]
    audited = client.get("/audit", params={"subject": f"experiment:{experiment['id']}"}).json()["items"][0]
    assert audited["details"]["plan_hash"] == sealed["hash"]


def test_plan__of_an_experiment_without_one__is_sealed_all_the_same(client: httpx.Client) -> None:
    sealed = _sealed(client, make_experiment(client))
    assert (sealed["verified"], sealed["document"]["metrics"]) == (True, [])


@pytest.mark.parametrize("state", [*_STARTED, "archived"])
def test_plan__after_the_start__cannot_change(client: httpx.Client, state: str) -> None:
    plan = _plan(_metric(client), hypothesis="A")
    experiment = make_experiment(client, state=state, plan=plan)
    path = f"/experiments/{experiment['id']}"
    for changed in (None, {**plan, "hypothesis": "B"}, {**plan, "metrics": plan["metrics"][:1]}):
        problem = expect_problem(client.patch(path, json={"plan": changed}), 409, field="plan")
        if state in {"running", "paused"}:
            assert "/metrics" in problem["detail"]
    assert client.patch(path, json={"plan": plan}).json() == experiment
    assert client.get(path).json() == experiment


@pytest.mark.parametrize("state", _STARTED)
def test_metric__attached_after_the_start__is_exploratory_for_ever(client: httpx.Client, state: str) -> None:
    planned, later = _metric(client), _metric(client)
    experiment = make_experiment(client, state=state, plan=_plan(planned))
    path = f"/experiments/{experiment['id']}/metrics"

    added = client.post(path, json={"metric": later, "role": "guardrail", "margin": 0.1})
    assert added.status_code == 201, added.text
    client.patch(f"/metrics/{later}", json={"cap": 7})

    assert (added.json()["exploratory"], added.json()["version"], added.json()["margin"]) == (True, 1, 0.1)
    items = _attached(client, experiment)
    assert [(item["metric"], item["exploratory"], item["version"]) for item in items] == [
        ("conversion_rate", False, None),
        (planned, False, 1),
        (later, True, 1),
    ]
    after = client.get(f"/experiments/{experiment['id']}").json()
    assert (after["plan"], after["version"]) == (experiment["plan"], experiment["version"] + 1)
    assert _sealed(client, experiment)["verified"] is True

    expect_problem(client.post(path, json={"metric": later, "role": "secondary"}), 409)
    expect_problem(client.post(path, json={"metric": "avg_value", "role": "primary"}), 409, field="role")
    problem = expect_problem(client.delete(f"{path}/{planned}"), 409)
    assert problem["type"].endswith(":planned-metric-stays")
    metric_id = items[2]["metric_id"]
    assert client.delete(f"{path}/{metric_id}").status_code == 204
    expect_problem(client.delete(f"{path}/{later}"), 404)
    assert client.delete(f"/metrics/{later}").status_code == 204
    actions = [entry["action"] for entry in walk(client, "/audit", subject=f"experiment:{experiment['id']}")]
    assert actions[:2] == ["experiment.metric_detached", "experiment.metric_attached"]


def test_metric__attached_to_a_draft__is_part_of_its_plan(client: httpx.Client) -> None:
    experiment = make_experiment(client, state="draft")
    path = f"/experiments/{experiment['id']}/metrics"
    for metric, role in (("conversion_rate", "primary"), ("avg_value", "secondary")):
        added = client.post(path, json={"metric": metric, "role": role})
        assert (added.status_code, added.json()["exploratory"]) == (201, False)
        assert (added.json()["metric_id"], added.json()["version"]) == (None, None)
    problem = expect_problem(client.post(path, json={"metric": "p95_value", "role": "primary"}), 409)
    assert problem["type"].endswith(":primary-taken")
    assert client.delete(f"{path}/conversion_rate").status_code == 204
    client.post(path, json={"metric": "p95_value", "role": "primary"})

    started = take(client, experiment, "start")

    assert [(item["metric"], item["role"]) for item in started["plan"]["metrics"]] == [
        ("avg_value", "secondary"),
        ("p95_value", "primary"),
    ]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"metric": "no-such-metric", "role": "secondary"}, 422, "metric"),
        ({"metric": "event_count", "role": "secondary"}, 422, "metric"),
        ({"metric": "avg_value", "role": "secondary", "version": 2}, 422, "version"),
        ({"metric": "avg_value", "role": "secondary", "margin": 0.5}, 422, "margin"),
        ({"metric": "avg_value"}, 422, "role"),
        ({"role": "secondary"}, 422, "metric"),
    ],
)
def test_attach__wrong_metric__names_the_field(client: httpx.Client, body: Json, status: int, field: str) -> None:
    experiment = make_experiment(client)
    expect_problem(client.post(f"/experiments/{experiment['id']}/metrics", json=body), status, field=field)
    assert client.get(f"/experiments/{experiment['id']}").json() == experiment


def test_attach__version_that_there_is_not__names_those_there_are(client: httpx.Client) -> None:
    experiment, metric = make_experiment(client), _metric(client)
    body = {"metric": metric, "role": "secondary", "version": 2}
    response = client.post(f"/experiments/{experiment['id']}/metrics", json=body)
    assert "versions 1 to 1" in expect_problem(response, 422, field="version")["detail"]


def test_metrics__that_need_no_set_up__have_no_version_as_in_results(client: httpx.Client) -> None:
    experiment = make_experiment(client, plan=_plan(_metric(client)))
    assert [item["version"] for item in _attached(client, experiment)] == [None, 1]
    assert [item["version"] for item in experiment["plan"]["metrics"]] == [None, 1]
    results = client.get(f"/experiments/{experiment['id']}/results", params={"metrics": "attached"}).json()
    assert [item["version"] for item in results["definitions"]] == [None, 1]


def test_metrics__of_an_archived_experiment__stay(client: httpx.Client) -> None:
    plan = {"metrics": [{"metric": "avg_value", "role": "secondary"}]}
    experiment = make_experiment(client, state="archived", plan=plan)
    path = f"/experiments/{experiment['id']}/metrics"
    expect_problem(client.post(path, json={"metric": "p95_value", "role": "secondary"}), 409, field="metric")
    expect_problem(client.delete(f"{path}/avg_value"), 409, field="metric")
    assert [item["metric"] for item in _attached(client, experiment)] == ["avg_value"]


def test_plan_and_metrics__of_no_experiment__are_404(client: httpx.Client) -> None:
    path = "/experiments/no-such-experiment"
    expect_problem(client.get(f"{path}/plan"), 404)
    expect_problem(client.get(f"{path}/metrics"), 404)
    expect_problem(client.post(f"{path}/metrics", json={"metric": "avg_value", "role": "secondary"}), 404)
    expect_problem(client.delete(f"{path}/metrics/avg_value"), 404)
    expect_problem(client.delete(f"/experiments/{make_experiment(client)['id']}/metrics/avg_value"), 404)


@pytest.mark.xdist_group("two-processes")
def test_metric__changed_in_one_process__is_what_drafts_in_another_have(
    client: httpx.Client, second_service: ServiceProcess
) -> None:
    metric = _metric(client)
    experiment = make_experiment(client, state="draft", plan=_plan(metric))
    with second_service.client() as other:
        client.patch(f"/metrics/{metric}", json={"cap": 3})
        items = other.get(f"/api/v1/experiments/{experiment['id']}/metrics").json()["items"]
    assert (items[1]["version"], items[1]["recipe"]["cap"]) == (2, 3)


def test_metric__removed_while_drafts_plan_with_it__is_archived_or_nobodys(client: httpx.Client) -> None:
    for _ in range(5):
        metric = _metric(client)
        body = experiment_body(plan=_plan(metric))
        with ThreadPoolExecutor(2) as pool:
            created = pool.submit(client.post, "/experiments", json=body)
            deleted = pool.submit(client.delete, f"/metrics/{metric}")
        assert deleted.result().status_code == 204
        left = client.get(f"/metrics/{metric}")
        assert (created.result().status_code, left.status_code) in {(201, 200), (422, 404)}
        assert left.status_code == 404 or left.json()["archived_at"] is not None


def test_metric__changed_while_its_experiment_starts__is_sealed_as_it_was_or_as_it_is(client: httpx.Client) -> None:
    for _ in range(5):
        metric = _metric(client)
        experiment = make_experiment(client, state="draft", plan=_plan(metric))
        with ThreadPoolExecutor(2) as pool:
            change = pool.submit(client.patch, f"/metrics/{metric}", json={"cap": 5})
            started = take(client, experiment, "start")
            assert change.result().status_code == 200
        version = started["plan"]["metrics"][1]["version"]
        used = _attached(client, experiment)[1]
        assert (used["version"], used["recipe"]["cap"]) == (version, {1: None, 2: 5}[version])
        assert _sealed(client, experiment)["verified"] is True


def test_sealed_plan__in_the_database__can_be_neither_changed_nor_deleted(
    client: httpx.Client, service: ServiceProcess
) -> None:
    experiment = make_experiment(client)
    for statement in (
        "UPDATE sealed_plans SET hash = repeat('0', 64) WHERE experiment_id = $1",
        "DELETE FROM sealed_plans WHERE experiment_id = $1",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            service.rows(statement, experiment["id"])


def test_sealed_plan__rows_tampered_with__is_not_verified(client: httpx.Client, service: ServiceProcess) -> None:
    metric = _metric(client)
    plan = {"sample_size": 500, "metrics": [{"metric": metric, "role": "primary"}]}
    experiment, other = make_experiment(client, plan=plan), make_experiment(client, plan=plan)

    service.rows("UPDATE experiments SET plan = plan || '{\"sample_size\": 50}' WHERE id = $1", experiment["id"])
    found = _sealed(client, experiment)
    assert (found["verified"], found["problems"]) == (False, ["sample_size is not what was sealed"])
    assert _sealed(client, other)["verified"] is True

    service.rows(
        "UPDATE metric_versions SET recipe = recipe || '{\"cap\": 1}'"
        " WHERE metric_id = (SELECT id FROM metrics WHERE key = $1)",
        metric,
    )
    assert _sealed(client, other)["problems"] == ["metrics is not what was sealed"]


def test_sealed_plan__text_exchanged_behind_the_trigger__is_not_verified(
    client: httpx.Client, service: ServiceProcess
) -> None:
    experiment = make_experiment(client)
    exchange = (
        "UPDATE sealed_plans SET document = replace(document, '\"seed\":', '\"seeds\":') WHERE experiment_id = $1"
    )
    asyncio.run(_past_the_triggers(service.postgres_url, exchange, experiment["id"]))

    found = _sealed(client, experiment)

    assert (found["verified"], found["problems"]) == (False, ["the sealed text does not have this hash"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("document = 'not json'", "does not have this hash"),
        ("document = '[]', hash = encode(sha256('[]'), 'hex')", "is no JSON object"),
    ],
)
def test_sealed_plan__exchanged_for_what_is_no_plan__is_shown_and_not_verified(
    client: httpx.Client, service: ServiceProcess, change: str, problem: str
) -> None:
    experiment = make_experiment(client)
    sealed = f"UPDATE sealed_plans SET {change} WHERE experiment_id = $1"
    asyncio.run(_past_the_triggers(service.postgres_url, sealed, experiment["id"]))

    found = _sealed(client, experiment)
    report = client.get(f"/experiments/{experiment['key']}/report")

    assert (found["verified"], found["document"]) == (False, None)
    assert problem in found["problems"][0]
    assert (report.status_code, "BROKEN" in report.text) == (200, True)


def test_sealed_plan__removed__is_not_verified(client: httpx.Client, service: ServiceProcess) -> None:
    experiment = make_experiment(client)
    hashed = _sealed(client, experiment)["hash"]
    gone = "DELETE FROM sealed_plans WHERE experiment_id = $1"
    asyncio.run(_past_the_triggers(service.postgres_url, gone, experiment["id"]))

    found = _sealed(client, experiment)
    report = client.get(f"/experiments/{experiment['key']}/report")

    assert (found["verified"], found["hash"]) == (False, None)
    assert hashed in found["problems"][0]
    assert (report.status_code, "BROKEN" in report.text) == (200, True)


def test_sealed_plan__exchanged_together_with_its_hash__contradicts_the_audit_log(
    client: httpx.Client, service: ServiceProcess
) -> None:
    experiment = client.post("/experiments", json=experiment_body(status="running")).json()
    exchange = (
        "WITH other AS (SELECT experiment_id, replace(document, '\"seed\":', '\"seeds\":') AS document"
        " FROM sealed_plans WHERE experiment_id = $1)"
        " UPDATE sealed_plans SET document = other.document,"
        " hash = encode(sha256(convert_to(other.document, 'UTF8')), 'hex')"
        " FROM other WHERE sealed_plans.experiment_id = other.experiment_id"
    )
    asyncio.run(_past_the_triggers(service.postgres_url, exchange, experiment["id"]))

    assert any("entry of the start has another hash" in problem for problem in _sealed(client, experiment)["problems"])


async def _past_the_triggers(url: str, statement: str, *arguments: object) -> None:
    """Do what somebody with the database's password can do: no trigger runs in such a session."""
    connection = await asyncpg.connect(url, ssl=False)
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")
            await connection.execute(statement, *arguments)
    finally:
        await connection.close()


def test_outbox__of_an_experiment__says_its_population_plan_and_metrics(
    client: httpx.Client, service: ServiceProcess
) -> None:
    metric = _metric(client)
    experiment = make_experiment(client, plan=_plan(metric, sample_size=10), population=_POPULATION)
    rows = service.rows(
        "SELECT payload ->> 'definition' AS definition FROM outbox_events"
        " WHERE aggregatetype = 'experiment' AND aggregateid = $1 ORDER BY xid, seq",
        str(experiment["id"]),
    )
    definition = httpx.Response(200, content=rows[-1]["definition"]).json()
    assert definition["population"]["excluded_users"] == 2
    assert (definition["plan"]["sample_size"], definition["plan"]["hash"]) == (10, experiment["plan"]["hash"])
    assert [(item["metric"], item["version"]) for item in definition["metrics"]] == [
        ("conversion_rate", 1),
        (metric, 1),
    ]


def test_attach__more_metrics_than_one_looks_at__is_409(client: httpx.Client, service: ServiceProcess) -> None:
    experiment = make_experiment(client, plan=_plan())
    # A hundred requests would take longer than they tell.
    service.rows(
        "WITH made AS (INSERT INTO metrics (project_id, key, change_epoch)"
        " SELECT 1, 'full-' || $1::text || '-' || number, 0 FROM generate_series(1, 99) AS number RETURNING id, key),"
        " versions AS (INSERT INTO metric_versions (metric_id, version, name, recipe, direction)"
        " SELECT id, 1, key, jsonb_build_object('kind', 'count', 'selections', '[{\"event_types\": []}]'::jsonb), 'up'"
        " FROM made RETURNING metric_id)"
        " INSERT INTO experiment_metrics (experiment_id, position, metric_id, metric_version, role, exploratory)"
        " SELECT $2, row_number() OVER (), metric_id, 1, 'secondary', true FROM versions",
        unique("m"),
        experiment["id"],
    )
    path = f"/experiments/{experiment['id']}/metrics"
    problem = expect_problem(client.post(path, json={"metric": "p95_value", "role": "secondary"}), 409)
    assert problem["type"].endswith(":too-many-metrics")
