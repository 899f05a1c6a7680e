"""What many callers do at once, through two processes on the same stores."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.conftest import MakeClient
from tests.factories import Json, ask, event_body, expect_problem, make_experiment, take, unique, walk
from tests.service_process import TOKEN, ServiceProcess

pytestmark = pytest.mark.xdist_group("two-processes")


@pytest.fixture(scope="module")
def other(second_service: ServiceProcess, client_of: MakeClient) -> httpx.Client:
    """A client of the second process."""
    return client_of(second_service)


@pytest.fixture
async def crowd(service: ServiceProcess, second_service: ServiceProcess) -> AsyncIterator[list[httpx.AsyncClient]]:
    """One client of each process, each with many connections."""
    made = [
        httpx.AsyncClient(
            base_url=f"{process.url}/api/v1",
            headers={"Authorization": f"Bearer {TOKEN}"},
            limits=httpx.Limits(max_connections=100),
            timeout=60,
        )
        for process in (service, second_service)
    ]
    yield made
    for client in made:
        await client.aclose()


async def _at_once(
    crowd: list[httpx.AsyncClient], number: int, method: str, path: str, **options: Any
) -> list[httpx.Response]:
    """Send the same request `number` times, in turn to the one and the other process."""
    return await asyncio.gather(*(crowd[index % 2].request(method, path, **options) for index in range(number)))


async def _rows(service: ServiceProcess, sql: str, *arguments: object) -> list[Json]:
    return await asyncio.to_thread(service.rows, sql, *arguments)


async def test_race__first_requests_of_one_user__give_one_answer_one_row_one_message(
    crowd: list[httpx.AsyncClient], client: httpx.Client, service: ServiceProcess
) -> None:
    experiment = make_experiment(client, 25, 25, 25, 25)
    user_id = unique("user")
    responses = await _at_once(crowd, 200, "GET", f"/experiments/{experiment['key']}/assignment/{user_id}")
    answers = [response.json() for response in responses]
    assert {response.status_code for response in responses} == {200}
    assert Counter(answer["reason"] for answer in answers) == {"NEW_ASSIGNMENT": 1, "EXISTING_ASSIGNMENT": 199}
    assert len({(answer["variant"]["key"], answer["assigned_at"], answer["enrolled"]) for answer in answers}) == 1
    rows = await _rows(service, "SELECT * FROM assignments WHERE user_id = $1", user_id)
    assert len(rows) == 1
    messages = await _rows(service, "SELECT * FROM outbox_events WHERE aggregateid = $1", user_id)
    assert [message["aggregatetype"] for message in messages] == ["assignment"]


async def test_race__many_new_users_by_every_path__are_each_enrolled_once(
    crowd: list[httpx.AsyncClient], client: httpx.Client, service: ServiceProcess
) -> None:
    experiment = make_experiment(client)
    key, users = experiment["key"], [f"user-{index}" for index in range(60)]
    singles = [crowd[i % 2].get(f"/experiments/{key}/assignment/{user}") for i, user in enumerate(users)]
    posts = [
        crowd[(i + 1) % 2].post("/assignments", json={"experiment": key, "user_id": user})
        for i, user in enumerate(users)
    ]
    bulks = [
        client_.post("/assignments/bulk", json={"experiment": key, "user_ids": order})
        for client_ in crowd
        for order in (users, users[::-1])
    ]
    responses = await asyncio.gather(*singles, *posts, *bulks)
    answers = [item for response in responses for item in response.json().get("assignments", [response.json()])]
    assert len(answers) == 60 * 6
    new = Counter(item["user_id"] for item in answers if item["reason"] == "NEW_ASSIGNMENT")
    assert set(new.values()) == {1}
    assert len(new) == 60
    assert len({(item["user_id"], item["variant"]["key"], item["assigned_at"]) for item in answers}) == 60
    (row,) = await _rows(service, "SELECT count(*) AS n FROM assignments WHERE experiment_id = $1", experiment["id"])
    assert row["n"] == 60


async def test_race__one_event_id_a_hundred_times__is_accepted_exactly_once(
    crowd: list[httpx.AsyncClient], service: ServiceProcess
) -> None:
    body = event_body(event_id=str(uuid4()))
    responses = await _at_once(crowd, 100, "POST", "/events", json=body)
    assert Counter(response.status_code for response in responses) == {201: 1, 200: 99}
    assert Counter(response.json()["status"] for response in responses) == {"accepted": 1, "duplicate": 99}
    for sql in ("SELECT 1 FROM events WHERE event_id = $1", "SELECT 1 FROM outbox_events WHERE id = $1"):
        assert len(await _rows(service, sql, UUID(body["event_id"]))) == 1


async def test_race__overlapping_batches_in_any_order__store_each_event_once(
    crowd: list[httpx.AsyncClient], service: ServiceProcess
) -> None:
    user_id = unique("user")
    events = [event_body(user_id=user_id, event_id=str(uuid4())) for _ in range(200)]
    batches = [events[start : start + 100][:: 1 if start % 20 else -1] for start in range(0, 101, 10)]
    responses = await asyncio.gather(
        *(crowd[index % 2].post("/events/batch", json={"events": batch}) for index, batch in enumerate(batches))
    )
    assert {response.status_code for response in responses} == {200}
    assert sum(response.json()["accepted"] for response in responses) == 200
    (row,) = await _rows(service, "SELECT count(*) AS n FROM events WHERE user_id = $1", user_id)
    assert row["n"] == 200


async def test_race__same_batches_through_two_processes__duplicates_counted_are_those_that_were_told(
    crowd: list[httpx.AsyncClient], client: httpx.Client, service: ServiceProcess
) -> None:
    experiment = make_experiment(client)
    events = [
        event_body(experiment_id=experiment["id"], event_id=str(uuid4()), event_type="view" if index % 3 else "buy")
        for index in range(150)
    ]
    # Each batch has some of its events twice, and overlaps with others in any order.
    batches = [[*events[start : start + 100], *events[start : start + 5]] for start in (0, 50, 25, 0, 50, 10)]
    responses = await asyncio.gather(
        *(
            crowd[(index + turn) % 2].post("/events/batch", json={"events": batch[:: (-1) ** turn]})
            for turn in range(2)
            for index, batch in enumerate(batches)
        ),
        *(crowd[index % 2].post("/events", json=events[index % 2]) for index in range(40)),
    )
    answers = [response.json() for response in responses]
    told = sum(
        answer["duplicates"] if "duplicates" in answer else answer["status"] == "duplicate" for answer in answers
    )
    assert told == 12 * 105 + 40 - 150
    (row,) = await _rows(
        service,
        "SELECT sum(events)::int AS n, count(DISTINCT event_type) AS types FROM dropped_duplicates"
        " WHERE experiment_id = $1",
        experiment["id"],
    )
    assert (row["n"], row["types"]) == (told, 2)


async def test_race__creations_with_one_key__make_one_experiment(crowd: list[httpx.AsyncClient]) -> None:
    key = unique("one")
    variants = [
        {"key": "a", "name": "A", "allocation_pct": 50, "is_control": True},
        {"key": "b", "name": "B", "allocation_pct": 50, "is_control": False},
    ]
    body = {"key": key, "name": "One", "variants": variants}
    responses = await _at_once(crowd, 20, "POST", "/experiments", json=body)
    assert Counter(response.status_code for response in responses) == {201: 1, 409: 19}


async def test_race__changes_of_one_experiment__make_a_version_each(
    crowd: list[httpx.AsyncClient], client: httpx.Client
) -> None:
    experiment = make_experiment(client)
    path = f"/experiments/{experiment['id']}"
    responses = await asyncio.gather(
        *(crowd[index % 2].patch(path, json={"name": f"Name {index}"}) for index in range(50))
    )
    assert {response.status_code for response in responses} == {200}
    versions = sorted(response.json()["version"] for response in responses)
    assert versions == list(range(experiment["version"] + 1, experiment["version"] + 51))
    last = max((response.json() for response in responses), key=lambda shown: int(shown["version"]))
    for process in crowd:
        assert (await process.get(path)).json() == last


async def test_race__moves_and_changes_at_once__keep_a_legal_history(
    crowd: list[httpx.AsyncClient], client: httpx.Client, service: ServiceProcess
) -> None:
    experiment = make_experiment(client, state="draft")
    path = f"/experiments/{experiment['id']}"
    moves = ["start", "pause", "resume", "pause", "resume", "complete", "archive", "pause", "start", "resume"]
    calls = [crowd[index % 2].post(f"{path}/{moves[index % 10]}") for index in range(30)]
    calls += [crowd[index % 2].patch(path, json={"traffic_pct": index}) for index in range(20)]
    responses = await asyncio.gather(*calls)
    assert {response.status_code for response in responses} <= {200, 409}
    history = await _rows(
        service,
        "SELECT action, details FROM audit_log WHERE subject = $1 ORDER BY (details::jsonb->>'version')::int, id",
        f"experiment:{experiment['id']}",
    )
    status = "draft"
    after = {
        ("draft", "start"): "running",
        ("draft", "archive"): "archived",
        ("running", "pause"): "paused",
        ("running", "complete"): "completed",
        ("paused", "resume"): "running",
        ("paused", "complete"): "completed",
        ("completed", "archive"): "archived",
    }
    for entry in history:
        move = entry["action"].removeprefix("experiment.")
        if move in moves:
            status = after[status, move]
    final = (await crowd[0].get(path)).json()
    assert final["status"] == status
    done = [response for response in responses if response.status_code == 200]
    assert final["version"] <= 1 + len(done)


async def test_race__enrolment_while_the_experiment_changes__is_never_lost_or_refused(
    crowd: list[httpx.AsyncClient], client: httpx.Client
) -> None:
    experiment = make_experiment(client)
    path = f"/experiments/{experiment['id']}"
    changes = [crowd[index % 2].patch(path, json={"name": f"Name {index}"}) for index in range(15)]
    asks = [crowd[index % 2].get(f"{path}/assignment/user-{index}") for index in range(100)]
    responses = await asyncio.gather(*(call for pair in zip(asks, changes * 1, strict=False) for call in pair))
    responses += await asyncio.gather(*asks[15:])
    answers = [response.json() for response in responses if "reason" in response.json()]
    assert {response.status_code for response in responses} == {200}
    assert Counter(answer["reason"] for answer in answers) == {"NEW_ASSIGNMENT": 100}


async def test_race__stopped_in_one_process_amid_traffic__enrols_nobody_after_the_answer(
    crowd: list[httpx.AsyncClient], client: httpx.Client, service: ServiceProcess
) -> None:
    experiment = make_experiment(client)
    path = f"/experiments/{experiment['id']}"
    stopped = asyncio.Event()
    after_stop: list[Json] = []
    enrolled: list[str] = []

    async def visit(number: int) -> None:
        left = 5  # To ask once it is stopped.
        for index in count():
            if (too_late := stopped.is_set()) and (left := left - 1) < 0:
                return
            user_id = f"user-{number}-{index}"
            answer = (await crowd[number % 2].get(f"{path}/assignment/{user_id}")).json()
            if answer["reason"] == "NEW_ASSIGNMENT":
                enrolled.append(user_id)
            if too_late:
                after_stop.append(answer)

    async def stop() -> None:
        await asyncio.sleep(0.1)
        assert (await crowd[0].post(f"{path}/pause")).status_code == 200
        stopped.set()

    await asyncio.gather(stop(), *(visit(number) for number in range(8)))
    assert {answer["reason"] for answer in after_stop} == {"EXPERIMENT_PAUSED"}
    rows = await _rows(service, "SELECT user_id FROM assignments WHERE experiment_id = $1", experiment["id"])
    assert sorted(row["user_id"] for row in rows) == sorted(enrolled)


async def test_race__imports_and_first_requests_of_the_same_users__store_each_once(
    crowd: list[httpx.AsyncClient], client: httpx.Client, service: ServiceProcess
) -> None:
    experiment = make_experiment(client)
    path = f"/experiments/{experiment['id']}"
    users = [f"user-{index}" for index in range(150)]
    rows = [{"user_id": user, "variant": "v1", "assigned_at": "2026-01-01T00:00:00Z"} for user in users]
    imports = [
        crowd[index % 2].post(f"{path}/assignments/import", json={"assignments": order})
        for index, order in enumerate((rows, rows[::-1], rows[50:], rows[:100]))
    ]
    asks = [
        crowd[index % 2].post("/assignments/bulk", json={"experiment": experiment["id"], "user_ids": order})
        for index, order in enumerate((users[::-1], users))
    ]
    responses = await asyncio.gather(*imports, *asks)
    assert {response.status_code for response in responses} == {200}
    answers = [item for response in responses[4:] for item in response.json()["assignments"]]
    new = sum(item["reason"] == "NEW_ASSIGNMENT" for item in answers)
    assert new + sum(response.json()["accepted"] for response in responses[:4]) == len(users)
    stored = await _rows(service, "SELECT * FROM assignments WHERE experiment_id = $1", experiment["id"])
    told = {(item["user_id"], item["variant"]["id"]) for item in answers}
    assert told == {(row["user_id"], row["variant_id"]) for row in stored}


async def test_race__overrides_of_one_user__end_with_one_that_both_processes_tell(
    crowd: list[httpx.AsyncClient], client: httpx.Client
) -> None:
    experiment = make_experiment(client, 30, 30, 40)
    path = f"/experiments/{experiment['id']}"
    puts = [crowd[index % 2].put(f"{path}/overrides/qa", json={"variant": f"v{index % 3}"}) for index in range(30)]
    responses = await asyncio.gather(*puts)
    assert {response.status_code for response in responses} == {200}
    told = [(await process.get(f"{path}/assignment/qa")).json() for process in crowd]
    assert told[0] == told[1]
    assert told[0]["reason"] == "OVERRIDE"


@pytest.mark.parametrize("move", ["pause", "complete"])
def test_two_processes__stopped_in_one__enrols_nobody_in_the_other_any_more(
    client: httpx.Client, other: httpx.Client, move: str
) -> None:
    for round_ in range(5):
        experiment = make_experiment(client)
        assert ask(other, experiment, "before")["reason"] == "NEW_ASSIGNMENT"
        take(client, experiment, move)
        answer = ask(other, experiment, f"after-{round_}")
        assert answer["variant"] is None
        assert [item["user_id"] for item in walk(client, f"/experiments/{experiment['id']}/assignments")] == ["before"]


def test_two_processes__every_change__is_in_force_in_the_other_when_it_is_answered(
    client: httpx.Client, other: httpx.Client
) -> None:
    for here, there in ((client, other), (other, client)):
        experiment = make_experiment(here, state="draft")
        path = f"/experiments/{experiment['id']}"
        assert there.get(path).json() == experiment
        after = here.patch(path, json={"name": "Renamed"}).json()
        assert there.get(path).json() == after
        take(here, experiment, "start")
        assert ask(there, experiment, "u")["reason"] == "NEW_ASSIGNMENT"
        assert ask(here, experiment, "u")["reason"] == "EXISTING_ASSIGNMENT"
        here.put(f"{path}/overrides/qa", json={"variant": "v1"})
        assert ask(there, experiment, "qa")["reason"] == "OVERRIDE"
        there.delete(f"{path}/overrides/qa")
        assert ask(here, experiment, "qa", enroll=False)["reason"] == "PREVIEW"
        draft = make_experiment(here, state="draft")
        there.delete(f"/experiments/{draft['id']}")
        expect_problem(here.get(f"/experiments/{draft['id']}"), 404)


def test_two_processes__token_revoked_in_one__is_refused_at_once_in_the_other(
    service: ServiceProcess,
    second_service: ServiceProcess,
    client_of: MakeClient,
    make_token: Callable[..., Json],
    client: httpx.Client,
    other: httpx.Client,
) -> None:
    for here, there in ((client, other), (other, client)):
        for _ in range(5):
            made = make_token("events")
            users = [client_of(process, token=made["token"]) for process in (service, second_service)]
            assert [user.post("/events", json=event_body()).status_code for user in users] == [201, 201]
            assert here.delete(f"/tokens/{made['id']}").status_code == 204
            for user in users:
                expect_problem(user.post("/events", json=event_body()), 401)
                user.close()
        assert there.get("/experiments?limit=1").status_code == 200


def test_two_processes__project_made_in_one__is_known_in_the_other(
    other: httpx.Client, make_project: Callable[[], str]
) -> None:
    response = other.get("/experiments", headers={"X-Project": make_project()})
    assert response.json() == {"items": [], "next_cursor": None}
