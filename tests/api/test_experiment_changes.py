"""PATCH, DELETE and the moves of experiments, in every state."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.factories import STATES, Json, ask, expect_problem, make_experiment, take, unique, variant_bodies

_MOVES = ("start", "pause", "resume", "complete", "archive")
_AFTER: dict[str, dict[str, str]] = {
    "draft": {"start": "running", "archive": "archived"},
    "running": {"pause": "paused", "complete": "completed"},
    "paused": {"resume": "running", "complete": "completed"},
    "completed": {"archive": "archived"},
    "archived": {},
}

_CHANGES: dict[str, Any] = {
    "name": "Another name",
    "description": "Another description",
    "config": {"a": 1},
    "traffic_pct": 55.5,
    "ends_at": "2032-01-01T00:00:00Z",
    "starts_at": "2031-01-01T00:00:00Z",
    "seed": "another-seed",
    "key": "set-by-the-test",
    "variants": variant_bodies(40, 60),
}
_FIXED_SINCE_THE_START = {"starts_at", "seed", "key", "variants"}
_REFUSED: dict[str, set[str]] = {
    "draft": set(),
    "running": _FIXED_SINCE_THE_START,
    "paused": _FIXED_SINCE_THE_START,
    "completed": set(_CHANGES) - {"name", "description"},
    "archived": set(_CHANGES),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("move", _MOVES)
def test_move__from_every_state__leads_on_or_names_what_is_allowed(client: httpx.Client, state: str, move: str) -> None:
    before = make_experiment(client, state=state)
    response = client.post(f"/experiments/{before['key']}/{move}")
    if (expected := _AFTER[state].get(move)) is None:
        problem = expect_problem(response, 409)
        assert sorted(problem["allowed"]) == sorted(_AFTER[state])
        assert client.get(f"/experiments/{before['id']}").json() == before
        return
    after = response.json()
    assert response.status_code == 200
    assert (after["status"], after["version"]) == (expected, before["version"] + 1)
    assert client.get(f"/experiments/{before['id']}").json() == after
    assert (after["started_at"] is None) == (state == "draft" and move == "archive")
    assert (after["ended_at"] is None) == ("completed" not in {state, expected})


@pytest.mark.parametrize("move", _MOVES)
def test_move__unknown_experiment__is_404(client: httpx.Client, move: str) -> None:
    expect_problem(client.post(f"/experiments/no-such-experiment/{move}"), 404)


def test_move__that_does_not_exist__is_404(client: httpx.Client) -> None:
    expect_problem(client.post(f"/experiments/{make_experiment(client)['id']}/restart"), 404)


def test_moves__through_the_whole_life__keep_the_first_start(client: httpx.Client) -> None:
    experiment = make_experiment(client, state="draft")
    started = take(client, experiment, "start")["started_at"]
    for move in ("pause", "resume", "pause", "complete", "archive"):
        assert take(client, experiment, move)["started_at"] == started
    final = client.get(f"/experiments/{experiment['id']}").json()
    assert (final["status"], final["version"]) == ("archived", 7)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("field", _CHANGES)
def test_patch__every_field_in_every_state__is_applied_or_409(client: httpx.Client, state: str, field: str) -> None:
    before = make_experiment(client, state=state)
    value = unique("renamed") if field == "key" else _CHANGES[field]
    response = client.patch(f"/experiments/{before['id']}", json={field: value})
    if field in _REFUSED[state]:
        expect_problem(response, 409, field=field)
        assert client.get(f"/experiments/{before['id']}").json() == before
        return
    assert response.status_code == 200, response.text
    after = response.json()
    assert after["version"] == before["version"] + 1
    assert after["updated_at"] > before["updated_at"]
    assert client.get(f"/experiments/{before['id']}").json() == after
    if field == "variants":
        assert [variant["bucket_end"] for variant in after["variants"]] == [4000, 10_000]
    else:
        assert after[field] == value


@pytest.mark.parametrize("state", ["running", "paused"])
def test_patch__names_and_configs_of_variants_while_live__are_applied(client: httpx.Client, state: str) -> None:
    before = make_experiment(client, state=state)
    variants = variant_bodies(50, 50)
    variants[1].update(name="Renamed", config={"color": "red"})
    after = client.patch(f"/experiments/{before['id']}", json={"variants": variants}).json()
    assert [item["id"] for item in after["variants"]] == [item["id"] for item in before["variants"]]
    assert (after["variants"][1]["name"], after["variants"][1]["config"]) == ("Renamed", {"color": "red"})


@pytest.mark.parametrize(
    "variants",
    [
        variant_bodies(50, 25, 25),
        variant_bodies(49.99, 50.01),
        [{**item, "is_control": not item["is_control"]} for item in variant_bodies(50, 50)],
        variant_bodies(50, 50)[::-1],
        [{**item, "key": item["key"] + "x"} for item in variant_bodies(50, 50)],
    ],
    ids=["one more", "other shares", "other control", "other order", "other keys"],
)
def test_patch__set_up_of_variants_while_running__is_409(client: httpx.Client, variants: list[Json]) -> None:
    experiment = make_experiment(client)
    response = client.patch(f"/experiments/{experiment['id']}", json={"variants": variants})
    expect_problem(response, 409, field="variants")


def test_patch__refused_field_beside_an_allowed_one__changes_nothing(client: httpx.Client) -> None:
    before = make_experiment(client)
    expect_problem(client.patch(f"/experiments/{before['id']}", json={"name": "New", "seed": "new"}), 409)
    assert client.get(f"/experiments/{before['id']}").json() == before


def test_patch__variants_of_a_draft__can_be_added_removed_and_reordered(client: httpx.Client) -> None:
    experiment = make_experiment(client, 50, 50, state="draft")
    for allocations in ((20, 30, 50), (60, 40), (25, 25, 25, 25)):
        variants = variant_bodies(*allocations)[::-1]
        response = client.patch(f"/experiments/{experiment['id']}", json={"variants": variants})
        assert response.status_code == 200, response.text
        assert [item["key"] for item in response.json()["variants"]] == [item["key"] for item in variants]


@pytest.mark.parametrize("state", ["draft", "running", "completed", "archived"])
def test_patch__with_the_values_it_has__is_no_new_version(client: httpx.Client, state: str) -> None:
    before = make_experiment(client, 33.33, 33.33, 33.34, state=state, config={"a": [1]})
    same = {field: before[field] for field in ("key", "name", "seed", "traffic_pct", "config", "starts_at")}
    for body in ({}, same, {"variants": variant_bodies(33.33, 33.33, 33.34)}):
        response = client.patch(f"/experiments/{before['id']}", json=body)
        assert response.status_code == 200, response.text
        assert response.json() == before


@pytest.mark.parametrize(("old", "new"), [(True, 1), (1, True), (0, False), (False, 0)])
def test_patch__config_of_equal_but_other_values__is_applied(client: httpx.Client, old: object, new: object) -> None:
    experiment = make_experiment(client, state="draft", config={"flag": old, "list": [old]})
    config = {"flag": new, "list": [new]}
    after = client.patch(f"/experiments/{experiment['id']}", json={"config": config}).json()["config"]
    assert (type(after["flag"]), type(after["list"][0])) == (type(new), type(new))


def test_patch__null__clears_what_may_be_empty(client: httpx.Client) -> None:
    fields = {"description": "x", "starts_at": "2031-01-01T00:00:00Z", "ends_at": "2031-01-02T00:00:00Z"}
    experiment = make_experiment(client, state="draft", **fields)
    cleared = client.patch(f"/experiments/{experiment['id']}", json=dict.fromkeys(fields)).json()
    assert [cleared[field] for field in fields] == [None, None, None]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        *(({"status": "running"}, "status"), ({"id": 1}, "id"), ({"version": 2}, "version"), ({"x": 1}, "x")),
        *(({"name": None}, "name"), ({"name": ""}, "name"), ({"key": "A"}, "key"), ({"seed": None}, "seed")),
        *(({"traffic_pct": 101}, "traffic_pct"), ({"config": None}, "config"), ({"variants": []}, "variants")),
        ({"variants": variant_bodies(50, 49)}, "variants"),
        ({"ends_at": "2031-01-01T00:00:00"}, "ends_at"),
        ({"starts_at": "2031-01-02T00:00:00Z", "ends_at": "2031-01-01T00:00:00Z"}, "ends_at"),
    ],
)
def test_patch__wrong_value__is_422(client: httpx.Client, body: Json, field: str) -> None:
    experiment = make_experiment(client, state="draft")
    expect_problem(client.patch(f"/experiments/{experiment['id']}", json=body), 422, field=field)


def test_patch__ends_at_before_the_stored_starts_at__is_422(client: httpx.Client) -> None:
    experiment = make_experiment(client, state="draft", starts_at="2031-01-02T00:00:00Z")
    response = client.patch(f"/experiments/{experiment['id']}", json={"ends_at": "2031-01-01T00:00:00Z"})
    expect_problem(response, 422, field="ends_at")


def test_patch__key_of_another_experiment__is_409(client: httpx.Client) -> None:
    taken, experiment = make_experiment(client, state="draft"), make_experiment(client, state="draft")
    expect_problem(client.patch(f"/experiments/{experiment['id']}", json={"key": taken["key"]}), 409)


def test_patch__new_key_of_a_draft__is_found_and_the_old_one_is_free(client: httpx.Client) -> None:
    experiment = make_experiment(client, state="draft")
    key = unique("renamed")
    client.patch(f"/experiments/{experiment['key']}", json={"key": key})
    assert client.get(f"/experiments/{key}").json()["id"] == experiment["id"]
    expect_problem(client.get(f"/experiments/{experiment['key']}"), 404)
    assert make_experiment(client, state="draft", key=experiment["key"])["id"] != experiment["id"]


def test_patch__start_that_lies_ahead__can_be_moved_while_running(client: httpx.Client) -> None:
    experiment = make_experiment(client, starts_at="2031-01-01T00:00:00Z")
    now = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    response = client.patch(f"/experiments/{experiment['id']}", json={"starts_at": now})
    assert response.status_code == 200
    assert ask(client, experiment, "u")["reason"] == "NEW_ASSIGNMENT"


@pytest.mark.parametrize("state", STATES)
def test_delete__in_every_state__takes_drafts_alone(client: httpx.Client, state: str) -> None:
    experiment = make_experiment(client, state=state)
    response = client.delete(f"/experiments/{experiment['key']}")
    if state != "draft":
        expect_problem(response, 409)
        assert client.get(f"/experiments/{experiment['id']}").json() == experiment
        return
    assert (response.status_code, response.content) == (204, b"")
    for reference in (experiment["id"], experiment["key"]):
        expect_problem(client.get(f"/experiments/{reference}"), 404)
    assert make_experiment(client, state="draft", key=experiment["key"])["id"] != experiment["id"]


def test_delete__draft_whose_override_was_removed__is_deleted(client: httpx.Client) -> None:
    experiment = make_experiment(client, state="draft")
    path = f"/experiments/{experiment['id']}/overrides/qa"
    assert client.put(path, json={"variant": "v1"}).status_code == 200
    assert client.delete(path).status_code == 204
    assert client.delete(f"/experiments/{experiment['id']}").status_code == 204


def test_delete__draft_with_an_override_or_an_import__is_409_that_names_the_way_out(client: httpx.Client) -> None:
    overridden, imported = make_experiment(client, state="draft"), make_experiment(client, state="draft")
    client.put(f"/experiments/{overridden['id']}/overrides/qa", json={"variant": "v1"})
    row = {"user_id": "u", "variant": "v1", "assigned_at": "2026-01-01T00:00:00Z"}
    client.post(f"/experiments/{imported['id']}/assignments/import", json={"assignments": [row]})
    for experiment in (overridden, imported):
        problem = expect_problem(client.delete(f"/experiments/{experiment['id']}"), 409)
        assert problem["type"].endswith(":draft-in-use")
        assert "Remove its overrides" in problem["detail"]
        assert "archive" in problem["detail"]
        assert client.get(f"/experiments/{experiment['id']}").json() == experiment
        take(client, experiment, "archive")


@pytest.mark.parametrize("form", ["0{id}", "00{id}", "0"])
def test_experiment__number_with_leading_zeros__is_404_everywhere(client: httpx.Client, form: str) -> None:
    experiment = make_experiment(client)
    reference = form.format(id=experiment["id"])
    expect_problem(client.get(f"/experiments/{reference}"), 404)
    expect_problem(client.get(f"/experiments/{reference}/assignment/u"), 404)
    expect_problem(client.post("/assignments", json={"experiment": reference, "user_id": "u"}), 404)
    (item,) = client.post("/assignments/bulk", json={"user_id": "u", "experiment_ids": [reference]}).json()[
        "assignments"
    ]
    assert (str(item["experiment_id"]), item["error"]["status"]) == (reference, 404)
