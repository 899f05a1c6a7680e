"""kill -9 at random moments: what was acknowledged is there afterwards, exactly once, in both stores."""

import ctypes
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.crash.writers import Given, Journal, Sent, send, writing
from tests.service_process import (
    ServiceProcess,
    ask_history,
    experiment_body,
    running_service,
    wait_for_history,
    wait_until,
    without_origin,
)

pytestmark = [pytest.mark.xdist_group("heavy"), pytest.mark.timeout(300)]

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "3"))
SEED = int(os.environ.get("CRASH_SEED", str(random.randrange(10**6))))
EXPERIMENT = "crash"
METRICS = ("conversion_rate", "unique_users", "event_count", "avg_value", "value_per_user", "p95_value")
KNOWN_USERS = 200
RECOVER_WITHIN_S = 30.0
# Source: linux/prctl.h.
PR_SET_CHILD_SUBREAPER = 36

_EVENTS = "SELECT event_id::text, user_id, value FROM events WHERE event_type = $1"
_ORPHANED_IDS = (
    "SELECT event_id::text FROM event_ids EXCEPT SELECT event_id::text FROM events"
    " UNION ALL (SELECT event_id::text FROM events EXCEPT SELECT event_id::text FROM event_ids)"
)
_ASSIGNMENTS = """
SELECT user_id, key AS variant, to_char(assigned_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS assigned_at
FROM assignments JOIN variants ON variants.id = variant_id
"""
_SHIPPED = """
SELECT (SELECT count(*) FROM events) AS events, (SELECT count(*) FROM assignments) AS assignments,
       count(*) FILTER (WHERE aggregatetype = 'event') AS event_messages,
       count(DISTINCT payload ->> 'event_id') AS events_told,
       count(*) FILTER (WHERE aggregatetype = 'assignment') AS assignment_messages,
       count(DISTINCT payload ->> 'user_id') FILTER (WHERE aggregatetype = 'assignment') AS assignments_told
FROM outbox_events
"""


def test_kill__service_at_random_moments__every_acknowledged_write_is_there_once(tmp_path: Path) -> None:
    print(f"CRASH_SEED={SEED}")
    dice = random.Random(SEED)
    data, journal = tmp_path / "data", Journal(EXPERIMENT, "step")
    with running_service(data) as service, service.client() as client:
        client.post("/api/v1/experiments", json=experiment_body(EXPERIMENT)).raise_for_status()
    for number in range(ROUNDS):
        one_round(data, journal, number, dice)
    with running_service(data) as service, service.client() as client:
        resend(client, journal)
        stored = check_postgres(service, journal)
        wait_for_history(client, EXPERIMENT)
        hot, cold = (results(client, source) for source in ("hot", "cold"))

    assert journal.surprises == []
    assert len(journal.given) > 5 * ROUNDS  # Enough to be hit; how many there are is the machine's affair.
    assert sum(arm["metrics"]["event_count"]["value"] for arm in hot["variants"]) == len(stored)
    assert without_origin(hot) == without_origin(cold)
    check_history(data, stored, journal)


def one_round(data: Path, journal: Journal, number: int, dice: random.Random) -> None:
    """Start, write, kill; every other time with the servers below the service, and once while it starts."""
    if number == ROUNDS - 1:
        unborn = ServiceProcess(data)
        time.sleep(dice.uniform(0.5, 3.0))
        unborn.kill_tree()
    service = ServiceProcess.start(data)
    try:
        with writing(service, journal, f"round{number}"):
            time.sleep(dice.uniform(0.3, 1.5))
            if number % 2:
                service.kill_tree()
            else:
                service.kill()
    finally:
        service.end()
    assert service.left_behind() == []


def resend(client: httpx.Client, journal: Journal) -> None:
    """Do what a client does that got no answer: send the same events again."""
    for event_id in journal.unanswered:
        assert send(client, journal, [event_id])


def results(client: httpx.Client, source: str) -> dict[str, Any]:
    answer = client.get(
        f"/api/v1/experiments/{EXPERIMENT}/results",
        params={"source": source, "fresh": True, "metrics": METRICS, "granularity": "realtime"},
    )
    body: dict[str, Any] = answer.raise_for_status().json()
    return body


def check_postgres(service: ServiceProcess, journal: Journal) -> dict[str, Sent]:
    """Compare PostgreSQL with the journal; returns the stored events."""
    rows = service.rows(_EVENTS, journal.event_type)
    stored = {row["event_id"]: Sent(row["user_id"], row["value"]) for row in rows}
    assert len(stored) == len(rows), "an event is stored twice"
    assert journal.acknowledged - stored.keys() == set(), "acknowledged events are lost"
    assert {event_id: journal.sent.get(event_id) for event_id in stored} == stored
    assert service.rows(_ORPHANED_IDS) == []

    rows = service.rows(_ASSIGNMENTS)
    assigned = {row["user_id"]: Given(row["variant"], row["assigned_at"]) for row in rows}
    assert len(assigned) == len(rows)
    assert {user_id: assigned.get(user_id) for user_id in journal.given} == journal.given

    (shipped,) = service.rows(_SHIPPED)
    assert shipped["event_messages"] == shipped["events_told"] == shipped["events"]
    assert shipped["assignment_messages"] == shipped["assignments_told"] == shipped["assignments"]
    return stored


def check_history(data: Path, stored: dict[str, Sent], journal: Journal) -> None:
    """Compare ClickHouse's folder, after a clean stop, with what PostgreSQL has."""
    rows = ask_history(data, "SELECT toString(event_id) AS event_id, user_id, value FROM events FINAL")
    assert len(rows) == len(stored)
    assert {row["event_id"]: Sent(row["user_id"], row["value"]) for row in rows} == stored
    exposed = [row["user_id"] for row in ask_history(data, "SELECT user_id FROM exposures FINAL")]
    assert len(exposed) == len(set(exposed))
    assert journal.given.keys() <= set(exposed)
    assert ask_history(data, "SELECT count() AS dead FROM dead_letters") == [{"dead": 0}]


@pytest.fixture
def reaps_nobody() -> Iterator[None]:
    """Make this process what process 1 of many containers is: the parent of orphans, which leaves them as zombies."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    for orphan in psutil.Process().children():
        if orphan.status() == psutil.STATUS_ZOMBIE:
            os.waitpid(orphan.pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="adopting orphans takes Linux")
@pytest.mark.usefixtures("reaps_nobody")
def test_kill__dead_servers_stay_listed__service_starts_all_the_same(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ServiceProcess.start(data).kill_tree()
    assert psutil.STATUS_ZOMBIE in {child.status() for child in psutil.Process().children()}

    with running_service(data) as service:
        ready = httpx.get(f"{service.url}/ready", timeout=30).status_code

    assert ready == 200


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service that stays alive while its servers are killed."""
    with running_service(tmp_path_factory.mktemp("kill") / "data") as service, service.client() as client:
        client.post("/api/v1/experiments", json=experiment_body(EXPERIMENT)).raise_for_status()
        yield service


def known_users(client: httpx.Client, prefix: str) -> dict[str, str]:
    """Enrol users in whose variants nothing may ever change."""
    user_ids = [f"{prefix}-{number}" for number in range(KNOWN_USERS)]
    answer = client.post("/api/v1/assignments/bulk", json={"experiment": EXPERIMENT, "user_ids": user_ids})
    return {item["user_id"]: item["variant"]["key"] for item in answer.raise_for_status().json()["assignments"]}


def ask_known_users(client: httpx.Client, known: dict[str, str], *, until: float) -> None:
    """Ask for one known user after the other until that time; each gets the variant that it has."""
    while time.monotonic() < until:
        for user_id, variant in known.items():
            answer = client.get(f"/api/v1/experiments/{EXPERIMENT}/assignment/{user_id}")
            assert answer.status_code == 200, answer.text
            assert (answer.json()["variant"]["key"], answer.json()["enrolled"]) == (variant, True)
            if time.monotonic() > until:
                break


def kill_now_and_then(service: ServiceProcess, server: str, client: httpx.Client, known: dict[str, str]) -> None:
    dice = random.Random(SEED)
    print(f"CRASH_SEED={SEED}")
    for _ in range(3):
        ask_known_users(client, known, until=time.monotonic() + dice.uniform(0.1, 0.5))
        wait_until(lambda: service.child(server) is not None, f"{server} is there again", within_s=RECOVER_WITHIN_S)
        if (victim := service.child(server)) is not None:
            victim.kill()
        ask_known_users(client, known, until=time.monotonic() + dice.uniform(0.5, 1.0))


def test_kill__postgresql_alone__known_users_keep_their_variants_and_nothing_is_lost(service: ServiceProcess) -> None:
    journal = Journal(EXPERIMENT, "step-without-postgresql")
    with service.client() as client:
        known = known_users(client, "known")
        with writing(service, journal, "postgresql", threads=3):
            kill_now_and_then(service, "postgres", client, known)
            wait_until(lambda: enrols(client), "new users are enrolled again", within_s=RECOVER_WITHIN_S)
            time.sleep(0.5)
        resend(client, journal)
        for user_id, variant in journal.promised.items():
            answer = client.get(f"/api/v1/experiments/{EXPERIMENT}/assignment/{user_id}").raise_for_status().json()
            assert (answer["variant"]["key"], answer["enrolled"]) == (variant, True)
        stored = check_postgres(service, journal)
        wait_for_history(client, EXPERIMENT)
        hot, cold = (results(client, source) for source in ("hot", "cold"))

    assert journal.surprises == []
    assert journal.sent.keys() == stored.keys()
    assert without_origin(hot) == without_origin(cold)


def enrols(client: httpx.Client) -> bool:
    answer = client.get(f"/api/v1/experiments/{EXPERIMENT}/assignment/after-{time.monotonic_ns()}")
    return bool(answer.raise_for_status().json()["reason"] == "NEW_ASSIGNMENT")


def test_kill__valkey_alone__nobody_gets_an_error(service: ServiceProcess) -> None:
    journal = Journal(EXPERIMENT, "step-without-valkey")
    with service.client() as client:
        known = known_users(client, "cached")
        with writing(service, journal, "valkey", threads=3):
            kill_now_and_then(service, "valkey-server", client, known)
        wait_until(
            lambda: client.get("/ready").json()["checks"]["redis"] == "ok",
            "the service finds Valkey again",
            within_s=RECOVER_WITHIN_S,
        )

    assert journal.surprises == []
    assert set(journal.statuses) == {200, 201}
    assert journal.unanswered == []
