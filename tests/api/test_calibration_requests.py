"""Requests about calibrations: what is refused, and what is listed."""

from uuid import uuid4

import httpx
import pytest

from tests.api.calibrating import begin, sold_to_many, until_ended
from tests.factories import Json, expect_problem, make_experiment


@pytest.fixture(scope="module")
def sold(client: httpx.Client) -> Json:
    return sold_to_many(client)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"resplits": 99}, "resplits"),
        ({"resplits": 10_001}, "resplits"),
        ({"resplits": 100.0}, "resplits"),
        ({"metrics": ["no-such-metric"]}, "metrics"),
        ({"metrics": ["unique_users"]}, "metrics"),
        ({"cuped_days": 0}, "cuped_days"),
        ({"cuped_days": 366}, "cuped_days"),
        ({"cuped_days": 7.0}, "cuped_days"),
        ({"metrics": ["conversion_rate"] * 21}, "metrics"),
        ({"seed": -1}, "seed"),
        ({"alpha": 0}, "alpha"),
        ({"alpha": "0.05"}, "alpha"),
        ({"split_by": ""}, "split_by"),
        ({"split_by": "a\nb"}, "split_by"),
        ({"halves": 3}, "halves"),
        ({"metrics": []}, "metrics"),
        ({"event_type": []}, "event_type"),
        ({"event_type": [" "]}, "event_type.0"),
    ],
)
def test_calibration__wrong_body__is_refused_by_field(client: httpx.Client, sold: Json, body: Json, field: str) -> None:
    expect_problem(client.post(f"/experiments/{sold['key']}/calibrations", json=body), 422, field=field)


def test_calibration__total__names_what_is_taken(client: httpx.Client, sold: Json) -> None:
    refused = client.post(f"/experiments/{sold['key']}/calibrations", json={"metrics": ["event_count"]})
    detail = expect_problem(refused, 422, field="metrics")["detail"]
    assert "avg_value, conversion_rate, p95_value, value_per_user" in detail
    assert "event_count" not in detail.partition("event_count")[2]


def test_calibrations__listed__are_newest_first_in_pages(
    client: httpx.Client, sold: Json, empty_project: httpx.Client
) -> None:
    experiment = make_experiment(client)
    path = f"/experiments/{experiment['key']}/calibrations"
    assert client.get(path).json() == {"items": [], "next_cursor": None}
    begun = [_begin_and_end(client, experiment, seed) for seed in range(3)]

    first = client.get(path, params={"limit": 2}).json()
    second = client.get(path, params={"limit": 2, "cursor": first["next_cursor"]}).json()

    assert [*first["items"], *second["items"]] == begun[::-1]
    assert second["next_cursor"] is None
    expect_problem(client.get(path, params={"cursor": "MQ"}), 422, field="cursor")
    expect_problem(client.get(f"/experiments/{sold['key']}/calibrations", params={"limit": 0}), 422, field="limit")
    expect_problem(empty_project.get(f"/experiments/{experiment['id']}/calibrations"), 404)


def _begin_and_end(client: httpx.Client, experiment: Json, seed: int) -> Json:
    return until_ended(client, begin(client, experiment, seed=seed))


def test_calibration__nobody_in_the_control__fails_with_the_reason(client: httpx.Client) -> None:
    ended = until_ended(client, begin(client, make_experiment(client)))
    assert (ended["status"], ended["result"]) == ("failed", None)
    assert "0 users" in ended["reason"]


def test_calibration__unknown__is_not_found(client: httpx.Client, sold: Json, empty_project: httpx.Client) -> None:
    expect_problem(client.get(f"/experiments/{sold['key']}/calibrations/{uuid4()}"), 404)
    expect_problem(client.get(f"/experiments/{sold['key']}/calibrations/7"), 422)
    expect_problem(client.post("/experiments/no-such/calibrations", json={}), 404)
    begun = begin(client, sold, resplits=100)
    other = make_experiment(client)
    expect_problem(client.get(f"/experiments/{other['key']}/calibrations/{begun['id']}"), 404)
    expect_problem(empty_project.get(f"/experiments/{sold['id']}/calibrations/{begun['id']}"), 404)
    until_ended(client, begun)
