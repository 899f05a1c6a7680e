"""What tests of calibrations do alike: begin one, wait for its end, read it."""

import random
from typing import Any

import httpx

from tests.factories import Json, ask_many, make_experiment, unique
from tests.service_process import wait_until

WITHIN_S = 60.0


def send(client: httpx.Client, events: list[Json]) -> None:
    for start in range(0, len(events), 1000):
        response = client.post("/events/batch", json={"events": events[start : start + 1000]})
        assert response.json()["rejected"] == 0, response.text


def begin(client: httpx.Client, experiment: Json, **body: Any) -> Json:
    """Begin one as soon as the process has ended its last one, on which somebody who cancels does not wait for ever."""
    response = httpx.Response(429)

    def is_answered() -> bool:
        nonlocal response
        response = client.post(f"/experiments/{experiment['key']}/calibrations", json=body)
        return response.status_code != 429

    wait_until(is_answered, "there is room for a calibration", within_s=WITHIN_S)
    assert response.status_code == 202, response.text
    begun: Json = response.json()
    path = f"/api/v1/experiments/{experiment['id']}/calibrations/{begun['id']}"
    assert response.headers["location"] == path
    assert (begun["status"], begun["result"], begun["reason"]) == ("running", None, None)
    return begun


def read(client: httpx.Client, begun: Json) -> Json:
    response = client.get(f"/experiments/{begun['experiment_id']}/calibrations/{begun['id']}")
    assert response.status_code == 200, response.text
    found: Json = response.json()
    return found


def until_ended(client: httpx.Client, begun: Json) -> Json:
    wait_until(lambda: read(client, begun)["status"] != "running", "the calibration ends", within_s=WITHIN_S)
    return read(client, begun)


def calibrated(client: httpx.Client, experiment: Json, **body: Any) -> dict[str, Json]:
    ended = until_ended(client, begin(client, experiment, **body))
    assert ended["status"] == "done", ended
    assert (ended["progress"], ended["reason"]) == (1.0, None)
    return {found["metric"]: found for found in ended["result"]["metrics"]} | {"": ended["result"]}


def sold_to_many(client: httpx.Client) -> Json:
    """An experiment without an effect: some of 1,500 users buy, some of these more than once."""
    experiment = make_experiment(client)
    users = [unique("buyer") for _ in range(1500)]
    for start in range(0, len(users), 500):
        ask_many(client, experiment, users[start : start + 500])
    chance = random.Random(11)
    events = [
        {"user_id": user, "event_type": "purchase", "value": round(chance.lognormvariate(3, 0.6), 2)}
        for user in users
        for _ in range(chance.choice([0, 0, 0, 1, 1, 2]))
    ]
    send(client, [*events, *({"user_id": user, "event_type": "view"} for user in users)])
    return experiment
