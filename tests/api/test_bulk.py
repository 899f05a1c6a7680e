"""POST /assignments/bulk, both ways."""

from typing import Any

import httpx
import pytest

from tests.factories import Json, ask, ask_many, expect_problem, make_experiment, unique, walk


def _for_user(client: httpx.Client, user_id: str, **fields: Any) -> list[Json]:
    response = client.post("/assignments/bulk", json={"user_id": user_id, **fields})
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    answers: list[Json] = response.json()["assignments"]
    return answers


def test_bulk__users_of_one_experiment__are_answered_in_their_order(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    known = ask(client, experiment, "user-3")
    users = ["user-9", "user-3", "user-1", "é", "user-9", "a/b"]
    answers = ask_many(client, experiment, users)
    assert [item["user_id"] for item in answers] == users
    assert all(item["enrolled"] for item in answers)
    assert answers[1] == {**known, "reason": "EXISTING_ASSIGNMENT"}
    assert answers[0]["variant"] == answers[4]["variant"]
    assert answers[0]["assigned_at"] == answers[4]["assigned_at"]
    for user_id, answer in zip(users, answers, strict=True):
        assert ask(client, experiment, user_id) == {**answer, "reason": "EXISTING_ASSIGNMENT"}
    assert len(walk(client, f"/experiments/{experiment['id']}/assignments")) == 5


def test_bulk__thousand_users__are_answered_and_one_more_is_422(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    users = [f"user-{index}" for index in range(1001)]
    body = {"experiment": experiment["key"], "user_ids": users}
    expect_problem(client.post("/assignments/bulk", json=body), 422, field="user_ids")
    answers = ask_many(client, experiment, users[:1000])
    assert [item["user_id"] for item in answers] == users[:1000]
    assert {item["reason"] for item in answers} == {"NEW_ASSIGNMENT"}
    shares = [item["variant"]["key"] for item in answers].count("v0")
    assert 400 < shares < 600
    assert {item["reason"] for item in ask_many(client, experiment, users[:1000])} == {"EXISTING_ASSIGNMENT"}


def test_bulk__experiments_of_one_user__are_answered_in_their_order_with_unknown_ones_between(
    client: httpx.Client,
) -> None:
    running, paused, draft = (make_experiment(client, state=state) for state in ("running", "paused", "draft"))
    references = [draft["key"], "no-such-key", running["id"], 999_999_999, paused["key"], running["key"], "9" * 30]
    answers = _for_user(client, "u", experiment_ids=references)
    assert [item.get("reason", "error") for item in answers] == [
        *("EXPERIMENT_DRAFT", "error", "NEW_ASSIGNMENT", "error", "EXPERIMENT_PAUSED"),
        *(answers[5]["reason"], "error"),
    ]
    assert answers[5]["variant"] == answers[2]["variant"]
    for index in (1, 3, 6):
        assert answers[index]["user_id"] == "u"
        assert str(answers[index]["experiment_id"]) == str(references[index])
        assert answers[index]["error"].keys() >= {"type", "title", "status", "detail"}
        assert answers[index]["error"]["status"] == 404


def test_bulk__experiments_left_out__previews_all_running_ones(
    client: httpx.Client, empty_project: httpx.Client
) -> None:
    experiments = [make_experiment(empty_project, state=state) for state in ("running", "paused", "draft", "running")]
    make_experiment(client)
    answers = _for_user(empty_project, "u")
    assert [item["experiment_id"] for item in answers] == [experiments[3]["id"], experiments[0]["id"]]
    assert {(item["reason"], item["enrolled"]) for item in answers} == {("PREVIEW", False)}
    assert all(not walk(empty_project, f"/experiments/{item['id']}/assignments") for item in experiments)
    enrolled = _for_user(empty_project, "u", enroll=True)
    assert {(item["reason"], item["enrolled"]) for item in enrolled} == {("NEW_ASSIGNMENT", True)}
    assert {item["reason"] for item in _for_user(empty_project, "u")} == {"EXISTING_ASSIGNMENT"}


def test_bulk__experiments_named__enrols_unless_told_not_to(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    assert _for_user(client, "a", experiment_ids=[experiment["id"]], enroll=False)[0]["reason"] == "PREVIEW"
    assert _for_user(client, "a", experiment_ids=[experiment["id"]])[0]["reason"] == "NEW_ASSIGNMENT"


def test_bulk__context__is_stored_with_new_assignments(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    _for_user(client, "u", experiment_ids=[experiment["id"]], context={"country": "DE"})
    (item,) = walk(client, f"/experiments/{experiment['id']}/assignments")
    assert item["context"] == {"country": "DE"}


def test_bulk__empty_list_of_experiments__is_an_empty_answer(client: httpx.Client) -> None:
    assert _for_user(client, "u", experiment_ids=[]) == []


def test_bulk__thousand_experiments__are_answered_and_one_more_is_422(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    references = [experiment["id"], *(f"{unique('none')}" for _ in range(999))]
    assert len(_for_user(client, "u", experiment_ids=references)) == 1000
    body = {"user_id": "u", "experiment_ids": [*references, "one-more"]}
    expect_problem(client.post("/assignments/bulk", json=body), 422, field="experiment_ids")


def test_bulk__some_user_ids_that_can_be_none__names_them_all_and_assigns_nobody(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    users = ["good", "", "a\nb", "fine", "x" * 257, 7]
    body = {"experiment": experiment["key"], "user_ids": users}

    problem = expect_problem(client.post("/assignments/bulk", json=body), 422)

    assert [error["field"] for error in problem["errors"]] == [f"user_ids.{index}" for index in (1, 2, 4, 5)]
    assert walk(client, f"/experiments/{experiment['id']}/assignments") == []


@pytest.mark.parametrize(
    "body",
    [
        *({}, [], None, 7, "x", {"user_id": None}, {"user_ids": ["u"]}, {"experiment": "e"}),
        *({"experiment": "e", "user_ids": []}, {"experiment": "e", "user_ids": "u"}, {"user_id": "u", "user_ids": []}),
        *({"user_id": "u", "experiment": "e"}, {"user_id": "u", "x": 1}, {"experiment": "e", "user_ids": [1]}),
        *({"experiment": "e", "user_ids": ["u", ""]}, {"experiment": "e", "user_ids": ["u"], "x": 1}),
        *({"user_id": "u", "enroll": "no"}, {"user_id": "u", "experiment_ids": {}}),
        *({"user_id": "u", "experiment_ids": [None]}, {"user_id": "u", "experiment_ids": [1.5]}),
    ],
)
def test_bulk__wrong_body__is_422(client: httpx.Client, body: Any) -> None:
    expect_problem(client.post("/assignments/bulk", json=body), 422)
