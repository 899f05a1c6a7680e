"""POST /experiments: what is accepted, what is refused, and what the answer shows."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.factories import Json, expect_problem, experiment_body, make_experiment, unique, variant_bodies

_SHOWN = {
    *("id", "key", "name", "description", "status", "variants", "seed", "traffic_pct", "config", "version"),
    *("starts_at", "ends_at", "started_at", "ended_at", "created_at", "updated_at"),
}


def test_creation__minimal_body__shows_every_field_with_its_default(client: httpx.Client) -> None:
    body = experiment_body()
    response = client.post("/experiments", json=body)
    assert response.status_code == 201
    shown = response.json()
    assert response.headers["location"] == f"/api/v1/experiments/{shown['id']}"
    assert shown.keys() >= _SHOWN
    assert (shown["status"], shown["version"], shown["traffic_pct"]) == ("draft", 1, 100)
    assert (shown["started_at"], shown["ended_at"], shown["starts_at"], shown["ends_at"]) == (None, None, None, None)
    assert (shown["config"], shown["description"]) == ({}, None)
    assert 1 <= len(shown["seed"]) <= 64


def test_creation__full_body__comes_back_by_id_and_by_key(client: httpx.Client) -> None:
    body = experiment_body(
        *(10, 20.5, 69.5),
        description="Line one\nline two\tnaïve 🚀",
        seed="Seed_1-x",
        starts_at="2031-01-01T00:00:00+02:00",
        ends_at="2031-02-01T00:00:00Z",
        traffic_pct=12.34,
        config={"nested": {"list": [1, 2.5, None, True, "é😀"]}},
        status="running",
    )
    body["variants"][1]["config"] = {"color": "#0f0", "": 0}
    created = client.post("/experiments", json=body).json()
    assert client.get(f"/experiments/{created['id']}").json() == created
    assert client.get(f"/experiments/{body['key']}").json() == created
    assert created["status"] == "running"
    assert created["started_at"] is not None
    assert created["starts_at"] == "2030-12-31T22:00:00Z"
    for field in ("key", "name", "description", "seed", "traffic_pct", "config"):
        assert created[field] == body[field], field
    for shown, sent in zip(created["variants"], body["variants"], strict=True):
        assert shown == {**shown, "config": {}, **sent}
        assert isinstance(shown["id"], int)


@pytest.mark.parametrize(
    "allocations",
    [
        (50, 50),
        (33.33, 33.33, 33.34),
        (0.01, 99.99),
        (99.99, 0.01),
        (100, 0),
        (0.07, 0.29, 99.64),
        (14.28, 14.28, 14.28, 14.28, 14.28, 14.28, 14.32),
        (1.1, 2.2, 3.3, 93.4),
        tuple([2] * 50),
    ],
)
def test_creation__valid_allocations__own_contiguous_ranges_in_their_order(
    client: httpx.Client, allocations: tuple[float, ...]
) -> None:
    shown = make_experiment(client, *allocations, state="draft")["variants"]
    assert [variant["key"] for variant in shown] == [f"v{index}" for index in range(len(allocations))]
    assert [variant["allocation_pct"] for variant in shown] == list(allocations)
    bounds = [variant["bucket_start"] for variant in shown] + [shown[-1]["bucket_end"]]
    assert (bounds[0], bounds[-1]) == (0, 10_000)
    assert [variant["bucket_end"] for variant in shown] == bounds[1:]
    widths = [round(share * 100) for share in allocations]
    assert [end - start for start, end in pairwise(bounds)] == widths


def _variants(change: Callable[[list[Any]], object], *allocations: float) -> dict[str, Any]:
    variants = variant_bodies(*allocations)
    change(variants)
    return {"variants": variants}


_WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "sum below 100": ({"variants": variant_bodies(50, 49.99)}, "variants"),
    "sum above 100": ({"variants": variant_bodies(50, 50.01)}, "variants"),
    "sum 99.99 of thirds": ({"variants": variant_bodies(33.33, 33.33, 33.33)}, "variants"),
    "three decimals": ({"variants": variant_bodies(33.333, 66.667)}, "variants.0.allocation_pct"),
    "negative allocation": ({"variants": variant_bodies(-10, 110)}, "variants.0.allocation_pct"),
    "boolean allocation": (_variants(lambda v: v[0].update(allocation_pct=True)), "variants.0.allocation_pct"),
    "null allocation": (_variants(lambda v: v[0].update(allocation_pct=None)), "variants.0.allocation_pct"),
    "huge allocation": (_variants(lambda v: v[0].update(allocation_pct=10**30)), "variants.0.allocation_pct"),
    "no control": (_variants(lambda v: v[0].update(is_control=False)), "variants"),
    "two controls": (_variants(lambda v: v[1].update(is_control=True)), "variants"),
    "control missing": (_variants(lambda v: v[1].pop("is_control")), "variants.1.is_control"),
    "one variant": ({"variants": variant_bodies(100)}, "variants"),
    "no variants": ({"variants": []}, "variants"),
    "variants null": ({"variants": None}, "variants"),
    "variants an object": ({"variants": {}}, "variants"),
    "variant a number": (_variants(lambda v: v.__setitem__(0, 7)), "variants.0"),
    "duplicate variant keys": (_variants(lambda v: v[1].update(key="v0")), "variants"),
    "variant key upper case": (_variants(lambda v: v[1].update(key="B")), "variants.1.key"),
    "variant key empty": (_variants(lambda v: v[1].update(key="")), "variants.1.key"),
    "variant name empty": (_variants(lambda v: v[1].update(name="")), "variants.1.name"),
    "variant name too long": (_variants(lambda v: v[1].update(name="x" * 201)), "variants.1.name"),
    "variant unknown field": (_variants(lambda v: v[1].update(weight=1)), "variants.1.weight"),
    "variant config a list": (_variants(lambda v: v[1].update(config=[])), "variants.1.config"),
    "key upper case": ({"key": "Abc"}, "key"),
    "key digit first": ({"key": "1abc"}, "key"),
    "key dash first": ({"key": "-abc"}, "key"),
    "key empty": ({"key": ""}, "key"),
    "key with space": ({"key": "a b"}, "key"),
    "key with line break at its end": ({"key": "abc\n"}, "key"),
    "key not ASCII": ({"key": "é"}, "key"),
    "key with full-width digit": ({"key": "a\uff11"}, "key"),
    "key of 65": ({"key": "a" * 65}, "key"),
    "key a number": ({"key": 7}, "key"),
    "key null": ({"key": None}, "key"),
    "name empty": ({"name": ""}, "name"),
    "name blank": ({"name": " \u2003"}, "name"),
    "variant name blank": (_variants(lambda v: v[1].update(name=" ")), "variants.1.name"),
    "name of 201": ({"name": "n" * 201}, "name"),
    "name of 201 emoji": ({"name": "😀" * 201}, "name"),
    "name with NUL": ({"name": "a\x00"}, "name"),
    "name with line break": ({"name": "a\nb"}, "name"),
    "name with C1 control": ({"name": "a\x85b"}, "name"),
    "name a number": ({"name": 5}, "name"),
    "description with NUL": ({"description": "a\x00"}, "description"),
    "description a number": ({"description": 1}, "description"),
    "seed empty": ({"seed": ""}, "seed"),
    "seed with colon": ({"seed": "a:b"}, "seed"),
    "seed with slash": ({"seed": "a/traffic"}, "seed"),
    "seed with dot": ({"seed": "a.b"}, "seed"),
    "seed not ASCII": ({"seed": "é"}, "seed"),
    "seed with line break at its end": ({"seed": "a\n"}, "seed"),
    "seed of 65": ({"seed": "s" * 65}, "seed"),
    "traffic above 100": ({"traffic_pct": 100.01}, "traffic_pct"),
    "traffic below 0": ({"traffic_pct": -0.01}, "traffic_pct"),
    "traffic a boolean": ({"traffic_pct": True}, "traffic_pct"),
    "traffic text": ({"traffic_pct": "much"}, "traffic_pct"),
    "starts_at naive": ({"starts_at": "2031-01-01T00:00:00"}, "starts_at"),
    "starts_at a date": ({"starts_at": "2031-01-01"}, "starts_at"),
    "starts_at a number": ({"starts_at": 1_900_000_000}, "starts_at"),
    "starts_at no such day": ({"starts_at": "2031-02-30T00:00:00Z"}, "starts_at"),
    "ends_at naive": ({"ends_at": "2031-01-01T00:00:00"}, "ends_at"),
    "config a list": ({"config": [1]}, "config"),
    "config text": ({"config": "{}"}, "config"),
    "config with NUL": ({"config": {"a": "\x00"}}, "config"),
    "config with NUL in a key": ({"config": {"\x00": 1}}, "config"),
    "status paused": ({"status": "paused"}, "status"),
    "status unknown": ({"status": "started"}, "status"),
    "status null": ({"status": None}, "status"),
    "unknown field": ({"owner": "me"}, "owner"),
    "id given": ({"id": 1}, "id"),
    "version given": ({"version": 1}, "version"),
}


@pytest.mark.parametrize("case", _WRONG)
def test_creation__wrong_field__is_422_and_names_the_field(client: httpx.Client, case: str) -> None:
    change, field = _WRONG[case]
    expect_problem(client.post("/experiments", json={**experiment_body(), **change}), 422, field=field)


@pytest.mark.parametrize("missing", ["key", "name", "variants"])
def test_creation__required_field_missing__is_422(client: httpx.Client, missing: str) -> None:
    body = experiment_body()
    del body[missing]
    expect_problem(client.post("/experiments", json=body), 422, field=missing)


@pytest.mark.parametrize(
    ("starts_at", "ends_at"),
    [
        ("2031-01-02T00:00:00Z", "2031-01-01T00:00:00Z"),
        ("2031-01-01T00:00:00Z", "2031-01-01T00:00:00Z"),
        ("2031-01-01T00:00:00-05:00", "2031-01-01T04:00:00Z"),
    ],
)
def test_creation__ends_at_not_after_starts_at__is_422_for_ends_at(
    client: httpx.Client, starts_at: str, ends_at: str
) -> None:
    response = client.post("/experiments", json=experiment_body(starts_at=starts_at, ends_at=ends_at))
    expect_problem(response, 422, field="ends_at")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 400])
def test_creation__number_beyond_any_float__is_422(client: httpx.Client, number: str) -> None:
    body = httpx.Request("POST", client.base_url, json=experiment_body(traffic_pct=12.5)).content
    response = client.post(
        "/experiments", content=body.replace(b"12.5", number.encode()), headers={"Content-Type": "application/json"}
    )
    expect_problem(response, 422, field="traffic_pct")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_creation__not_a_json_number__is_400(client: httpx.Client, number: str) -> None:
    body = httpx.Request("POST", client.base_url, json=experiment_body(traffic_pct=12.5)).content
    response = client.post(
        "/experiments", content=body.replace(b"12.5", number.encode()), headers={"Content-Type": "application/json"}
    )
    expect_problem(response, 400)


@pytest.mark.parametrize(
    "fields",
    [
        {"key": "k" * 40},
        {"name": "n" * 200},
        {"name": "😀" * 200},
        {"name": "שלום \u202e\u2028"},
        {"seed": "s" * 64},
        {"seed": "A"},
        {"seed": "_-"},
        {"traffic_pct": 0},
        {"traffic_pct": 0.01},
        {"traffic_pct": 99.99},
        {"config": {"deep": {"a": {"b": [[[{}]]]}}}},
        {"config": {"text": "tab\tand\nline", "\u2028": "😀"}},
        {"ends_at": "2001-01-01T00:00:00Z"},
        {"description": ""},
    ],
)
def test_creation__values_at_their_limits__are_stored_as_sent(client: httpx.Client, fields: Json) -> None:
    if "key" in fields:
        fields = {"key": unique("k" * 40)}
    created = make_experiment(client, state="draft", **fields)
    for field, value in fields.items():
        assert client.get(f"/experiments/{created['id']}").json()[field] == value


def test_creation__key_taken__is_409_and_leaves_the_first_as_it_was(client: httpx.Client) -> None:
    first = make_experiment(client, state="draft")
    expect_problem(client.post("/experiments", json=experiment_body(key=first["key"], name="Other")), 409)
    assert client.get(f"/experiments/{first['key']}").json() == first


def test_creation__without_seed__gives_each_experiment_its_own(client: httpx.Client) -> None:
    assert make_experiment(client)["seed"] != make_experiment(client)["seed"]


def test_creation__timestamps__are_utc_and_now(client: httpx.Client) -> None:
    created = make_experiment(client)
    for field in ("created_at", "updated_at", "started_at"):
        moment = datetime.fromisoformat(created[field])
        assert moment.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)
