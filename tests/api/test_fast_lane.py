"""The fast lane and the ordinary routes answer alike.

Each request goes out twice: in the plain form that the lane takes, and in another one that it passes on.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import MakeClient
from tests.factories import Json, ask, assignment_path, make_experiment, unique
from tests.service_process import TOKEN, ServiceProcess

_NOT_COMPARED = {"date", "x-request-id"}
_PLAIN = {"Content-Type": "application/json"}
Send = Callable[[httpx.Client, str, bytes], httpx.Response]


def _in_chunks(client: httpx.Client, path: str, body: bytes) -> httpx.Response:
    return client.post(path, content=iter([body[:7], body[7:]]), headers=_PLAIN)


def _as(content_type: str) -> Send:
    return lambda client, path, body: client.post(path, content=body, headers={"Content-Type": content_type})


_OTHER_FORMS: dict[str, Send] = {
    "charset": _as("application/json; charset=utf-8"),
    "upper case": _as("APPLICATION/JSON"),
    "in chunks": _in_chunks,
}


def _seen(response: httpx.Response) -> tuple[int, Any, dict[str, str]]:
    headers = {name: value for name, value in response.headers.items() if name not in _NOT_COMPARED}
    return response.status_code, response.content, headers


def _expect_alike(plain: httpx.Response, other: httpx.Response) -> None:
    assert _seen(plain) == _seen(other)
    assert plain.headers["x-request-id"]
    assert other.headers["x-request-id"]


@pytest.fixture(scope="module")
def experiments(client: httpx.Client) -> dict[str, Json]:
    """One experiment for each thing that an answer may depend on; `known` is assigned in them."""
    made = {state: make_experiment(client, state=state) for state in ("draft", "running", "archived")}
    for state in ("paused", "completed"):
        made[state] = make_experiment(client, config={"a": 1})
        ask(client, made[state], "known")
        client.post(f"/experiments/{made[state]['id']}/{state.removesuffix('d')}")
    made["overridden"] = make_experiment(client)
    client.put(f"/experiments/{made['overridden']['id']}/overrides/known", json={"variant": "v1"})
    made["empty"] = make_experiment(client, traffic_pct=0)
    made["early"] = make_experiment(client, starts_at="2031-01-01T00:00:00Z")
    made["late"] = make_experiment(client, ends_at="2020-01-01T00:00:00Z")
    for name in ("running", "overridden"):
        ask(client, made[name], "known")
    return made


_EXPERIMENTS = (
    *("draft", "running", "paused", "completed", "archived", "overridden", "empty", "early", "late"),
    "unknown",
)


@pytest.mark.parametrize("name", _EXPERIMENTS)
@pytest.mark.parametrize("plain", ["", "?enroll=true", "?enroll=false"])
def test_lane__get_in_every_state__answers_as_the_route_does(
    client: httpx.Client, experiments: dict[str, Json], name: str, plain: str
) -> None:
    experiment = experiments.get(name, {"key": "no-such", "id": 999_999_999})
    others = ["?enroll=0", "?enroll=False"] if plain == "?enroll=false" else ["?enroll=1", "?enroll=True"]
    for reference in (experiment["key"], experiment["id"]):
        path = f"/experiments/{reference}/assignment/known"
        for other in others:
            _expect_alike(client.get(path + plain), client.get(path + other))


@pytest.mark.parametrize(
    "path",
    [
        *("/experiments/A/assignment/u", "/experiments/a.b/assignment/u", "/experiments/{e}%0A/assignment/u"),
        *("/experiments/1%0A/assignment/u", "/experiments/{e}%20/assignment/u", "/experiments/{e}%00/assignment/u"),
        *("/experiments//assignment/u", "/experiments/{e}/assignment/", "/experiments/{e}/assignment//"),
        *("/experiments/{e}/assignment/a%0Ab", "/experiments/{e}/assignment/%00", "/experiments/{e}/assignment/%7F"),
        *("/experiments/{e}/assignment/" + "x" * 256, "/experiments/{e}/assignment/" + "x" * 257),
        *(
            "/experiments/{e}/assignment/a/b/",
            "/experiments/{e}/assignment/%2F%2e%2E",
            "/experiments/{e}/assignment/%25",
        ),
        *("/experiments/" + "9" * 30 + "/assignment/u", "/experiments/" + "9" * 31 + "/assignment/u"),
        *("/experiments/" + "x" * 65 + "/assignment/u", "/experiments/00{i}/assignment/known"),
        *("/experiments/{e}%2Fassignment%2Fknown", "/experiments/{e}/assignment%2Fknown"),
        *("/experiments/{e}/assignment/%FF", "/experiments/%EF%BC%91/assignment/u", "/experiments/{e}/Assignment/u"),
        *("/experiments/{e}/assignment/u/assignment/w", "/experiments/{e}/assignments/assignment/u"),
    ],
)
def test_lane__get_of_odd_paths__answers_as_the_route_does(
    client: httpx.Client, experiments: dict[str, Json], path: str
) -> None:
    experiment = experiments["running"]
    path = path.format(e=experiment["key"], i=experiment["id"])
    client.get(path)  # From now on the user is known to both.
    _expect_alike(client.get(path), client.get(f"{path}?enroll=1"))


@pytest.mark.parametrize(
    "headers",
    [
        *({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic x"}, {"Authorization": "Bearer"}),
        *({"Authorization": f"bearer   {TOKEN}"}, {"Authorization": f"Bearer {TOKEN}", "X-Project": "no-such"}),
        *({"Authorization": f"Bearer {TOKEN}", "X-Project": ""}, {"Authorization": f"Bearer {TOKEN} x"}),
        *({"Authorization": f"Bearer {TOKEN}", "X-Project": "default"}, {"Authorization": f"Bearer\t{TOKEN}"}),
    ],
)
def test_lane__admission__is_the_routes(
    service: ServiceProcess, client_of: MakeClient, experiments: dict[str, Json], headers: dict[str, str]
) -> None:
    stranger = client_of(service, token=None)
    path = assignment_path(experiments["running"], "known")
    _expect_alike(stranger.get(path, headers=headers), stranger.get(f"{path}?enroll=1", headers=headers))
    body = b'{"user_id": "u", "event_type": ""}'
    for route in ("/events", "/assignments"):
        plain = stranger.post(route, content=body, headers={**headers, **_PLAIN})
        other = {**headers, "Content-Type": "application/json; charset=utf-8"}
        _expect_alike(plain, stranger.post(route, content=body, headers=other))
    stranger.close()


@pytest.mark.parametrize("scope", ["events", "assignments", "results"])
def test_lane__scopes__are_the_routes(
    service: ServiceProcess,
    client_of: MakeClient,
    make_token: Callable[..., Json],
    experiments: dict[str, Json],
    scope: str,
) -> None:
    limited = client_of(service, token=make_token(scope)["token"])
    path = assignment_path(experiments["running"], "known")
    _expect_alike(limited.get(path), limited.get(f"{path}?enroll=1"))
    for route in ("/events", "/assignments"):
        _expect_alike(_as("application/json")(limited, route, b"{}"), _OTHER_FORMS["charset"](limited, route, b"{}"))
    limited.close()


@pytest.mark.parametrize("first_is_good", [True, False])
def test_lane__two_authorization_headers__are_read_as_the_route_reads_them(
    service: ServiceProcess, client_of: MakeClient, experiments: dict[str, Json], *, first_is_good: bool
) -> None:
    stranger = client_of(service, token=None)
    tokens = [TOKEN, "nonsense"] if first_is_good else ["nonsense", TOKEN]
    headers = [("Authorization", f"Bearer {token}") for token in tokens]
    path = assignment_path(experiments["running"], "known")
    _expect_alike(stranger.get(path, headers=headers), stranger.get(f"{path}?enroll=1", headers=headers))
    stranger.close()


_BODIES: dict[str, bytes] = {
    "empty object": b"{}",
    "null": b"null",
    "list": b"[]",
    "number": b"7",
    "text": b'"x"',
    "cut": b'{"user_id": "u"',
    "not UTF-8": b'{"user_id": "\xff"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "NaN": b'{"user_id": NaN}',
    "two values": b"{}{}",
    "deep": b"[" * 50_000,
    "spaces": b" ",
    "lone surrogate": b'{"user_id": "\\ud800"}',
    "lone surrogate as a name": b'{"\\ud800": 1}',
    "NUL": b'{"user_id": "\\u0000"}',
    "huge number": b'{"user_id": 1e999}',
    "long number": b'{"user_id": ' + b"1" * 5000 + b"}",
    "twice the same name": b'{"user_id": "u", "user_id": "w"}',
}
_ASSIGN_BODIES: dict[str, Json] = {
    "known user": {"user_id": "known"},
    "known user, preview": {"user_id": "known", "enroll": False},
    "with a context": {"user_id": "known", "context": {"a": [1, "é"]}},
    "new user, preview": {"user_id": "nobody", "enroll": False},
    "user too long": {"user_id": "x" * 257},
    "user empty": {"user_id": ""},
    "user with control character": {"user_id": "a\nb"},
    "enroll text": {"user_id": "u", "enroll": "true"},
    "context a list": {"user_id": "u", "context": []},
    "context with NUL": {"user_id": "u", "context": {"a": "\x00"}},
    "unknown field": {"user_id": "u", "x": 1},
    "no user": {},
    "unknown experiment": {"experiment": "no-such", "user_id": "u"},
    "experiment a fraction": {"experiment": 1.5, "user_id": "u"},
    "experiment a malformed key": {"experiment": "A\n", "user_id": "u"},
    "experiment negative": {"experiment": -1, "user_id": "u"},
}


@pytest.mark.parametrize("form", _OTHER_FORMS)
@pytest.mark.parametrize("body", _BODIES)
@pytest.mark.parametrize("path", ["/assignments", "/events"])
def test_lane__bodies_of_every_shape__are_answered_as_the_route_does(
    client: httpx.Client, path: str, body: str, form: str
) -> None:
    content = _BODIES[body]
    _expect_alike(_as("application/json")(client, path, content), _OTHER_FORMS[form](client, path, content))


@pytest.mark.parametrize("form", _OTHER_FORMS)
@pytest.mark.parametrize("body", _ASSIGN_BODIES)
@pytest.mark.parametrize("name", ["running", "paused", "completed", "draft", "overridden", "empty"])
def test_lane__post_assignment__answers_as_the_route_does(
    client: httpx.Client, experiments: dict[str, Json], name: str, body: str, form: str
) -> None:
    content = json.dumps({"experiment": experiments[name]["key"], **_ASSIGN_BODIES[body]}).encode()
    plain, other = (send(client, "/assignments", content) for send in (_as("application/json"), _OTHER_FORMS[form]))
    _expect_alike(plain, other)


def test_lane__new_users__are_enrolled_as_the_route_does(client: httpx.Client) -> None:
    experiment = make_experiment(client, 10, 20, 30, 40)
    for index in range(40):
        user_id = f"user-{index}"
        path = assignment_path(experiment, user_id)
        body = json.dumps({"experiment": experiment["id"], "user_id": user_id}).encode()
        first: list[Callable[[], httpx.Response]] = [
            partial(client.get, path),
            partial(client.get, f"{path}?enroll=1"),
            partial(_as("application/json"), client, "/assignments", body),
            partial(_in_chunks, client, "/assignments", body),
        ]
        preview = client.get(f"{path}?enroll=0").json()
        answer = first[index % 4]()
        expected = {"reason": "NEW_ASSIGNMENT", "enrolled": True, "assigned_at": answer.json()["assigned_at"]}
        assert answer.json() == {**preview, **expected}
        again = [call() for call in first]
        for other in again[1:]:
            _expect_alike(again[0], other)


_EVENTS: dict[str, Json] = {
    "plain": {},
    "full": {"value": 1.5, "timestamp": "2026-01-01T00:00:00Z", "properties": {"a": [1, None]}},
    "big integer": {"value": 10**25, "properties": {"n": 10**25}},
    "unknown experiment": {"experiment_id": "no-such"},
    "malformed experiment": {"experiment_id": "A"},
    "boolean value": {"value": True},
    "future": {"timestamp": "2290-01-01T00:00:00Z"},
    "naive": {"timestamp": "2026-01-01T00:00:00"},
    "large properties": {"properties": {"a": "x" * 20_000}},
    "type empty": {"event_type": ""},
    "type blank": {"event_type": " \u2003"},
    "type invisible": {"event_type": "\u200b"},
    "type between blanks": {"event_type": " x "},
    "unknown field": {"x": 1},
    "id malformed": {"event_id": "7"},
}


@pytest.mark.parametrize("form", _OTHER_FORMS)
@pytest.mark.parametrize("case", _EVENTS)
@pytest.mark.parametrize("known", [False, True])
def test_lane__events__are_answered_as_the_route_does(
    client: httpx.Client, case: str, form: str, *, known: bool
) -> None:
    def body(event_id: str) -> bytes:
        event = {"event_id": event_id, "user_id": "u", "event_type": "x", **_EVENTS[case]}
        return json.dumps(event).encode()

    ids = [str(uuid4()), str(uuid4())]
    if known:
        for event_id in ids:
            client.post("/events", content=body(event_id), headers=_PLAIN)
    plain, other = (
        send(client, "/events", body(event_id))
        for send, event_id in zip((_as("application/json"), _OTHER_FORMS[form]), ids, strict=True)
    )
    assert plain.content.replace(ids[0].encode(), b"") == other.content.replace(ids[1].encode(), b"")
    assert _seen(plain)[0::2] == _seen(other)[0::2]


_TEXTS = st.text(st.sampled_from("aé \u00a0\u200b\u2800\u3164\n\x7f\ud800😀"), max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(event_type=_TEXTS, user_id=_TEXTS)
def test_lane__events_of_odd_texts__are_answered_as_the_route_and_a_batch_do(
    client: httpx.Client, event_type: str, user_id: str
) -> None:
    event = {"user_id": user_id, "event_type": event_type}
    body = json.dumps(event).encode()
    plain, other = (send(client, "/events", body) for send in (_as("application/json"), _OTHER_FORMS["charset"]))
    batch = _as("application/json")(client, "/events/batch", json.dumps({"events": [event]}).encode()).json()

    assert plain.status_code == other.status_code
    assert batch["accepted"] == (plain.status_code == 201)
    if plain.status_code != 201:
        _expect_alike(plain, other)
        assert batch["errors"] == [{"index": 0, "code": "INVALID_FIELD", "detail": plain.json()["detail"]}]


def test_lane__body_past_its_limit__is_answered_as_the_route_does(client: httpx.Client) -> None:
    body = b'{"user_id": "' + b"x" * (1 << 20) + b'"}'
    for path in ("/events", "/assignments"):
        plain = _as("application/json")(client, path, body)
        assert plain.status_code == 413
        for send in _OTHER_FORMS.values():
            _expect_alike(plain, send(client, path, body))


def test_lane__query_beside_a_body__is_refused(client: httpx.Client) -> None:
    for path in ("/events", "/assignments"):
        assert client.post(f"{path}?x=1", json={"user_id": unique("u")}).status_code == 422
