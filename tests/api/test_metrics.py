"""Stored metrics over HTTP: made, listed, changed into versions, deleted."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.metrics.examples import EXAMPLES
from tests.conftest import MakeClient
from tests.factories import Json, expect_problem, experiment_body, make_experiment, take, unique, walk
from tests.service_process import ServiceProcess

_RECIPE = (
    *("kind", "event_types", "filters", "value", "denominator", "steps", "window", "cap", "winsorize", "quantile"),
    *("days", "covariate_days"),
)


def _make(client: httpx.Client, **fields: Any) -> Json:
    response = client.post("/metrics", json={"key": unique("metric"), "kind": "sum", **fields})
    assert response.status_code == 201, response.text
    metric: Json = response.json()
    return metric


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["kind"])
def test_metric__of_each_kind__comes_back_and_can_be_made_of_its_own_answer(
    client: httpx.Client, example: Json
) -> None:
    made = client.post("/metrics", json={**example, "key": unique("metric")})
    assert made.status_code == 201, made.text
    metric = made.json()
    assert made.headers["location"] == f"/api/v1/metrics/{metric['id']}"
    assert (metric["version"], metric["latest_version"], metric["archived_at"]) == (1, 1, None)
    for reference in (metric["id"], metric["key"]):
        assert client.get(f"/metrics/{reference}").json() == metric
    again = _make(client, **{name: metric[name] for name in (*_RECIPE, "name", "direction", "unit")})
    assert {name: again[name] for name in _RECIPE} == {name: metric[name] for name in _RECIPE}


def test_metrics__listed__newest_first_by_key_and_text(empty_project: httpx.Client) -> None:
    for key, name in (("buy-a", "Käufe"), ("buy-b", "Sales"), ("view-c", "Views 100%")):
        _make(empty_project, key=key, name=name, description="Text of " + key)
    assert [item["key"] for item in walk(empty_project, "/metrics", limit=2)] == ["view-c", "buy-b", "buy-a"]
    for query, expected in (
        ({"key_prefix": "buy"}, ["buy-b", "buy-a"]),
        ({"q": "KÄUFE"}, ["buy-a"]),
        ({"q": "100%"}, ["view-c"]),
        ({"q": "of view"}, ["view-c"]),
        ({"q": "nothing"}, []),
    ):
        assert [item["key"] for item in walk(empty_project, "/metrics", **query)] == expected, query


def test_metric__changed__makes_a_version_and_keeps_the_old_ones(client: httpx.Client) -> None:
    first = _make(client, event_type="purchase", cap=10, filters=[{"property": "a", "operator": "eq", "value": True}])
    path = f"/metrics/{first['key']}"

    changed = client.patch(path, json={"cap": None, "winsorize": 0.99, "name": "Tamed"})
    assert changed.status_code == 200, changed.text
    second = changed.json()

    assert (second["version"], second["name"], second["cap"], second["winsorize"]) == (2, "Tamed", None, 0.99)
    assert second["event_types"] == ["purchase"]
    assert (second["id"], second["created_at"]) == (first["id"], first["created_at"])
    assert second["changed_at"] > first["changed_at"]
    assert client.get(path).json() == second
    assert client.get(path, params={"version": 1}).json() == {**first, "latest_version": 2}
    other = [{"property": "a", "operator": "eq", "value": 1}]
    assert client.patch(path, json={"filters": other}).json()["version"] == 3
    assert [item["version"] for item in walk(client, f"{path}/versions", limit=1)] == [3, 2, 1]
    expect_problem(client.get(path, params={"version": 4}), 404)
    expect_problem(client.get(path, params={"version": 0}), 422, field="version")
    expect_problem(client.get(path, params={"version": 2**31}), 422, field="version")


def test_metric__changed_to_what_it_is__makes_no_version(client: httpx.Client) -> None:
    metric = _make(client, event_type="purchase", window="7d", unit="EUR")
    for body in ({}, {"window": 604_800}, {"event_types": ["purchase"]}, {"unit": "EUR", "value": "value"}):
        assert client.patch(f"/metrics/{metric['id']}", json=body).json() == metric


def test_metric__every_change__is_audited(client: httpx.Client) -> None:
    metric = _make(client)
    client.patch(f"/metrics/{metric['id']}", json={"unit": "EUR"})
    client.delete(f"/metrics/{metric['id']}")

    entries = client.get("/audit", params={"subject": f"metric:{metric['id']}"}).json()["items"]

    assert [entry["action"] for entry in entries] == ["metric.deleted", "metric.changed", "metric.created"]
    assert entries[1]["details"] == {"key": metric["key"], "version": 2, "unit": "EUR"}


def test_metric__key_that_is_taken__is_409_and_free_in_another_project(
    client: httpx.Client, empty_project: httpx.Client
) -> None:
    metric = _make(client)
    problem = expect_problem(client.post("/metrics", json={"key": metric["key"], "kind": "count"}), 409)
    assert problem["type"].endswith(":metric-key-taken")
    assert _make(empty_project, key=metric["key"])["id"] != metric["id"]


def test_metric__of_another_project__is_nobodys(client: httpx.Client, empty_project: httpx.Client) -> None:
    metric = _make(client)
    for reference in (metric["id"], metric["key"]):
        expect_problem(empty_project.get(f"/metrics/{reference}"), 404)
        expect_problem(empty_project.get(f"/metrics/{reference}/versions"), 404)
        expect_problem(empty_project.patch(f"/metrics/{reference}", json={"unit": "x"}), 404)
        expect_problem(empty_project.delete(f"/metrics/{reference}"), 404)
    plan = {"metrics": [{"metric": metric["key"], "role": "primary"}]}
    body = {"key": unique("exp"), "name": "E", "plan": plan, "variants": make_experiment(client)["variants"]}
    body["variants"] = [
        {name: item[name] for name in ("key", "name", "allocation_pct", "is_control")} for item in body["variants"]
    ]
    expect_problem(empty_project.post("/experiments", json=body), 422, field="plan.metrics.0.metric")


@pytest.mark.parametrize("form", ["0{id}", "0", "9" * 19, "9" * 30])
def test_metric__number_that_is_no_id__is_404(client: httpx.Client, form: str) -> None:
    expect_problem(client.get(f"/metrics/{form.format(id=_make(client)['id'])}"), 404)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "funnel"}, "steps"),
        ({"kind": "sum", "days": {"first": 0, "last": 1}}, "days"),
        ({"kind": "sum", "window": "x"}, "window.seconds"),
        ({"kind": "sum", "filters": [{"property": "p", "operator": "in", "value": []}]}, "filters.0.value"),
        ({"kind": "sum", "cap": 1e400}, "cap"),
        ({"kind": "sum", "x": 1}, "x"),
        ({"kind": "sum", "key": "conversion_rate"}, "key"),
        ({}, "kind"),
    ],
)
def test_metric__wrong_field__is_422(client: httpx.Client, body: Json, field: str) -> None:
    content = '{"key": "m", "kind": "sum", "cap": 1e400}' if body.get("cap") else None
    response = (
        client.post("/metrics", content=content, headers={"Content-Type": "application/json"})
        if content
        else client.post("/metrics", json={"key": unique("metric"), **body})
    )
    expect_problem(response, 422, field=field)


def test_metric__changed_into_none__is_422_and_stays(client: httpx.Client) -> None:
    metric = _make(client, cap=5)
    for body, field in (
        ({"winsorize": 0.9}, "winsorize"),
        ({"steps": [{"event_type": "a"}, {"event_type": "b"}]}, "steps"),
        ({"kind": "count"}, "kind"),
        ({"key": "other"}, "key"),
    ):
        expect_problem(client.patch(f"/metrics/{metric['id']}", json=body), 422, field=field)
    assert client.get(f"/metrics/{metric['id']}").json() == metric


def test_metric__stored_before_blank_types_were_refused__can_be_changed_and_archived(
    service: ServiceProcess, client: httpx.Client
) -> None:
    metric = _make(client, event_type="buy", cap=5)
    of_blanks = "UPDATE metric_versions SET recipe = jsonb_set(recipe, '{selections,0,event_types}', $2::jsonb)"
    service.rows(f"{of_blanks} WHERE metric_id = $1", metric["id"], '[" "]')
    path = f"/metrics/{metric['id']}"

    renamed = client.patch(path, json={"name": "Sales"})
    archived = client.patch(path, json={"archived": True})
    restored = client.patch(path, json={"archived": False, "cap": None})

    for response in (renamed, archived, restored):
        assert response.status_code == 200, response.text
        assert response.json()["event_types"] == [" "]
    assert (renamed.json()["name"], renamed.json()["version"]) == ("Sales", 2)
    assert archived.json()["archived_at"] is not None
    assert (restored.json()["cap"], restored.json()["archived_at"]) == (None, None)
    expect_problem(client.patch(path, json={"event_types": [" "]}), 422, field="event_types.0")
    assert client.patch(path, json={"event_type": "buy"}).json()["event_types"] == ["buy"]


def _plan_with(metric: Json, **fields: Any) -> Json:
    return {"metrics": [{"metric": metric["key"], "role": "secondary"}], **fields}


def _archived(client: httpx.Client, metric: Json) -> Json:
    """Archive a metric, and return it as it then is."""
    response = client.patch(f"/metrics/{metric['id']}", json={"archived": True})
    assert response.status_code == 200, response.text
    archived: Json = response.json()
    return archived


@pytest.mark.parametrize("state", ["draft", "running", "completed"])
def test_metric__that_experiments_use__is_archived_and_works_on_for_them(client: httpx.Client, state: str) -> None:
    metric = _make(client)
    experiment = make_experiment(client, state=state, plan=_plan_with(metric))

    for _ in range(2):
        assert client.delete(f"/metrics/{metric['id']}").status_code == 204

    archived = client.get(f"/metrics/{metric['key']}").json()
    assert archived["archived_at"] is not None
    assert archived == {**metric, "archived_at": archived["archived_at"]}
    assert client.get(f"/experiments/{experiment['id']}").json() == experiment
    results = client.get(f"/experiments/{experiment['id']}/results", params={"metrics": "attached"})
    assert [item["key"] for item in results.json()["definitions"]] == [metric["key"]]
    if state == "draft":
        # A plan is set as a whole, and what was in it before stays in it.
        kept = client.patch(
            f"/experiments/{experiment['id']}", json={"plan": _plan_with(metric, hypothesis="It works.")}
        )
        assert kept.json()["plan"]["metrics"] == experiment["plan"]["metrics"]
        assert take(client, experiment, "start")["plan"]["metrics"][0]["version"] == 1
    entries = client.get("/audit", params={"subject": f"metric:{metric['id']}"}).json()["items"]
    assert [entry["action"] for entry in entries] == ["metric.archived", "metric.created"]


def test_metric__archived__is_taken_by_no_other_experiment(client: httpx.Client) -> None:
    metric = _make(client)
    assert _archived(client, metric)["archived_at"] is not None

    refused = client.post("/experiments", json=experiment_body(plan=_plan_with(metric)))
    problem = expect_problem(refused, 422, field="plan.metrics.0.metric")
    assert '"archived": false' in problem["detail"]
    for state in ("draft", "running"):
        path = f"/experiments/{make_experiment(client, state=state)['id']}/metrics"
        expect_problem(client.post(path, json=_plan_with(metric)["metrics"][0]), 422, field="metric")
    taken = expect_problem(client.post("/metrics", json={"key": metric["key"], "kind": "sum"}), 409)
    assert "archived" in taken["detail"]


def test_metric__archived__does_not_change_until_it_is_restored(client: httpx.Client) -> None:
    metric = _make(client)
    archived = _archived(client, metric)
    path = f"/metrics/{metric['id']}"

    changes: list[Json] = [{"unit": "EUR"}, {"unit": "EUR", "archived": True}]
    for change in changes:
        problem = expect_problem(client.patch(path, json=change), 409)
        assert problem["type"].endswith(":metric-archived")
    no_changes: list[Json] = [{}, {"archived": True}, {"unit": None}]
    for change in no_changes:
        assert client.patch(path, json=change).json() == archived
    restored = client.patch(path, json={"archived": False, "unit": "EUR"}).json()

    assert (restored["archived_at"], restored["unit"], restored["version"]) == (None, "EUR", 2)
    assert client.patch(path, json={"archived": False}).json() == restored
    assert make_experiment(client, plan=_plan_with(metric))["plan"]["metrics"][0]["version"] == 2
    entries = client.get("/audit", params={"subject": f"metric:{metric['id']}"}).json()["items"]
    assert [entry["action"] for entry in entries[:3]] == ["metric.changed", "metric.restored", "metric.archived"]


def test_metrics__archived__are_listed_when_asked_for(empty_project: httpx.Client) -> None:
    kept, gone = _make(empty_project), _make(empty_project)
    _archived(empty_project, gone)

    assert [item["key"] for item in walk(empty_project, "/metrics")] == [kept["key"]]
    with_all = walk(empty_project, "/metrics", include_archived=True, limit=1)
    assert [(item["key"], item["archived_at"] is None) for item in with_all] == [
        (gone["key"], False),
        (kept["key"], True),
    ]


@pytest.mark.parametrize("archived", [None, "true", 1])
def test_metric__archived_by_no_truth_value__is_422(client: httpx.Client, archived: object) -> None:
    metric = _make(client)
    expect_problem(client.patch(f"/metrics/{metric['id']}", json={"archived": archived}), 422, field="archived")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["kind"])
def test_metric__changed_to_all_that_it_answers__is_the_same(client: httpx.Client, example: Json) -> None:
    metric = _make(client, **{**example, "key": unique("metric")})
    changeable = {name: metric[name] for name in (*_RECIPE[1:], "name", "description", "direction", "unit")}
    assert client.patch(f"/metrics/{metric['id']}", json=changeable).json() == metric


def test_metric__unused__is_deleted_with_its_versions(client: httpx.Client) -> None:
    metric = _make(client)
    client.patch(f"/metrics/{metric['id']}", json={"unit": "EUR"})
    response = client.delete(f"/metrics/{metric['key']}")
    assert (response.status_code, response.content) == (204, b"")
    for path in (f"/metrics/{metric['id']}", f"/metrics/{metric['key']}", f"/metrics/{metric['id']}/versions"):
        expect_problem(client.get(path), 404)
    assert _make(client, key=metric["key"])["version"] == 1


def test_metric__with_a_token_that_reads__is_read_and_not_written(
    service: ServiceProcess, client: httpx.Client, client_of: MakeClient, make_token: Callable[..., Json]
) -> None:
    metric = _make(client)
    reader = client_of(service, token=make_token("experiments:read")["token"])
    assert reader.get(f"/metrics/{metric['id']}").json() == metric
    expect_problem(reader.patch(f"/metrics/{metric['id']}", json={"unit": "x"}), 403)
