"""Makes what tests need, valid unless a test says otherwise, and with keys of its own each time."""

from collections.abc import Sequence
from itertools import count
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx

Json = dict[str, Any]

_numbers = count(1)
_MOVES_TO: dict[str, tuple[str, ...]] = {
    "draft": (),
    "running": ("start",),
    "paused": ("start", "pause"),
    "completed": ("start", "complete"),
    "archived": ("archive",),
}
STATES = tuple(_MOVES_TO)


def unique(prefix: str) -> str:
    """Return a key that no other test and no other worker uses."""
    return f"{prefix}-{next(_numbers)}-{uuid4().hex[:8]}"


def variant_bodies(*allocations: float) -> list[Json]:
    """Return variants `v0`, `v1` and so on; the first is the control."""
    return [
        {"key": f"v{index}", "name": f"Variant {index}", "allocation_pct": share, "is_control": index == 0}
        for index, share in enumerate(allocations or (50, 50))
    ]


def experiment_body(*allocations: float, **fields: Any) -> Json:
    """Return the body of a draft."""
    return {"key": unique("exp"), "name": "An experiment", "variants": variant_bodies(*allocations), **fields}


def make_experiment(client: httpx.Client, *allocations: float, state: str = "running", **fields: Any) -> Json:
    """Create an experiment and take it to `state`."""
    created = client.post("/experiments", json=experiment_body(*allocations, **fields))
    assert created.status_code == 201, created.text
    experiment: Json = created.json()
    for move in _MOVES_TO[state]:
        experiment = take(client, experiment, move)
    return experiment


def take(client: httpx.Client, experiment: Json, move: str) -> Json:
    """Move an experiment, and return it as it then is."""
    moved = client.post(f"/experiments/{experiment['id']}/{move}")
    assert moved.status_code == 200, moved.text
    after: Json = moved.json()
    return after


def event_body(**fields: Any) -> Json:
    return {"user_id": unique("user"), "event_type": "purchase", **fields}


def user_path(user_id: str) -> str:
    """Quote a user id for a path; dots too, because clients resolve `.` and `..` themselves."""
    return quote(user_id, safe="").replace(".", "%2E")


def assignment_path(experiment: Json, user_id: str) -> str:
    return f"/experiments/{experiment['key']}/assignment/{user_path(user_id)}"


def ask(client: httpx.Client, experiment: Json, user_id: str, *, enroll: bool = True) -> Json:
    """Return the answer for one user."""
    response = client.get(assignment_path(experiment, user_id), params={} if enroll else {"enroll": "false"})
    assert response.status_code == 200, response.text
    answer: Json = response.json()
    return answer


def ask_many(client: httpx.Client, experiment: Json, user_ids: Sequence[str], *, enroll: bool = True) -> list[Json]:
    """Return the answers for many users, in their order."""
    body = {"experiment": experiment["key"], "user_ids": list(user_ids), "enroll": enroll}
    response = client.post("/assignments/bulk", json=body)
    assert response.status_code == 200, response.text
    answers: list[Json] = response.json()["assignments"]
    return answers


def walk(client: httpx.Client, path: str, **query: Any) -> list[Json]:
    """Return every item of a list, page by page."""
    items: list[Json] = []
    cursor: str | None = None
    for _ in range(1000):
        response = client.get(path, params={**query, **({"cursor": cursor} if cursor else {})})
        assert response.status_code == 200, response.text
        items += response.json()["items"]
        cursor = response.json()["next_cursor"]
        if cursor is None:
            return items
    raise AssertionError(f"{path} never comes to its end")


def expect_problem(response: httpx.Response, status: int, *, field: str | None = None) -> Json:
    """Check that the answer is a complete problem, and return it; `field` is one that it must name."""
    assert response.status_code == status, f"{response.status_code} instead of {status}: {response.text[:500]}"
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]
    problem: Json = response.json()
    assert problem["status"] == status
    assert all(isinstance(problem[name], str) and problem[name] for name in ("type", "title", "detail"))
    if status == 422:
        assert problem["errors"]
        assert all(set(error) == {"field", "detail"} and error["field"] for error in problem["errors"])
    if status == 401:
        assert response.headers["www-authenticate"].startswith("Bearer")
    if field is not None:
        assert field in [error["field"] for error in problem["errors"]], problem["errors"]
    return problem
