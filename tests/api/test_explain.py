"""The SQL of a number over HTTP: pasted into psql it gives what results say; and what is refused."""

import re
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.conftest import shared_stores
from tests.factories import Json, ask_many, expect_problem, make_experiment, unique
from tests.psql import pasted
from tests.service_process import ServiceProcess

_QUOTES = "O'Brien \\' {x:String} :x"


@pytest.fixture(scope="module")
def world(client: httpx.Client) -> Json:
    """Return an experiment of 40 users with a stored metric, of whom 25 bought for 3, 4, 5 and so on."""
    metric = {"key": unique("paid"), "kind": "sum", "event_type": "buy", "filters": [_filter("shop", _QUOTES)]}
    assert client.post("/metrics", json=metric).status_code == 201
    plan = {"metrics": [{"metric": metric["key"], "role": "primary"}]}
    experiment = make_experiment(client, plan=plan)
    name = unique("user")
    users = [f"{name}-{number}" for number in range(40)]
    variants = {answer["user_id"]: answer["variant"]["id"] for answer in ask_many(client, experiment, users)}
    events = [
        {
            "user_id": user,
            "event_type": "buy",
            "value": 3 + number,
            "properties": {"shop": _QUOTES if number % 2 else "elsewhere"},
        }
        for number, user in enumerate(users[:25])
    ]
    assert client.post("/events/batch", json={"events": events}).json()["accepted"] == 25
    paid: dict[int, int] = defaultdict(int)
    for number, user in enumerate(users[:25]):
        paid[variants[user]] += (3 + number) if number % 2 else 0
    return {"experiment": experiment, "metric": metric["key"], "paid": paid}


def _filter(name: str, value: str) -> Json:
    return {"property": name, "operator": "eq", "value": value}


def _explain(client: httpx.Client, experiment: Json, **body: Any) -> Json:
    response = client.post(f"/experiments/{experiment['key']}/query/explain", json=body)
    assert response.status_code == 200, response.text
    found: Json = response.json()
    return found


def _psql(
    service: ServiceProcess, explained: Json, part: str = "observed", *, by_segment: bool = False
) -> list[dict[str, str]]:
    """Paste one of the queries, as it is, into psql."""
    queries = {(query["part"], query["by_segment"]): query["sql"] for query in explained["postgresql"]["queries"]}
    return pasted(shared_stores(service)["DATABASE_URL"], queries[part, by_segment])


def test_explain__built_in_metrics_pasted_into_psql__give_what_results_say(
    client: httpx.Client, service: ServiceProcess, world: Json
) -> None:
    experiment, metrics = world["experiment"], ["conversion_rate", "event_count", "value_per_user", "avg_value"]
    results = client.get(
        f"/experiments/{experiment['key']}/results", params={"metrics": metrics, "event_type": "buy", "fresh": "true"}
    ).json()

    rows = _psql(service, _explain(client, experiment, metrics=metrics, event_type=["buy"]))

    for variant in results["variants"]:
        own = [row for row in rows if row["variant_id"] == str(variant["id"])]
        exposed = sum(int(row["users"]) for row in own if row["kind"] == "entry")
        (arm,) = [row for row in own if row["kind"] == "arm"]
        total = int(arm["total"]) * 2.0 ** -int(arm["exponent"])
        values = {key: metric["value"] for key, metric in variant["metrics"].items()}
        assert values == {
            "conversion_rate": int(arm["users"]) / exposed,
            "event_count": int(arm["events"]),
            "value_per_user": total / exposed,
            "avg_value": total / int(arm["valued"]),
        }


def test_explain__stored_metric_pasted_into_psql__gives_what_results_say(
    client: httpx.Client, service: ServiceProcess, world: Json
) -> None:
    question = {"metrics": world["metric"], "fresh": "true"}
    results = client.get(f"/experiments/{world['experiment']['key']}/results", params=question).json()

    rows = _psql(service, _explain(client, world["experiment"], metrics=[world["metric"]], source="hot"), "measured")

    exponents = [int(row["n1"]) for row in rows if row["kind"] == "exponent"]
    sums: dict[int, float] = defaultdict(float)
    exposed: dict[int, int] = defaultdict(int)
    for row in rows:
        if row["kind"] == "day":
            sums[int(row["variant_id"])] += int(row["n2"]) * 2.0 ** -exponents[0]
        if row["kind"] == "entry":
            exposed[int(row["variant_id"])] += int(row["n1"])
    assert sums == world["paid"]
    for variant in results["variants"]:
        assert variant["metrics"][world["metric"]]["value"] == sums[variant["id"]] / exposed[variant["id"]]


def test_explain__both_stores__hold_no_parameter_any_more(client: httpx.Client, world: Json) -> None:
    until = time.monotonic() + 20
    asked = {"start_date": "2026-01-01", "end_date": "2200-01-01", "event_type": ["buy"], "metrics": ["avg_value"]}
    while (explained := _explain(client, world["experiment"], **asked))["clickhouse"] is None:
        assert time.monotonic() < until, explained["notes"]
        time.sleep(0.2)

    for store in ("postgresql", "clickhouse"):
        without_texts = re.sub(r"'(?:[^'\\]|\\.|'')*'", "''", explained[store]["sql"])
        assert not re.search(r"\{\w+:", without_texts)
        assert not re.search(r"(?<![:\w]):[a-z]\w*", without_texts)
        assert explained[store]["settings"]
    assert "SETTINGS " in explained["clickhouse"]["sql"]
    assert any("ingested before" in note for note in explained["notes"])
    assert explained["metrics"] == ["avg_value"]
    assert [query["metrics"] for query in explained["clickhouse"]["queries"]] == [["avg_value"]]


@pytest.mark.parametrize(("source", "missing"), [("hot", "clickhouse"), ("cold", "postgresql")])
def test_explain__one_source__leaves_out_the_other(
    client: httpx.Client, world: Json, source: str, missing: str
) -> None:
    assert _explain(client, world["experiment"], source=source)[missing] is None


def test_explain__no_metrics__are_those_of_the_plan_and_of_every_answer(client: httpx.Client, world: Json) -> None:
    explained = _explain(client, world["experiment"])

    assert set(explained["metrics"]) >= {world["metric"], "conversion_rate", "unique_users"}
    queries = explained["postgresql"]["queries"]
    # Where a stored metric is followed day by day, the rate is as well, by its recipe.
    assert [(query["part"], query["metrics"]) for query in queries] == [
        ("observed", ["unique_users"]),
        ("measured", [world["metric"], "conversion_rate"]),
        ("duplicates", []),
    ]
    for query in queries:
        assert query["sql"].partition("-- ")[2] in explained["postgresql"]["sql"]


def test_explain__breakdown_by_day_with_covariates_and_quantiles__has_every_query(
    client: httpx.Client, service: ServiceProcess
) -> None:
    metric = {"key": unique("typical"), "kind": "quantile", "event_type": "buy", "quantile": 0.5}
    assert client.post("/metrics", json=metric).status_code == 201
    experiment = make_experiment(client)
    users = [unique("user") for _ in range(40)]
    for number, user in enumerate(users):
        body = {"experiment": experiment["key"], "user_id": user, "context": {"country": "DE" if number % 2 else "FR"}}
        client.post("/assignments", json=body).raise_for_status()
    events = [{"user_id": user, "event_type": "buy", "value": number % 9} for number, user in enumerate(users)]
    assert client.post("/events/batch", json={"events": events}).json()["accepted"] == len(users)
    asked: Json = {
        "metrics": [metric["key"], "value_per_user"],
        "breakdown": "country",
        "cuped_days": 7,
        "source": "hot",
    }
    results = client.get(f"/experiments/{experiment['key']}/results", params=asked | {"fresh": "true"}).json()

    explained = _explain(client, experiment, **asked)

    values = {
        row["label"]: int(row["variant_id"])
        for row in _psql(service, explained, by_segment=True)
        if row["kind"] == "segment"
    }
    bounds = {
        int(row["variant_id"]): (float(row["lower"]), float(row["upper"]))
        for row in _psql(service, explained, "bounds", by_segment=True)
    }
    assert sorted(values) == ["DE", "FR"]
    for segment in results["breakdown"]["segments"]:
        for variant in segment["variants"]:
            found = variant["metrics"][metric["key"]]
            if None not in (found["ci_lower"], found["ci_upper"]):
                assert bounds[64 * variant["id"] + values[segment["value"]]] == (found["ci_lower"], found["ci_upper"])
    assert bounds
    (first,) = {series["points"][0]["time"][:10] for series in results["effect_over_time"] if series["points"]}
    assert any(f"is {first} in PostgreSQL" in note for note in explained["notes"])
    assert any(row["kind"] == "day" for row in _psql(service, explained, "measured"))
    assert len(_psql(service, explained, "bounds")) == 2


def test_explain__users_and_contexts_left_out__are_written_into_the_text(
    client: httpx.Client, service: ServiceProcess
) -> None:
    population = {"exclude_users": [_QUOTES], "exclude_context": [{"name": "team", "value": _QUOTES}]}
    experiment = make_experiment(client, population=population)
    for user, context in ((_QUOTES, {}), (unique("user"), {"team": _QUOTES}), (unique("user"), {"team": "x"})):
        body = {"experiment": experiment["key"], "user_id": user, "context": context}
        client.post("/assignments", json=body).raise_for_status()

    rows = _psql(service, _explain(client, experiment, metrics=["conversion_rate"]))
    only = _psql(service, _explain(client, experiment, metrics=["conversion_rate"], context={"team": _QUOTES}))

    assert [row["users"] for row in rows if row["kind"] == "entry"] == ["1"]
    assert {(row["label"], row["users"]) for row in rows if row["kind"] == "excluded"} == {
        ("EXCLUDED_USER", "1"),
        ("EXCLUDED_CONTEXT", "1"),
    }
    assert [row["users"] for row in only if row["kind"] == "entry"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"metrics": ["no_such_metric"]}, "metrics.0"),
        ({"metrics": "conversion_rate"}, "metrics"),
        ({"source": "warm"}, "source"),
        ({"start_date": "2026-01-02", "end_date": "2026-01-01"}, "end_date"),
        ({"confidence_level": 100}, "confidence_level"),
        ({"cuped_days": 0}, "cuped_days"),
        ({"cuped_days": 366}, "cuped_days"),
        ({"cuped_days": "7"}, "cuped_days"),
        ({"breakdown": ""}, "breakdown"),
        ({"include_ci": True}, "include_ci"),
        ({"include_overrides": 1}, "include_overrides"),
        ({"effect_over_time": "yes"}, "effect_over_time"),
        ({"metrics": []}, "metrics"),
        ({"event_type": []}, "event_type"),
        ({"event_type": [" "]}, "event_type.0"),
        ({"context": {"country": 5}}, "context.country"),
    ],
)
def test_explain__wrong_question__names_the_field(client: httpx.Client, world: Json, body: Json, field: str) -> None:
    response = client.post(f"/experiments/{world['experiment']['key']}/query/explain", json=body)

    expect_problem(response, 422, field=field)


def test_explain__unknown_experiment__is_not_found(client: httpx.Client) -> None:
    expect_problem(client.post("/experiments/no-such-experiment/query/explain", json={}), 404)


def test_explain__date_of_tomorrow__is_its_midnight(client: httpx.Client, world: Json) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()

    explained = _explain(client, world["experiment"], end_date=tomorrow, source="hot")

    assert f"CAST('{tomorrow}T00:00:00+00:00' AS timestamptz)" in explained["postgresql"]["sql"]
