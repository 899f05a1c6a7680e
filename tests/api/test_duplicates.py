"""An event that is sent again is never counted, and every answer says how many were."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.factories import Json, ask, event_body, make_experiment, unique
from tests.service_process import ServiceProcess, wait_for_history

_HOUR = timedelta(hours=1)


def _results(client: httpx.Client, experiment: Json, **question: Any) -> Json:
    answer = client.get(f"/experiments/{experiment['key']}/results", params={"fresh": "true", **question})
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


def _dropped(client: httpx.Client, experiment: Json, **question: Any) -> int | None:
    number: int | None = _results(client, experiment, **question)["provenance"]["duplicates_dropped"]
    return number


@pytest.fixture
def user(empty_project: httpx.Client) -> tuple[Json, str]:
    """A running experiment in a project of its own, and a user in it."""
    experiment, user_id = make_experiment(empty_project), unique("user")
    ask(empty_project, experiment, user_id)
    return experiment, user_id


def test_duplicates__none_sent__are_zero(empty_project: httpx.Client, user: tuple[Json, str]) -> None:
    experiment, user_id = user
    empty_project.post("/events", json=event_body(user_id=user_id, event_id=str(uuid4())))

    found = _results(empty_project, experiment)["provenance"]

    assert (found["events_counted"], found["duplicates_dropped"]) == (1, 0)
    assert "duplicates_dropped" not in found["null_reasons"]


def test_duplicates__sent_one_by_one_in_a_batch_and_within_a_batch__are_told_and_change_nothing(
    empty_project: httpx.Client, user: tuple[Json, str]
) -> None:
    experiment, user_id = user
    event = event_body(user_id=user_id, event_id=str(uuid4()), value=2.5)
    other = event_body(user_id=user_id, event_id=str(uuid4()), event_type="view", experiment_id=experiment["key"])
    empty_project.post("/events", json=event)
    before = _results(empty_project, experiment)

    assert empty_project.post("/events", json=event).json()["status"] == "duplicate"
    batch = empty_project.post("/events/batch", json={"events": [event, other, other, {"user_id": 1}]}).json()
    assert (batch["accepted"], batch["duplicates"], batch["rejected"]) == (1, 2, 1)

    after = _results(empty_project, experiment, event_type="purchase")
    assert after["variants"] == before["variants"]
    assert after["provenance"]["duplicates_dropped"] == 2
    assert _dropped(empty_project, experiment, event_type="view") == 1
    assert _dropped(empty_project, experiment) == 3


def test_duplicates__that_name_another_experiment__are_not_this_ones(
    empty_project: httpx.Client, user: tuple[Json, str]
) -> None:
    experiment, user_id = user
    other = make_experiment(empty_project)
    ask(empty_project, other, user_id)
    for named in ({"experiment_id": other["id"]}, {}):
        event = event_body(user_id=user_id, event_id=str(uuid4()), **named)
        for _ in range(3):
            empty_project.post("/events", json=event)

    assert _dropped(empty_project, experiment) == 2
    assert _dropped(empty_project, other) == 4


def test_duplicates__of_hours__are_those_in_the_range_asked_for(
    empty_project: httpx.Client, user: tuple[Json, str]
) -> None:
    experiment, user_id = user
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    users = [{"user_id": unique("old"), "variant": "v0", "assigned_at": (hour - 5 * _HOUR).isoformat()}]
    empty_project.post(f"/experiments/{experiment['id']}/assignments/import", json={"assignments": users})
    for hours, copies in ((6, 32), (5, 1), (4, 2), (3, 4)):
        event = event_body(user_id=user_id, event_id=str(uuid4()), timestamp=(hour - (hours - 0.5) * _HOUR).isoformat())
        empty_project.post("/events/batch", json={"events": [event] * (copies + 1)}).raise_for_status()

    # What lies before everybody's exposure could not have counted.
    assert _dropped(empty_project, experiment) == 7
    since, until = (hour - 4 * _HOUR).isoformat(), (hour - 3 * _HOUR).isoformat()
    assert _dropped(empty_project, experiment, start_date=since) == 6
    assert _dropped(empty_project, experiment, start_date=since, end_date=until) == 2
    cut = (hour - 3.75 * _HOUR).isoformat()
    assert _dropped(empty_project, experiment, start_date=cut, end_date=until) == 2


def test_duplicates__from_either_store_both_export_and_report__are_one_number(
    empty_project: httpx.Client, user: tuple[Json, str], service: ServiceProcess
) -> None:
    experiment, user_id = user
    event = event_body(user_id=user_id, event_id=str(uuid4()))
    empty_project.post("/events/batch", json={"events": [event] * 8}).raise_for_status()
    with httpx.Client(base_url=service.url, headers=empty_project.headers) as without_path:
        wait_for_history(without_path, experiment["key"])
    path = f"/experiments/{experiment['key']}"

    found = {source: _results(empty_project, experiment, source=source) for source in ("hot", "cold", "auto")}
    exported = empty_project.get(f"{path}/export", params={"format": "json", "of": "results"}).json()
    kept = empty_project.get(f"{path}/results/{found['cold']['provenance']['answer_id']}").json()

    assert {answer["metadata"]["source"] for answer in found.values()} >= {"hot", "cold"}
    for answer in (*found.values(), exported, kept):
        assert (answer["provenance"]["events_counted"], answer["provenance"]["duplicates_dropped"]) == (1, 7)
    report = empty_project.get(f"{path}/report").text
    assert "Duplicates dropped" in report
    assert "NOT_COUNTED" not in report


def test_openapi__duplicates_dropped__says_what_it_counts(client: httpx.Client) -> None:
    fields = client.get("/openapi.json").json()["components"]["schemas"]["ProvenanceOut"]["properties"]

    assert "sent again" in fields["duplicates_dropped"]["description"]
