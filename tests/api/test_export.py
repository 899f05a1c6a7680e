"""GET /experiments/{experiment}/export: what is stored, in every form; and what is refused."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.exports.results_table import RESULT_COLUMNS
from app.exports.statements import ASSIGNMENT_COLUMNS, EVENT_COLUMNS
from app.exports.values import Column
from tests.factories import Json, ask, expect_problem, make_experiment, unique, user_path
from tests.integration.exports.reading import Row, read
from tests.service_process import ServiceProcess

_FORMS = ("csv", "json", "parquet")
_TYPES = {"csv": "text/csv; charset=utf-8", "json": "application/json", "parquet": "application/vnd.apache.parquet"}
_COLUMNS: dict[str, Sequence[Column]] = {
    "results": RESULT_COLUMNS,
    "assignments": ASSIGNMENT_COLUMNS,
    "events": EVENT_COLUMNS,
}
# What forms of file have trouble with: separators, quotes, formulas, words for nothing, other scripts.
_ODD_USERS = (
    *('a,b;"c"', "=1+1", "+1", "-1", "@x", "'", "\\N", "\\.", "NULL", "null", "nan", "true", "0x1", "1e5", " "),
    *("tab is refused but é😀 is not", "\u2028line", "}{][", '{"a":1}', "\\", "\\\\n", "x" * 256),
)


def _export(client: httpx.Client, experiment: Json, of: str, form: str, **query: Any) -> list[Row]:
    response = client.get(f"/experiments/{experiment['key']}/export", params={"of": of, "format": form, **query})
    assert response.status_code == 200, response.text
    return read(form, response.content, _COLUMNS[of])


def _import(client: httpx.Client, experiment: Json, rows: Sequence[tuple[str, str, datetime]]) -> None:
    items = [{"user_id": user, "variant": variant, "assigned_at": at.isoformat()} for user, variant, at in rows]
    response = client.post(f"/experiments/{experiment['id']}/assignments/import", json={"assignments": items})
    assert response.json()["accepted"] == len(rows), response.text


def _override(client: httpx.Client, experiment: Json, user_id: str, variant: str) -> None:
    path = f"/experiments/{experiment['id']}/overrides/{user_path(user_id)}"
    assert client.put(path, json={"variant": variant}).status_code == 200


def _send(client: httpx.Client, *events: Json) -> None:
    response = client.post("/events/batch", json={"events": events})
    assert response.json()["accepted"] == len(events), response.text


def _by(rows: Sequence[Row], name: str) -> dict[str, Row]:
    assert len({row[name] for row in rows}) == len(rows)
    return {row[name]: row for row in rows}


@pytest.mark.parametrize("form", _FORMS)
def test_export__of_assignments__holds_every_user_as_stored(
    client: httpx.Client, service: ServiceProcess, form: str
) -> None:
    experiment = make_experiment(client)
    imported_at = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
    _import(client, experiment, [(user, f"v{index % 2}", imported_at) for index, user in enumerate(_ODD_USERS)])
    context = {"country": 'É,"x"\n', "deep": {"list": [1, 2.5, None, True]}, "": ""}
    body = {"experiment": experiment["key"], "user_id": "with context", "context": context}
    assert client.post("/assignments", json=body).status_code == 200
    _override(client, experiment, "=1+1", "v0")
    _override(client, experiment, "forced alone", "v1")

    rows = _by(_export(client, experiment, "assignments", form), "user_id")

    stored = service.rows(
        "SELECT a.*, v.key FROM assignments a JOIN variants v ON v.id = a.variant_id WHERE a.experiment_id = $1",
        experiment["id"],
    )
    assert rows.keys() == {row["user_id"] for row in stored} | {"forced alone"}
    for row in stored:
        exported = rows[row["user_id"]]
        assert (exported["assigned_variant"], exported["assigned_at"]) == (row["key"], row["assigned_at"])
        assert exported["context"] == (None if row["context"] is None else json.loads(row["context"]))
        if row["user_id"] != "=1+1":
            assert (exported["variant"], exported["source"]) == (row["key"], row["source"])
            assert (exported["exposed_at"], exported["override"]) == (row["assigned_at"], False)
            assert (exported["ingested_at"], exported["experiment_version"]) == (
                row["ingested_at"],
                row["experiment_version"],
            )
    assert rows["with context"]["context"] == context
    (forced,) = service.rows("SELECT * FROM overrides WHERE experiment_id = $1 AND user_id = '=1+1'", experiment["id"])
    assert rows["=1+1"]["exposed_at"] == forced["exposed_at"]
    assert (rows["=1+1"]["variant"], rows["=1+1"]["source"], rows["=1+1"]["override"]) == ("v0", "override", True)
    assert rows["forced alone"]["assigned_at"] is rows["forced alone"]["assigned_variant"] is None


@pytest.mark.parametrize("form", _FORMS)
def test_export__of_events__holds_those_that_count_to_the_last_bit(
    client: httpx.Client, service: ServiceProcess, form: str
) -> None:
    experiment, other = make_experiment(client), make_experiment(client)
    user, stranger, forced = unique("user"), unique("stranger"), unique("forced")
    exposed_at = datetime.fromisoformat(ask(client, experiment, user)["assigned_at"])
    _override(client, experiment, forced, "v1")
    values = [0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308, 1e22, 123456789.123456789, None, 0]
    counted: list[Json] = [
        {
            "event_id": str(uuid4()),
            "user_id": user,
            "event_type": 'a,"type"',
            "timestamp": (exposed_at + timedelta(microseconds=index)).isoformat(),
            "value": value,
            "properties": {"text": 'line\nbreak, "quoted" \\ é😀', "deep": [{"n": None}, 1.5], "": index},
        }
        for index, value in enumerate(values)
    ]
    counted[1]["experiment_id"] = experiment["key"]
    del counted[2]["properties"]
    before = {**counted[0], "event_id": str(uuid4()), "timestamp": (exposed_at - timedelta(seconds=1)).isoformat()}
    named_other = {**counted[0], "event_id": str(uuid4()), "experiment_id": other["key"]}
    of_stranger = {**counted[0], "event_id": str(uuid4()), "user_id": stranger}
    of_forced = {"event_id": str(uuid4()), "user_id": forced, "event_type": "x"}
    _send(client, *counted, before, named_other, of_stranger, of_forced)

    rows = _by(_export(client, experiment, "events", form), "event_id")
    everything = _by(_export(client, experiment, "events", form, counted="false"), "event_id")
    with_overrides = _by(_export(client, experiment, "events", form, include_overrides="true"), "event_id")

    assert rows.keys() == {event["event_id"] for event in counted}
    assert with_overrides.keys() == rows.keys() | {of_forced["event_id"]}
    assert everything.keys() == with_overrides.keys() | {before["event_id"], named_other["event_id"]}
    assert {event_id for event_id, row in everything.items() if row["counted"]} == rows.keys()
    assert everything[of_forced["event_id"]]["override"]
    for event in counted:
        row = rows[event["event_id"]]
        (stored,) = service.rows("SELECT * FROM events WHERE event_id = $1", UUID(event["event_id"]))
        assert (row["user_id"], row["event_type"]) == (user, event["event_type"])
        assert (row["timestamp"], row["ingested_at"]) == (stored["ts"], stored["ingested_at"])
        assert (row["exposed_at"], row["counted"]) == (exposed_at, True)
        assert row["value"] == stored["value"]
        assert row["properties"] == event.get("properties", json.loads(stored["properties"] or "null"))
        assert row["experiment_id"] == (experiment["id"] if "experiment_id" in event else None)


def test_export__of_events_filtered__takes_the_filters_of_results(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    user, t0 = unique("user"), datetime(2026, 3, 1, tzinfo=UTC)
    _import(client, experiment, [(user, "v0", t0)])
    _send(
        client,
        *(
            {"event_type": kind, "user_id": user, "timestamp": (t0 + timedelta(days=day)).isoformat(), "value": day}
            for kind in ("buy", "view", "leave")
            for day in range(4)
        ),
    )
    rows = _export(
        client, experiment, "events", "json", event_type=["buy", "view"], start_date="2026-03-02", end_date="2026-03-04"
    )
    assert sorted((row["event_type"], row["value"]) for row in rows) == [
        *(("buy", 1.0), ("buy", 2.0)),
        *(("view", 1.0), ("view", 2.0)),
    ]


def test_export__of_events_by_context__keeps_users_with_that_value(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    for user, country in (("a", "DE"), ("b", "D'E\\")):
        body = {"experiment": experiment["key"], "user_id": f"{experiment['key']}-{user}", "context": {"c": country}}
        assert client.post("/assignments", json=body).status_code == 200
        _send(client, {"event_type": "buy", "user_id": body["user_id"]})
    rows = _export(client, experiment, "events", "csv", **{"context.c": "D'E\\"})
    assert [row["user_id"] for row in rows] == [f"{experiment['key']}-b"]


def test_export__of_an_experiment_with_a_population__says_who_counts_as_results_do(client: httpx.Client) -> None:
    unwanted = {"exclude_users": ["tester"], "exclude_context": [{"name": "bot", "value": "true"}]}
    experiment = make_experiment(client, population={"exposure": "event", **unwanted})
    for user in ("seen", "unseen", "tester", "bot", "strayed"):
        body = {"experiment": experiment["key"], "user_id": user, "context": {"bot": user == "bot"}}
        assert client.post("/assignments", json=body).status_code == 200
    assigned = _by(_export(client, experiment, "assignments", "json"), "user_id")
    seen_at = assigned["strayed"]["assigned_at"] + timedelta(seconds=1)
    other = "v0" if assigned["strayed"]["variant"] == "v1" else "v1"
    # Other tests have users of these names, and theirs may buy as well.
    bought_type = unique("buy")
    exposure = {"event_type": "exposure", "experiment_id": experiment["key"], "timestamp": seen_at.isoformat()}
    _send(
        client,
        *({**exposure, "user_id": user} for user in ("seen", "tester", "bot")),
        {**exposure, "user_id": "strayed", "properties": {"variant": other}},
        *(
            {"event_type": bought_type, "user_id": user, "timestamp": (seen_at + timedelta(seconds=after)).isoformat()}
            for user in assigned
            for after in (-0.5, 0.5)
        ),
    )

    users = _by(_export(client, experiment, "assignments", "json"), "user_id")
    bought = _export(client, experiment, "events", "json", event_type=bought_type)
    everything = _export(client, experiment, "events", "json", event_type=bought_type, counted="false")

    assert {name: (row["exposed_at"], row["excluded"]) for name, row in users.items()} == {
        "seen": (seen_at, None),
        "unseen": (None, None),
        "tester": (seen_at, "EXCLUDED_USER"),
        "bot": (seen_at, "EXCLUDED_CONTEXT"),
        "strayed": (seen_at, "TWO_VARIANTS"),
    }
    assert [(row["user_id"], row["timestamp"]) for row in bought] == [("seen", seen_at + timedelta(seconds=0.5))]
    assert [row for row in everything if row["counted"]] == bought
    assert sorted(row["user_id"] for row in everything) == sorted([*users, *users])
    answer = client.get(f"/experiments/{experiment['key']}/results", params={"metrics": "event_count"}).json()
    assert answer["metadata"]["total_users"] == 1


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_export__of_results__has_the_numbers_of_results(client: httpx.Client, form: str) -> None:
    experiment = _with_purchases(client)
    query: dict[str, Any] = {
        "metrics": ["conversion_rate", "avg_value", "p95_value", "event_count"],
        "confidence_level": 90,
    }
    answer = client.get(f"/experiments/{experiment['key']}/results", params=query).json()

    rows = _export(client, experiment, "results", form, **query)

    assert [(row["variant"], row["metric"]) for row in rows] == [
        (variant["key"], metric) for variant in answer["variants"] for metric in query["metrics"]
    ]
    shown = {(item["key"], metric): one for item in answer["variants"] for metric, one in item["metrics"].items()}
    compared = {(item["variant"], item["metric"]): item for item in answer["comparisons"]}
    for row in rows:
        measured = shown[row["variant"], row["metric"]]
        assert {name: row[name] for name in measured} == measured
        comparison = compared.get((row["variant"], row["metric"]))
        if comparison is None:
            assert row["control"] is row["p_value"] is row["bayes_prob_better"] is None
            continue
        flat = {name: value for name, value in comparison.items() if name in row and name != "null_reason"}
        assert flat.keys() >= {"difference", "lift", "p_value", "p_value_bh", "always_valid_ci_upper", "method"}
        assert {name: row[name] for name in flat} == flat
        for block in ("bayes", "cuped"):
            assert row[f"{block}_null_reason"] == comparison[block]["null_reason"]
            shared = {f"{block}_{name}": value for name, value in comparison[block].items() if f"{block}_{name}" in row}
            assert shared
            assert {name: row[name] for name in shared} == shared


def test_export__of_results_with_another_pair__has_a_row_for_each_comparison(client: httpx.Client) -> None:
    experiment = make_experiment(client, 40, 30, 30)
    rows = _export(client, experiment, "results", "csv", metrics="conversion_rate", compare="v2:v1")
    assert [(row["variant"], row["control"]) for row in rows] == [
        *(("v0", None), ("v1", "v0")),
        *(("v2", "v0"), ("v2", "v1")),
    ]


def test_export__of_results_as_json__is_the_answer_of_results(client: httpx.Client) -> None:
    experiment = _with_purchases(client)
    path = f"/experiments/{experiment['key']}"
    exported = client.get(f"{path}/export", params={"of": "results", "format": "json", "fresh": "true"}).json()
    answer = client.get(f"{path}/results", params={"fresh": "true"}).json()
    for one in (exported, answer):
        del one["provenance"]
        for moment in ("computed_at", "complete_until", "source", "rollups"):
            del one["metadata"][moment]
    assert exported == answer


def _with_purchases(client: httpx.Client) -> Json:
    experiment = make_experiment(client)
    t0 = datetime(2026, 3, 1, tzinfo=UTC)
    users = [(unique("user"), f"v{index % 2}", t0) for index in range(40)]
    _import(client, experiment, users)
    _send(
        client,
        *(
            {"user_id": user, "event_type": "buy", "timestamp": t0.isoformat(), "value": 10 + index / 7}
            for index, (user, _, _) in enumerate(users)
            if index % 3
        ),
    )
    return experiment


@pytest.mark.parametrize("of", ["assignments", "events"])
@pytest.mark.parametrize("form", _FORMS)
def test_export__of_nothing__is_a_whole_file_without_rows(client: httpx.Client, of: str, form: str) -> None:
    assert _export(client, make_experiment(client), of, form) == []


@pytest.mark.parametrize("of", list(_COLUMNS))
@pytest.mark.parametrize("form", _FORMS)
def test_export__of_any_kind__is_a_named_attachment(client: httpx.Client, of: str, form: str) -> None:
    experiment = make_experiment(client)
    response = client.get(f"/experiments/{experiment['id']}/export", params={"of": of, "format": form})
    assert response.status_code == 200
    assert response.headers["content-disposition"] == f'attachment; filename="{experiment["key"]}-{of}.{form}"'
    assert response.headers["content-type"] == _TYPES[form]
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"of": "everything"}, "of"),
        ({"format": "xlsx"}, "format"),
        ({"of": "events", "metrics": "conversion_rate"}, "metrics"),
        ({"of": "events", "counted": "false", "context.a": "b"}, "context.a"),
        ({"of": "assignments", "context.a": "b"}, "context.a"),
        ({"of": "assignments", "start_date": "2026-01-01"}, "start_date"),
        ({"of": "assignments", "counted": "true"}, "counted"),
        ({"of": "results", "counted": "false"}, "counted"),
        ({"of": "results", "breakdown": "country"}, "breakdown"),
        ({"of": "results", "format": "parquet", "effect_over_time": "true"}, "effect_over_time"),
        ({"of": "results", "format": "parquet", "granularity": "hour"}, "granularity"),
        ({"of": "results", "planned_sample": "100"}, "planned_sample"),
        ({"of": "events", "counted": "perhaps"}, "counted"),
        ({"of": "events", "limit": "5"}, "limit"),
        ({"of": "events", "start_date": "2026-01-02", "end_date": "2026-01-01"}, "end_date"),
    ],
)
def test_export__parameter_that_does_not_belong__is_422(
    client: httpx.Client, query: dict[str, str], field: str
) -> None:
    experiment = make_experiment(client)
    expect_problem(client.get(f"/experiments/{experiment['key']}/export", params=query), 422, field=field)


def test_export__of_results_with_what_no_table_holds__says_which_form_has_it(client: httpx.Client) -> None:
    path = f"/experiments/{make_experiment(client)['key']}/export"
    refused = client.get(path, params={"of": "results", "format": "csv", "breakdown": "country"})
    assert "format=json" in expect_problem(refused, 422, field="breakdown")["detail"]
    taken = client.get(path, params={"of": "results", "format": "json", "breakdown": "country"})
    assert taken.json()["breakdown"]["attribute"] == "country"


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_export__of_results_with_what_changes_no_table__is_the_same_table(client: httpx.Client, form: str) -> None:
    experiment = _with_purchases(client)
    plain = {"granularity": "day", "effect_over_time": "false"}
    assert _export(client, experiment, "results", form, **plain) == _export(client, experiment, "results", form)


def test_export__unknown_experiment__is_404(
    client: httpx.Client, empty_project: httpx.Client, make_token: Callable[..., Json]
) -> None:
    experiment = make_experiment(client)
    for of in _COLUMNS:
        expect_problem(client.get("/experiments/none/export", params={"of": of}), 404)
        expect_problem(empty_project.get(f"/experiments/{experiment['id']}/export", params={"of": of}), 404)
    headers = {"Authorization": f"Bearer {make_token('experiments:read')['token']}"}
    expect_problem(client.get(f"/experiments/{experiment['id']}/export", headers=headers), 403)
