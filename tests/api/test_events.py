"""POST /events and POST /events/batch."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.factories import Json, event_body, expect_problem, make_experiment
from tests.service_process import ServiceProcess

_JSON = {"Content-Type": "application/json"}


def _rows(service: ServiceProcess, event_id: str) -> list[Json]:
    return service.rows("SELECT * FROM events WHERE event_id = $1", UUID(event_id))


def _outbox_rows(service: ServiceProcess, event_id: str) -> int:
    return len(service.rows("SELECT id FROM outbox_events WHERE id = $1", UUID(event_id)))


def _in(**ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(**ahead)).isoformat()


def _batch(client: httpx.Client, *events: Any) -> Json:
    response = client.post("/events/batch", content=json.dumps({"events": events}), headers=_JSON)
    assert response.status_code == 200, response.text
    answer: Json = response.json()
    assert answer["rejected"] == len(answer["errors"])
    assert answer["accepted"] + answer["duplicates"] + answer["rejected"] == len(events)
    return answer


def test_event__full_body__is_stored_as_sent(client: httpx.Client, service: ServiceProcess) -> None:
    experiment = make_experiment(client)
    event_id = str(uuid4())
    body = event_body(
        event_id=event_id,
        experiment_id=experiment["key"],
        timestamp="2026-03-01T12:00:00.123456+02:00",
        value=19.99,
        properties={"deep": {"list": [1, 2.5, None, True, "é😀"]}, "": 0},
    )
    response = client.post("/events", json=body)
    assert (response.status_code, response.json()) == (201, {"event_id": event_id, "status": "accepted"})
    (row,) = _rows(service, event_id)
    assert (row["experiment_id"], row["user_id"]) == (experiment["id"], body["user_id"])
    assert (row["event_type"], row["value"]) == ("purchase", 19.99)
    assert row["ts"] == datetime(2026, 3, 1, 10, 0, 0, 123456, tzinfo=UTC)
    assert json.loads(row["properties"]) == body["properties"]
    assert _outbox_rows(service, event_id) == 1


def test_event__minimal_body__gets_an_id_and_happens_now(client: httpx.Client, service: ServiceProcess) -> None:
    before = datetime.now(UTC)
    answer = client.post("/events", json=event_body()).json()
    (row,) = _rows(service, answer["event_id"])
    assert before - timedelta(seconds=5) < row["ts"] < datetime.now(UTC) + timedelta(seconds=5)
    assert (row["experiment_id"], row["value"], row["properties"]) == (None, None, None)


@pytest.mark.parametrize(
    "change",
    [
        *({}, {"timestamp": "2026-03-02T00:00:00Z"}, {"user_id": "somebody else"}, {"event_type": "other"}),
        *({"value": 2}, {"properties": {"a": 1}}),
    ],
)
def test_event__repeated_id__is_a_duplicate_whatever_else_differs(
    client: httpx.Client, service: ServiceProcess, change: Json
) -> None:
    body = event_body(event_id=str(uuid4()), timestamp="2026-01-01T00:00:00Z", value=1)
    assert client.post("/events", json=body).status_code == 201
    again = client.post("/events", json={**body, **change})
    assert (again.status_code, again.json()) == (200, {"event_id": body["event_id"], "status": "duplicate"})
    assert _batch(client, {**body, **change})["duplicates"] == 1
    (row,) = _rows(service, body["event_id"])
    assert (row["user_id"], row["value"]) == (body["user_id"], 1)
    assert _outbox_rows(service, body["event_id"]) == 1


def test_event__id_in_another_spelling__is_the_same_id(client: httpx.Client) -> None:
    event_id = str(uuid4())
    assert client.post("/events", json=event_body(event_id=event_id.upper())).json()["event_id"] == event_id
    assert client.post("/events", json=event_body(event_id=event_id)).status_code == 200


def test_event__same_id_in_another_project__is_an_event_of_its_own(
    client: httpx.Client, empty_project: httpx.Client, service: ServiceProcess
) -> None:
    body = event_body(event_id=str(uuid4()))
    assert client.post("/events", json=body).status_code == 201
    assert empty_project.post("/events", json=body).status_code == 201
    assert _batch(empty_project, body)["duplicates"] == 1
    assert len(_rows(service, body["event_id"])) == 2


def test_event__before_any_assignment_or_in_any_state__is_stored(client: httpx.Client) -> None:
    for state in ("draft", "running", "paused", "completed", "archived"):
        experiment = make_experiment(client, state=state)
        response = client.post("/events", json=event_body(experiment_id=experiment["id"]))
        assert response.status_code == 201, response.text


@pytest.mark.parametrize("reference", ["no-such", 999_999_999, "999999999", 0, 10**25])
def test_event__unknown_experiment__is_404_and_leaves_its_id_free(client: httpx.Client, reference: object) -> None:
    body = event_body(event_id=str(uuid4()))
    expect_problem(client.post("/events", json={**body, "experiment_id": reference}), 404)
    assert client.post("/events", json=body).status_code == 201


_WRONG: dict[str, tuple[Json, str]] = {
    "user_id missing": ({"user_id": None}, "user_id"),
    "user_id a number": ({"user_id": 7}, "user_id"),
    "event_type missing": ({"event_type": None}, "event_type"),
    "event_type empty": ({"event_type": ""}, "event_type"),
    "event_type with line break": ({"event_type": "a\nb"}, "event_type"),
    "event_type a number": ({"event_type": 1}, "event_type"),
    "event_id no UUID": ({"event_id": "42"}, "event_id"),
    "event_id a number": ({"event_id": 42}, "event_id"),
    "event_id too long": ({"event_id": f"{uuid4()}0"}, "event_id"),
    "event_id empty": ({"event_id": ""}, "event_id"),
    "experiment_id a fraction": ({"experiment_id": 1.5}, "experiment_id"),
    "experiment_id a boolean": ({"experiment_id": True}, "experiment_id"),
    "experiment_id a list": ({"experiment_id": []}, "experiment_id"),
    "timestamp naive": ({"timestamp": "2026-01-01T00:00:00"}, "timestamp"),
    "timestamp a date": ({"timestamp": "2026-01-01"}, "timestamp"),
    "timestamp in seconds": ({"timestamp": 1_767_225_600}, "timestamp"),
    "timestamp in seconds as text": ({"timestamp": "1767225600"}, "timestamp"),
    "timestamp a fraction": ({"timestamp": 1.5}, "timestamp"),
    "timestamp a boolean": ({"timestamp": True}, "timestamp"),
    "timestamp empty": ({"timestamp": ""}, "timestamp"),
    "timestamp words": ({"timestamp": "now"}, "timestamp"),
    "timestamp RFC 2822": ({"timestamp": "Thu, 01 Jan 2026 00:00:00 GMT"}, "timestamp"),
    "timestamp month 13": ({"timestamp": "2026-13-01T00:00:00Z"}, "timestamp"),
    "timestamp 30 February": ({"timestamp": "2026-02-30T00:00:00Z"}, "timestamp"),
    "timestamp hour 25": ({"timestamp": "2026-01-01T25:00:00Z"}, "timestamp"),
    "timestamp zone by name": ({"timestamp": "2026-01-01T00:00:00 Europe/Berlin"}, "timestamp"),
    "timestamp year 0": ({"timestamp": "0000-01-01T00:00:00Z"}, "timestamp"),
    "timestamp year 1": ({"timestamp": "0001-01-01T00:00:00+23:59"}, "timestamp"),
    "timestamp year 9999": ({"timestamp": "9999-12-31T23:59:59-23:59"}, "timestamp"),
    "timestamp with Arabic digits": ({"timestamp": "٢٠٢٦-01-01T00:00:00Z"}, "timestamp"),
    "timestamp an hour ahead": ({"timestamp": _in(hours=1)}, "timestamp"),
    "value a boolean": ({"value": True}, "value"),
    "value text": ({"value": "19.99"}, "value"),
    "value a list": ({"value": [1]}, "value"),
    "value beyond any float": ({"value": 10**400}, "value"),
    "properties a list": ({"properties": [1]}, "properties"),
    "properties text": ({"properties": "{}"}, "properties"),
    "properties with NUL": ({"properties": {"a": "\x00"}}, "properties"),
    "properties with a lone surrogate": ({"properties": {"a": "\ud800"}}, "properties"),
    "properties with a lone surrogate in a key": ({"properties": {"\ud800": 1}}, "properties"),
    "properties of 20 kB": ({"properties": {"a": "x" * 20_000}}, "properties"),
    "properties nested too deeply": ({"properties": json.loads('{"a":' * 100 + "1" + "}" * 100)}, "properties"),
    "unknown field": ({"experiment": "e"}, "experiment"),
    "unknown field in another case": ({"User_id": "u"}, "User_id"),
}
_CODES = {"timestamp an hour ahead": "FUTURE_TIMESTAMP", "properties of 20 kB": "TOO_LARGE"}


def _event_with(case: str) -> Json:
    change, _ = _WRONG[case]
    body = event_body(event_id=str(uuid4()))
    for field, value in change.items():
        if value is None:
            del body[field]
        else:
            body[field] = value
    return body


@pytest.mark.parametrize("case", _WRONG)
def test_event__wrong_field__is_422_and_names_the_field(client: httpx.Client, case: str) -> None:
    response = client.post("/events", content=json.dumps(_event_with(case)), headers=_JSON)
    expect_problem(response, 422, field=_WRONG[case][1])


@pytest.mark.parametrize("case", _WRONG)
def test_batch__wrong_row__is_rejected_with_its_code_and_the_rest_stored(client: httpx.Client, case: str) -> None:
    bad = _event_with(case)
    answer = _batch(client, event_body(), bad, event_body())
    (error,) = answer["errors"]
    assert (error["index"], error["code"]) == (1, _CODES.get(case, "INVALID_FIELD"))
    assert error["detail"]
    assert answer["accepted"] == 2
    if bad.get("event_id") is not None and _WRONG[case][1] != "event_id":
        good = event_body(event_id=bad["event_id"])
        assert client.post("/events", json=good).status_code == 201, "a rejected row must leave its id free"


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        *(("0", 0.0), ("-0.0", 0.0), ("-5", -5.0), ("1e-320", 1e-320), ("1e308", 1e308), ("-1.7e308", -1.7e308)),
        *(("12345678901234567890", 12345678901234567890.0), ("1" * 300, float("1" * 300)), ("1e-999", 0.0)),
        *(("0.1", 0.1), ("9007199254740993", 9007199254740993.0), ("null", None)),
    ],
)
def test_event__any_finite_number__is_stored_as_a_double(
    client: httpx.Client, service: ServiceProcess, value: str, stored: float | None
) -> None:
    body = json.dumps(event_body())[:-1] + f', "value": {value}}}'
    response = client.post("/events", content=body, headers=_JSON)
    assert response.status_code == 201, response.text
    (row,) = _rows(service, response.json()["event_id"])
    assert row["value"] == stored


@pytest.mark.parametrize("value", ["1e999", "-1e999"])
def test_event__number_beyond_any_double__is_422(client: httpx.Client, value: str) -> None:
    body = json.dumps(event_body())[:-1] + f', "value": {value}}}'
    expect_problem(client.post("/events", content=body, headers=_JSON), 422, field="value")
    batch = client.post("/events/batch", content=f'{{"events": [{body}]}}', headers=_JSON).json()
    assert [error["code"] for error in batch["errors"]] == ["INVALID_FIELD"]


@pytest.mark.parametrize("value", ["1" * 5000, "-" + "1" * 5000])
def test_event__number_of_thousands_of_digits__is_judged_like_any_other(client: httpx.Client, value: str) -> None:
    body = json.dumps(event_body())[:-1] + f', "value": {value}}}'
    expect_problem(client.post("/events", content=body, headers=_JSON), 422, field="value")
    batch = client.post(
        "/events/batch", content=f'{{"events": [{body}, {json.dumps(event_body())}]}}', headers=_JSON
    ).json()
    assert (batch["accepted"], batch["rejected"]) == (1, 1)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "01", "1.", ".5", "+1", "0x1", "1_000"])
@pytest.mark.parametrize("path", ["/events", "/events/batch"])
def test_event__not_a_json_number__is_400(client: httpx.Client, path: str, value: str) -> None:
    body = json.dumps(event_body())[:-1] + f', "value": {value}}}'
    content = body if path == "/events" else f'{{"events": [{body}]}}'
    expect_problem(client.post(path, content=content, headers=_JSON), 400)


@pytest.mark.parametrize(
    ("timestamp", "stored"),
    [
        ("2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T00:00:00.5+00:00", datetime(2026, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-01-01T00:00:00.000001Z", datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
        ("2026-01-01 00:00:00-05:30", datetime(2026, 1, 1, 5, 30, tzinfo=UTC)),
        ("2026-01-01T00:00:00+14:00", datetime(2025, 12, 31, 10, 0, tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("2024-02-29T23:59:59Z", datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_event__timestamp_with_an_offset__is_stored_in_utc(
    client: httpx.Client, service: ServiceProcess, timestamp: str, stored: datetime
) -> None:
    response = client.post("/events", json=event_body(timestamp=timestamp))
    assert response.status_code == 201, response.text
    (row,) = _rows(service, response.json()["event_id"])
    assert row["ts"] == stored


def test_event__a_clock_slightly_ahead__is_forgiven(client: httpx.Client) -> None:
    assert client.post("/events", json=event_body(timestamp=_in(seconds=20))).status_code == 201


def test_batch__mixed_rows__are_counted_and_named_in_their_order(client: httpx.Client, service: ServiceProcess) -> None:
    experiment = make_experiment(client)
    known, twice = event_body(event_id=str(uuid4())), event_body(event_id=str(uuid4()), value=1)
    client.post("/events", json=known)
    answer = _batch(
        client,
        event_body(experiment_id=experiment["id"]),
        known,
        twice,
        {**twice, "value": 2},
        event_body(experiment_id="no-such"),
        event_body(timestamp=_in(days=1)),
        event_body(properties={"a": "x" * 20_000}),
        *(None, 7, "text", [], {}),
        event_body(experiment_id=experiment["key"]),
    )
    assert (answer["accepted"], answer["duplicates"], answer["rejected"]) == (3, 2, 8)
    assert [(error["index"], error["code"]) for error in answer["errors"]] == [
        *((4, "UNKNOWN_EXPERIMENT"), (5, "FUTURE_TIMESTAMP"), (6, "TOO_LARGE")),
        *((index, "INVALID_FIELD") for index in range(7, 12)),
    ]
    (row,) = _rows(service, twice["event_id"])
    assert row["value"] == 1


def test_batch__rejected_row_and_good_one_with_the_same_id__stores_the_good_one(client: httpx.Client) -> None:
    event_id = str(uuid4())
    answer = _batch(client, event_body(event_id=event_id, value="x"), event_body(event_id=event_id))
    assert (answer["accepted"], answer["duplicates"], answer["rejected"]) == (1, 0, 1)


def test_batch__thousand_events__are_stored_and_one_more_is_422(client: httpx.Client, service: ServiceProcess) -> None:
    user_id = f"thousand-{uuid4()}"
    events = [event_body(user_id=user_id, event_id=str(uuid4())) for _ in range(1001)]
    expect_problem(client.post("/events/batch", json={"events": events}), 422, field="events")
    assert _batch(client, *events[:1000])["accepted"] == 1000
    assert _batch(client, *events[:1000])["duplicates"] == 1000
    (row,) = service.rows("SELECT count(*) AS n FROM events WHERE user_id = $1", user_id)
    assert row["n"] == 1000


@pytest.mark.parametrize(
    "body", [{}, {"events": []}, {"events": None}, {"events": {}}, [], None, 7, {"events": [], "x": 1}]
)
def test_batch__wrong_body__is_422(client: httpx.Client, body: Any) -> None:
    expect_problem(client.post("/events/batch", json=body), 422)


@pytest.mark.parametrize(
    ("path", "wrap", "limit"),
    [("/events", "{}", 1 << 20), ("/events/batch", '{{"events": [{}]}}', 8 << 20)],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_event__body_past_its_limit__is_413(
    client: httpx.Client, path: str, wrap: str, limit: int, *, chunked: bool
) -> None:
    fits = wrap.format(json.dumps(event_body())).encode().ljust(limit)
    for body, status in ((fits, {200, 201}), (fits + b" ", {413})):
        content: Any = iter([body[:1000], body[1000:]]) if chunked else body
        response = client.post(path, content=content, headers=_JSON)
        assert response.status_code in status, response.text[:300]
        if response.status_code == 413:
            expect_problem(response, 413)


@pytest.mark.parametrize("length", [1, 100])
def test_event__type_up_to_a_hundred_characters__is_stored(client: httpx.Client, length: int) -> None:
    assert client.post("/events", json=event_body(event_type="😀" * length)).status_code == 201


@pytest.mark.parametrize("make", [str.upper, lambda text: text.replace("-", "")])
def test_batch__same_id_in_two_spellings__is_one_event(client: httpx.Client, make: Callable[[str], str]) -> None:
    event_id = str(uuid4())
    answer = _batch(client, event_body(event_id=event_id), event_body(event_id=make(event_id)))
    assert (answer["accepted"], answer["duplicates"]) == (1, 1)
