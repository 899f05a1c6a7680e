"""One user in one experiment: GET assignment and POST /assignments."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.factories import (
    STATES,
    Json,
    ask,
    ask_many,
    assignment_path,
    expect_problem,
    make_experiment,
    take,
    unique,
    walk,
)
from tests.vectors.make_bucketing import bucket

_FIELDS = {
    *("experiment_id", "experiment_key", "user_id", "variant", "enrolled", "reason", "source", "version"),
    "assigned_at",
}


def _stored(client: httpx.Client, experiment: Json) -> list[str]:
    return [item["user_id"] for item in walk(client, f"/experiments/{experiment['id']}/assignments")]


def _in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_assignment__first_call__enrols_and_later_calls_repeat_it(client: httpx.Client) -> None:
    experiment = make_experiment(client, config={"a": 1})
    first = ask(client, experiment, "user-1")
    assert first.keys() >= _FIELDS
    assert (first["experiment_id"], first["experiment_key"]) == (experiment["id"], experiment["key"])
    assert (first["user_id"], first["enrolled"], first["reason"]) == ("user-1", True, "NEW_ASSIGNMENT")
    assert (first["source"], first["version"]) == ("hash", experiment["version"])
    assert first["variant"].keys() >= {"id", "key", "name", "config"}
    again = ask(client, experiment, "user-1")
    assert again == {**first, "reason": "EXISTING_ASSIGNMENT"}
    by_id = client.post("/assignments", json={"experiment": experiment["id"], "user_id": "user-1"}).json()
    assert by_id == again
    assert _stored(client, experiment) == ["user-1"]


def test_assignment__moment__has_microseconds_and_is_now(client: httpx.Client) -> None:
    moments = [ask(client, make_experiment(client), "u")["assigned_at"] for _ in range(3)]
    parsed = [datetime.fromisoformat(moment) for moment in moments]
    assert any(moment.microsecond % 1000 for moment in parsed)
    assert all(abs(datetime.now(UTC) - moment) < timedelta(minutes=1) for moment in parsed)


def test_assignment__answers__are_never_cached_by_others(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    for response in (
        client.get(assignment_path(experiment, "u")),
        client.get(assignment_path(experiment, "u"), params={"enroll": "0"}),
        client.post("/assignments", json={"experiment": experiment["key"], "user_id": "u"}),
        client.post("/assignments/bulk", json={"experiment": experiment["key"], "user_ids": ["u"]}),
    ):
        assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")


@pytest.mark.parametrize("form", ["get", "post", "bulk users", "bulk experiments"])
def test_assignment__preview__never_writes_and_tells_what_would_be(client: httpx.Client, form: str) -> None:
    experiment = make_experiment(client)
    key = experiment["key"]
    users = [f"user-{index}" for index in range(10)]

    def preview(user_id: str) -> Json:
        requests: dict[str, tuple[str, str, dict[str, Any]]] = {
            "get": ("GET", f"/experiments/{key}/assignment/{user_id}?enroll=false", {}),
            "post": ("POST", "/assignments", {"json": {"experiment": key, "user_id": user_id, "enroll": False}}),
            "bulk users": (
                "POST",
                "/assignments/bulk",
                {"json": {"experiment": key, "user_ids": [user_id], "enroll": False}},
            ),
            "bulk experiments": (
                "POST",
                "/assignments/bulk",
                {"json": {"user_id": user_id, "experiment_ids": [key], "enroll": False}},
            ),
        }
        method, path, options = requests[form]
        answer = client.request(method, path, **options).json()
        found: Json = answer["assignments"][0] if "assignments" in answer else answer
        return found

    previews = [preview(user_id) for user_id in users]
    assert {(item["reason"], item["enrolled"], item["assigned_at"]) for item in previews} == {("PREVIEW", False, None)}
    assert _stored(client, experiment) == []
    for user_id, seen in zip(users, previews, strict=True):
        assert ask(client, experiment, user_id)["variant"] == seen["variant"]
        assert preview(user_id)["reason"] == "EXISTING_ASSIGNMENT"


_REASONS = {
    "draft": "EXPERIMENT_DRAFT",
    "paused": "EXPERIMENT_PAUSED",
    "completed": "EXPERIMENT_ENDED",
    "archived": "EXPERIMENT_ARCHIVED",
}


@pytest.mark.parametrize("state", [state for state in STATES if state != "running"])
@pytest.mark.parametrize("enroll", [True, False])
def test_assignment__experiment_not_running__gives_no_variant_and_the_reason(
    client: httpx.Client, state: str, *, enroll: bool
) -> None:
    experiment = make_experiment(client, state=state)
    answer = ask(client, experiment, "u", enroll=enroll)
    assert (answer["variant"], answer["enrolled"], answer["reason"]) == (None, False, _REASONS[state])
    assert _stored(client, experiment) == []


def test_assignment__through_an_experiments_life__is_kept_while_it_lives_and_listed_ever_after(
    client: httpx.Client,
) -> None:
    experiment = make_experiment(client)
    first = ask(client, experiment, "old")
    take(client, experiment, "pause")
    assert ask(client, experiment, "old") == {**first, "reason": "EXISTING_ASSIGNMENT"}
    assert ask(client, experiment, "new")["reason"] == "EXPERIMENT_PAUSED"
    take(client, experiment, "resume")
    assert ask(client, experiment, "old")["variant"] == first["variant"]
    assert ask(client, experiment, "new")["reason"] == "NEW_ASSIGNMENT"
    for move, reason in (("complete", "EXPERIMENT_ENDED"), ("archive", "EXPERIMENT_ARCHIVED")):
        take(client, experiment, move)
        for user_id in ("old", "new", "stranger"):
            answer = ask(client, experiment, user_id)
            assert (answer["variant"], answer["reason"]) == (None, reason)
        assert _stored(client, experiment) == ["new", "old"]


def test_assignment__before_starts_at__waits_for_it(client: httpx.Client) -> None:
    experiment = make_experiment(client, starts_at=_in_seconds(0.8))
    answer = ask(client, experiment, "u")
    assert (answer["variant"], answer["reason"]) == (None, "EXPERIMENT_NOT_STARTED")
    time.sleep(0.9)
    assert ask(client, experiment, "u")["reason"] == "NEW_ASSIGNMENT"


def test_assignment__after_ends_at__is_null_for_all_and_stays_listed(client: httpx.Client) -> None:
    experiment = make_experiment(client, ends_at=_in_seconds(0.8))
    assert ask(client, experiment, "u")["reason"] == "NEW_ASSIGNMENT"
    time.sleep(0.9)
    for user_id in ("u", "stranger"):
        answer = ask(client, experiment, user_id)
        assert (answer["variant"], answer["enrolled"], answer["reason"]) == (None, False, "EXPERIMENT_ENDED")
    assert _stored(client, experiment) == ["u"]


@pytest.mark.parametrize("state", ["running", "paused"])
def test_assignment__ends_at_long_past__is_ended(client: httpx.Client, state: str) -> None:
    experiment = make_experiment(client, state=state, ends_at="2020-01-01T00:00:00Z")
    assert ask(client, experiment, "u")["reason"] == "EXPERIMENT_ENDED"


def test_traffic__raised__only_adds_users_and_moves_nobody(client: httpx.Client) -> None:
    experiment = make_experiment(client, traffic_pct=0, seed="traffic-seed")
    users = [f"user-{index}" for index in range(300)]
    before: dict[str, Any] = {}
    for traffic_pct in (0, 0.01, 7.5, 40, 99.99, 100):
        client.patch(f"/experiments/{experiment['id']}", json={"traffic_pct": traffic_pct})
        answers = {item["user_id"]: item for item in ask_many(client, experiment, users, enroll=False)}
        inside = {user: item["variant"] for user, item in answers.items() if item["variant"] is not None}
        assert set(inside) == {
            user for user in users if bucket(user, "traffic-seed/traffic") < round(traffic_pct * 100)
        }
        assert before.items() <= inside.items()
        outside = [item["reason"] for item in answers.values() if item["variant"] is None]
        assert set(outside) <= {"NOT_IN_TRAFFIC"}
        before = inside
    assert len(before) == len(users)


def test_traffic__lowered__only_stops_new_users(client: httpx.Client) -> None:
    experiment = make_experiment(client, traffic_pct=100)
    assigned = {item["user_id"]: item["variant"] for item in ask_many(client, experiment, ["a", "b", "c", "d"])}
    client.patch(f"/experiments/{experiment['id']}", json={"traffic_pct": 0})
    for item in ask_many(client, experiment, list(assigned)):
        assert (item["variant"], item["reason"]) == (assigned[item["user_id"]], "EXISTING_ASSIGNMENT")
    answer = ask(client, experiment, "new")
    assert (answer["variant"], answer["reason"], answer["enrolled"]) == (None, "NOT_IN_TRAFFIC", False)
    assert len(_stored(client, experiment)) == 4


def test_assignment__context__is_stored_with_the_first_call_alone(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    body = {"experiment": experiment["key"], "user_id": "u"}
    client.post("/assignments", json={**body, "context": {"country": "DE", "deep": {"list": [1, None, "é"]}}})
    client.post("/assignments", json={**body, "context": {"country": "FR"}})
    (item,) = walk(client, f"/experiments/{experiment['id']}/assignments")
    assert item["context"] == {"country": "DE", "deep": {"list": [1, None, "é"]}}


def test_assignment__variants_new_name_and_config__are_answered_to_users_assigned_before(
    client: httpx.Client,
) -> None:
    experiment = make_experiment(client)
    first = ask(client, experiment, "u")
    variants = [
        {key: item[key] for key in ("key", "allocation_pct", "is_control")} | {"name": "New", "config": {"n": 1}}
        for item in experiment["variants"]
    ]
    client.patch(f"/experiments/{experiment['id']}", json={"variants": variants})
    after = ask(client, experiment, "u")
    assert after["variant"] == {**first["variant"], "name": "New", "config": {"n": 1}}
    assert (after["assigned_at"], after["version"]) == (first["assigned_at"], first["version"])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        *(({"user_id": None}, "user_id"), ({"user_id": 7}, "user_id"), ({"experiment": None}, "experiment")),
        *(
            ({"experiment": 1.5}, "experiment"),
            ({"experiment": "A B"}, "experiment"),
            ({"experiment": -1}, "experiment"),
        ),
        *(({"enroll": "yes"}, "enroll"), ({"enroll": 1}, "enroll"), ({"enroll": None}, "enroll")),
        *(({"context": []}, "context"), ({"context": "x"}, "context"), ({"context": {"a": "\x00"}}, "context")),
        *(({"variant": "v0"}, "variant"), ({"experiment_id": 1}, "experiment_id")),
    ],
)
def test_post_assignment__wrong_field__is_422(client: httpx.Client, change: Json, field: str) -> None:
    body = {"experiment": make_experiment(client)["key"], "user_id": "u", **change}
    expect_problem(client.post("/assignments", json=body), 422, field=field)


@pytest.mark.parametrize("query", ["enroll=maybe", "enroll=2", "x=1", "enroll=true&x=1", "Enroll=true"])
def test_get_assignment__wrong_query__is_422(client: httpx.Client, query: str) -> None:
    expect_problem(client.get(f"{assignment_path(make_experiment(client), 'u')}?{query}"), 422)


@pytest.mark.parametrize("reference", ["no-such", "999999999", "0"])
def test_assignment__unknown_experiment__is_404(client: httpx.Client, reference: str) -> None:
    expect_problem(client.get(f"/experiments/{reference}/assignment/u"), 404)
    expect_problem(client.post("/assignments", json={"experiment": reference, "user_id": "u"}), 404)
    body = {"experiment": reference, "user_ids": ["u"]}
    expect_problem(client.post("/assignments/bulk", json=body), 404)


def test_list_of_assignments__walked_by_cursor__shows_each_once_last_first(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    users = [f"user-{index}" for index in range(25)]
    ask_many(client, experiment, users[:20])  # Stored together, so these share one moment.
    for user_id in users[20:]:
        ask(client, experiment, user_id)
    walked = [item["user_id"] for item in walk(client, f"/experiments/{experiment['key']}/assignments", limit=4)]
    assert sorted(walked) == sorted(users)
    assert walked[:5] == users[:19:-1]


def test_list_of_assignments__of_one_variant__shows_its_users_alone(client: httpx.Client) -> None:
    experiment = make_experiment(client)
    answers = ask_many(client, experiment, [f"user-{index}" for index in range(30)])
    for variant in ("v0", "v1"):
        listed = walk(client, f"/experiments/{experiment['key']}/assignments", variant=variant, limit=7)
        expected = {item["user_id"] for item in answers if item["variant"]["key"] == variant}
        assert {item["user_id"] for item in listed} == expected
        assert {item["variant"] for item in listed} == {variant}
    expect_problem(client.get(f"/experiments/{experiment['key']}/assignments?variant=nope"), 422, field="variant")


def test_assignment__of_the_same_user_elsewhere__is_decided_anew(client: httpx.Client) -> None:
    experiments = [make_experiment(client) for _ in range(40)]
    user_id = unique("user")
    assert len({ask(client, experiment, user_id)["variant"]["key"] for experiment in experiments}) == 2
