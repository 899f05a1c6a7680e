"""Which user ids there are: 1 to 256 characters, any Unicode but control characters, told apart exactly."""

import json
from typing import Any

import httpx
import pytest

from tests.factories import ask, ask_many, assignment_path, expect_problem, make_experiment, user_path, walk

_GOOD = [
    *("a", "0", " ", "a b", " a", "a ", "a+b", "a/b", "/a", "a/", "a//b", "/", "..", ".", "../../x", "a/assignment/b"),
    *("a:b", ":", "%", "%2F", "%00", "a%", "?", "a?b=c", "#", "a#b", "&", "=", ";", "\\", '"', "'", "<script>", "{}"),
    *("null", "undefined", "true", "NaN", "'; DROP TABLE assignments; --", "user@example.com", "-", "_", "~"),
    *("ü", "e\u0301", "\u00e9", "ﬁ", "中文", "Привет", "שלום", "\u202eabc", "\u200f", "\u200b", "\u00a0", "\u2028"),
    *("\u2029", "\ufeff", "\ufffd", "\uffff", "\U0010ffff", "😀", "👨‍👩‍👧", "🏳️‍🌈", "\u00ad", "A\u030a"),
    *("x" * 256, "é" * 256, "😀" * 256, "/" * 256),
]
_BAD = [
    *("\x00", "a\x00b", "\n", "a\n", "\r\n", "\t", "\x1b", "\x1f", "\x7f", "\x80", "\x85", "\x9f"),
    *("x" * 257, "😀" * 257, " " * 300),
]
_UNSENDABLE = ["\ud800", "a\udfffb", "\udc00\ud800"]  # Lone surrogates: only JSON's escapes can carry them.


def _send(client: httpx.Client, path: str, body: Any) -> httpx.Response:
    # json.dumps escapes, so that lone surrogates get through.
    return client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("user_id", _GOOD)
def test_user_id__good_one__is_the_same_user_in_path_body_bulk_override_and_event(
    client: httpx.Client, user_id: str
) -> None:
    experiment = make_experiment(client)
    first = ask(client, experiment, user_id)
    assert (first["user_id"], first["reason"]) == (user_id, "NEW_ASSIGNMENT")
    existing = {**first, "reason": "EXISTING_ASSIGNMENT"}
    assert client.get(f"{assignment_path(experiment, user_id)}?enroll=1").json() == existing
    assert _send(client, "/assignments", {"experiment": experiment["key"], "user_id": user_id}).json() == existing
    assert ask_many(client, experiment, [user_id]) == [existing]
    assert [item["user_id"] for item in walk(client, f"/experiments/{experiment['id']}/assignments")] == [user_id]
    path = f"/experiments/{experiment['id']}/overrides/{user_path(user_id)}"
    assert client.put(path, json={"variant": "v1"}).json()["user_id"] == user_id
    assert ask(client, experiment, user_id)["reason"] == "OVERRIDE"
    assert client.delete(path).status_code == 204
    assert _send(client, "/events", {"user_id": user_id, "event_type": "x"}).status_code == 201


def test_user_ids__that_look_alike__are_users_of_their_own(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    alike = [
        "e\u0301",
        "\u00e9",
        "A",
        "a",
        "a ",
        " a",
        "ﬁ",
        "fi",
        "\u212b",
        "\u00c5",
        "a\u200b",
        "K",
        "\u212a",
        "a/",
        "/a",
    ]
    answers = ask_many(client, experiment, alike)
    assert [item["reason"] for item in answers] == ["NEW_ASSIGNMENT"] * len(alike)
    listed = walk(client, f"/experiments/{experiment['id']}/assignments", limit=2)
    assert sorted(item["user_id"] for item in listed) == sorted(alike)


@pytest.mark.parametrize("user_id", [*_BAD, *_UNSENDABLE, ""])
def test_user_id__bad_one_in_a_body__is_422_or_a_rejected_row(client: httpx.Client, user_id: str) -> None:
    experiment = make_experiment(client)
    key = experiment["key"]
    event = {"user_id": user_id, "event_type": "x"}
    row = {"user_id": user_id, "variant": "v0", "assigned_at": "2026-01-01T00:00:00Z"}
    expect_problem(_send(client, "/assignments", {"experiment": key, "user_id": user_id}), 422, field="user_id")
    expect_problem(_send(client, "/assignments/bulk", {"user_id": user_id}), 422, field="user_id")
    expect_problem(_send(client, "/assignments/bulk", {"experiment": key, "user_ids": [user_id]}), 422)
    expect_problem(_send(client, "/events", event), 422, field="user_id")
    for path, body in (
        ("/events/batch", {"events": [event, {"user_id": "good", "event_type": "x"}]}),
        (f"/experiments/{key}/assignments/import", {"assignments": [row, {**row, "user_id": "good"}]}),
    ):
        answer = _send(client, path, body).json()
        assert [(error["index"], error["code"]) for error in answer["errors"]] == [(0, "INVALID_FIELD")]
        assert (answer["accepted"], answer["rejected"]) == (1, 1)


@pytest.mark.parametrize("user_id", _BAD)
@pytest.mark.parametrize("query", ["", "?enroll=false", "?enroll=1"])
def test_user_id__bad_one_in_the_path__is_422(client: httpx.Client, user_id: str, query: str) -> None:
    experiment = make_experiment(client)
    expect_problem(client.get(assignment_path(experiment, user_id) + query), 422, field="user_id")
    path = f"/experiments/{experiment['id']}/overrides/{user_path(user_id)}"
    if not query:
        expect_problem(client.put(path, json={"variant": "v0"}), 422, field="user_id")
        expect_problem(client.delete(path), 422, field="user_id")


@pytest.mark.parametrize("query", ["", "?enroll=1"])
def test_user_id__empty_in_the_path__is_no_user(client: httpx.Client, query: str) -> None:
    response = client.get(f"/experiments/{make_experiment(client)['id']}/assignment/{query}")
    assert response.status_code in {404, 422}
    expect_problem(response, response.status_code)
