"""Forced variants, and assignments decided elsewhere."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.factories import STATES, Json, ask, expect_problem, make_experiment, take, user_path, walk


def _override(client: httpx.Client, experiment: Json, user_id: str, variant: str) -> httpx.Response:
    path = f"/experiments/{experiment['id']}/overrides/{user_path(user_id)}"
    return client.put(path, json={"variant": variant})


def _import(client: httpx.Client, experiment: Json, *rows: Any) -> httpx.Response:
    return client.post(f"/experiments/{experiment['key']}/assignments/import", json={"assignments": list(rows)})


def _row(user_id: str, variant: str = "v1", assigned_at: Any = "2026-01-01T12:00:00.123456Z") -> Json:
    return {"user_id": user_id, "variant": variant, "assigned_at": assigned_at}


def _other(variant: str) -> str:
    return "v0" if variant == "v1" else "v1"


@pytest.mark.parametrize("state", STATES)
def test_override__in_every_state__is_in_force_or_409(client: httpx.Client, state: str) -> None:
    experiment = make_experiment(client, state=state)
    response = _override(client, experiment, "qa", "v1")
    if state in {"completed", "archived"}:
        expect_problem(response, 409)
        assert ask(client, experiment, "qa")["variant"] is None
        return
    assert response.status_code == 200
    for enroll in (True, False):
        answer = ask(client, experiment, "qa", enroll=enroll)
        assert answer["variant"]["key"] == "v1"
        assert (answer["reason"], answer["source"], answer["enrolled"]) == ("OVERRIDE", "override", True)
    assert ask(client, experiment, "qa")["assigned_at"] == response.json()["assigned_at"]


def test_override__removed__brings_the_stored_assignment_back(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    first = ask(client, experiment, "u")
    forced = _other(first["variant"]["key"])
    _override(client, experiment, "u", forced)
    assert ask(client, experiment, "u")["variant"]["key"] == forced
    assert client.delete(f"/experiments/{experiment['key']}/overrides/u").status_code == 204
    assert ask(client, experiment, "u") == {**first, "reason": "EXISTING_ASSIGNMENT"}
    (listed,) = walk(client, f"/experiments/{experiment['id']}/assignments")
    assert (listed["variant"], listed["source"]) == (first["variant"]["key"], "hash")


def test_override__of_a_user_never_assigned__leaves_no_assignment_behind(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    _override(client, experiment, "u", "v1")
    ask(client, experiment, "u")
    client.delete(f"/experiments/{experiment['id']}/overrides/u")
    assert ask(client, experiment, "u", enroll=False)["reason"] == "PREVIEW"
    assert ask(client, experiment, "u")["reason"] == "NEW_ASSIGNMENT"


def test_override__put_again__changes_the_variant_and_repeats_without_effect(client: httpx.Client) -> None:
    experiment = make_experiment(client, 20, 30, 50)
    first = _override(client, experiment, "u", "v1").json()
    assert _override(client, experiment, "u", "v1").json()["assigned_at"] == first["assigned_at"]
    second = _override(client, experiment, "u", "v2").json()
    assert second["variant"]["key"] == "v2"
    assert second["assigned_at"] > first["assigned_at"]
    assert ask(client, experiment, "u")["variant"]["key"] == "v2"


def test_override__outside_traffic_and_dates__goes_before_all_but_the_end(client: httpx.Client) -> None:
    outside = make_experiment(client, traffic_pct=0)
    early = make_experiment(client, starts_at="2031-01-01T00:00:00Z")
    late = make_experiment(client, ends_at="2020-01-01T00:00:00Z")
    for experiment in (outside, early, late):
        _override(client, experiment, "qa", "v1")
    assert ask(client, outside, "qa")["reason"] == "OVERRIDE"
    assert ask(client, early, "qa")["reason"] == "OVERRIDE"
    assert ask(client, late, "qa")["variant"] is None
    take(client, outside, "complete")
    assert ask(client, outside, "qa")["reason"] == "EXPERIMENT_ENDED"


def test_override__user_or_experiment_without_one__is_404(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    expect_problem(client.delete(f"/experiments/{experiment['id']}/overrides/u"), 404)
    expect_problem(client.delete("/experiments/no-such/overrides/u"), 404)
    expect_problem(client.put("/experiments/no-such/overrides/u", json={"variant": "v1"}), 404)
    _override(client, experiment, "u", "v1")
    client.delete(f"/experiments/{experiment['id']}/overrides/u")
    expect_problem(client.delete(f"/experiments/{experiment['id']}/overrides/u"), 404)


@pytest.mark.parametrize(
    "body", [{}, {"variant": "nope"}, {"variant": None}, {"variant": 1}, {"variant": "v1", "x": 1}]
)
def test_override__wrong_body__is_422(client: httpx.Client, body: Json) -> None:
    experiment = make_experiment(client)
    expect_problem(client.put(f"/experiments/{experiment['id']}/overrides/u", json=body), 422)


def test_override__in_a_bulk_answer__is_in_force_too(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    _override(client, experiment, "u", "v1")
    body = {"experiment": experiment["id"], "user_ids": ["u", "w"]}
    answers = client.post("/assignments/bulk", json=body).json()["assignments"]
    assert [item["reason"] for item in answers] == ["OVERRIDE", "NEW_ASSIGNMENT"]


@pytest.mark.parametrize("state", STATES)
def test_import__in_every_state__is_taken_but_in_archived_ones(client: httpx.Client, state: str) -> None:
    experiment = make_experiment(client, state=state)
    response = _import(client, experiment, _row("u"))
    if state == "archived":
        expect_problem(response, 409)
        return
    assert response.json() == {"accepted": 1, "duplicates": 0, "rejected": 0, "errors": []}
    (listed,) = walk(client, f"/experiments/{experiment['id']}/assignments")
    assert (listed["user_id"], listed["variant"], listed["source"]) == ("u", "v1", "import")
    assert listed["assigned_at"] == "2026-01-01T12:00:00.123456Z"


def test_import__user__keeps_the_imported_variant_and_moment(client: httpx.Client) -> None:
    experiment = make_experiment(client, traffic_pct=0)
    _import(client, experiment, _row("u", "v1"), _row("w", "v0"))
    for user_id, variant in (("u", "v1"), ("w", "v0")):
        answer = ask(client, experiment, user_id)
        assert (answer["variant"]["key"], answer["reason"], answer["source"], answer["assigned_at"]) == (
            *(variant, "EXISTING_ASSIGNMENT", "import"),
            "2026-01-01T12:00:00.123456Z",
        )


def test_import__bad_rows__are_named_and_the_good_ones_stored(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    ask(client, experiment, "known")
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    rows: list[tuple[Any, str | None]] = [
        (_row("good-1"), None),
        (_row("known"), "ALREADY_ASSIGNED"),
        (_row("u", "nope"), "UNKNOWN_VARIANT"),
        (_row("u", assigned_at=tomorrow), "FUTURE_TIMESTAMP"),
        (_row("u", assigned_at="2026-01-01T00:00:00"), "INVALID_FIELD"),
        (_row("u", assigned_at=0), "INVALID_FIELD"),
        (_row("u", assigned_at=None), "INVALID_FIELD"),
        (_row("x" * 257), "INVALID_FIELD"),
        (_row("a\nb"), "INVALID_FIELD"),
        (_row(""), "INVALID_FIELD"),
        ({**_row("u"), "extra": 1}, "INVALID_FIELD"),
        ({"user_id": "u"}, "INVALID_FIELD"),
        (None, "INVALID_FIELD"),
        (7, "INVALID_FIELD"),
        ([], "INVALID_FIELD"),
        (_row("good-2", "v0"), None),
        (_row("good-1", "v0"), "ALREADY_ASSIGNED"),
    ]
    answer = _import(client, experiment, *(row for row, _ in rows)).json()
    expected = [(index, code) for index, (_, code) in enumerate(rows) if code is not None]
    assert [(error["index"], error["code"]) for error in answer["errors"]] == expected
    assert all(error["detail"] for error in answer["errors"])
    assert (answer["accepted"], answer["rejected"]) == (2, len(expected))
    listed = {item["user_id"]: item["variant"] for item in walk(client, f"/experiments/{experiment['id']}/assignments")}
    assert listed.items() >= {"good-1": "v1", "good-2": "v0"}.items()
    assert set(listed) == {"known", "good-1", "good-2"}


def test_import__a_thousand_rows__are_taken_and_one_more_is_422(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    rows = [_row(f"user-{index}") for index in range(1001)]
    expect_problem(_import(client, experiment, *rows), 422, field="assignments")
    assert _import(client, experiment, *rows[:1000]).json()["accepted"] == 1000
    assert _import(client, experiment, *rows[:1000]).json()["rejected"] == 1000


@pytest.mark.parametrize(
    "body", [{}, {"assignments": []}, {"assignments": None}, {"assignments": {}}, [], {"rows": []}]
)
def test_import__wrong_body__is_422(client: httpx.Client, body: Any) -> None:
    experiment = make_experiment(client)
    expect_problem(client.post(f"/experiments/{experiment['id']}/assignments/import", json=body), 422)


def test_import__unknown_experiment__is_404(client: httpx.Client) -> None:
    expect_problem(_import(client, {"key": "no-such"}, _row("u")), 404)
