"""The fast lane when a body takes its time and the world changes meanwhile."""

import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from uuid import uuid4

import pytest
from fastapi import FastAPI
from starlette.types import Message

from app.access.guard import Gate
from app.access.rate_limit import Limit, RateLimiter
from app.access.tokens import Authenticator
from app.assignments.values import Question
from app.core.clock import utc_now
from app.core.db import Database
from app.events.service import EventService
from app.experiments.lifecycle import Move
from app.lane import FastLane
from tests.integration.services.bench import Bench

_TOKEN = "token-of-the-lane"


@pytest.fixture
async def slow(database: Database) -> Bench:
    """A process that looks for changes only when a request makes it."""
    made = Bench(database)
    await made.projects.load()
    await made.changes.look()
    return made


async def test_lane__experiment_completed_while_the_body_comes__gives_no_variant_any_more(
    bench: Bench, slow: Bench
) -> None:
    caller, experiment = await bench.caller(), await bench.experiment()
    await slow.changes.look()
    assert (await slow.assignments.answer(Question(experiment, "ann", enroll=True))).enrolled

    async def complete() -> None:
        await bench.experiments.move(caller, experiment.key, Move.COMPLETE)

    body = {"experiment": experiment.key, "user_id": "ann"}
    status, answer = await _post(slow, "/api/v1/assignments", body, meanwhile=complete)

    assert (status, answer["reason"]) == (200, "EXPERIMENT_ENDED")
    await slow.close()


async def test_lane__experiment_made_while_the_body_comes__takes_its_event(bench: Bench, slow: Bench) -> None:
    made: list[int] = []

    async def make() -> None:
        made.append((await bench.experiment()).id)

    # The first experiment of a database.
    body = {"experiment_id": 1, "user_id": "ann", "event_type": "purchase"}
    status, answer = await _post(slow, "/api/v1/events", body, meanwhile=make)

    assert made == [1]
    assert (status, answer["status"]) == (201, "accepted")
    await slow.close()


async def _post(
    bench: Bench, path: str, body: object, *, meanwhile: Callable[[], Awaitable[None]]
) -> tuple[int, dict[str, str]]:
    """Send a plain request whose body arrives after `meanwhile`."""
    content = json.dumps(body).encode()
    api = FastAPI()
    api.state.services = SimpleNamespace(
        gate=_gate(bench),
        registry=bench.registry,
        assignments=bench.assignments,
        events=EventService(database=bench.database, registry=bench.registry, metrics=bench.metrics),
    )
    said: list[Message] = []

    async def receive() -> Message:
        await meanwhile()
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Message) -> None:
        said.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "request_id": "request",
        "client": ("127.0.0.1", 1),
        "headers": [
            (b"authorization", f"Bearer {_TOKEN}".encode()),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ],
    }
    await FastLane(api)(scope, receive, send)
    answer: dict[str, str] = json.loads(said[1]["body"])
    return said[0]["status"], answer


def _gate(bench: Bench) -> Gate:
    limit = Limit("any", 1, 1)
    return Gate(
        authenticator=Authenticator(
            database=bench.database,
            redis=bench.redis,
            changes=bench.changes,
            clock=utc_now,
            metrics=bench.metrics,
            installation=uuid4(),
            secret_key="secret",
            bootstrap_tokens=[_TOKEN],
        ),
        projects=bench.projects,
        limiter=RateLimiter(bench.redis, namespace="test", enabled=False),
        management=limit,
        traffic=limit,
    )
