"""Load for a running service: backends that assign users and send events, and a few dashboards that read results.

    make run                                              # with BEARER_TOKENS and RATE_LIMIT_ENABLED=false
    LOAD_TOKEN=... .venv/bin/locust -f tests/load_test.py --host http://127.0.0.1:8000
    LOAD_TOKEN=... .venv/bin/locust -f tests/load_test.py --host http://127.0.0.1:8000 \
        --headless --users 50 --spawn-rate 10 --run-time 60s

The first form is steered at http://127.0.0.1:8089, the second one prints its statistics. LOAD_TOKEN is a token with
the scopes experiments:write, assignments, events and results; without it the first of BEARER_TOKENS is taken.

Each run makes an experiment of its own. One process of Locust sends some thousand requests a second; for more, set
LOAD_EXPERIMENT to a new key and add `--processes -1`. It shows what clients see; `make bench` compares the service
with raw probes.
"""

import json
import os
import random
import sys
import time
import uuid
from typing import Any

import httpx

if "pytest" in sys.modules:
    # The contract's name for this file fits pytest's pattern, and importing Locust patches the standard library.
    import pytest

    pytest.skip("a load test, run by Locust", allow_module_level=True)

from locust import FastHttpUser, between, constant_throughput, events, task
from locust.env import Environment
from locust.exception import StopTest

API = "/api/v1"
EXPERIMENT = os.environ.get("LOAD_EXPERIMENT") or f"load-{time.time_ns()}"
USERS = int(os.environ.get("LOAD_USERS", "100000"))
BATCH = 100
CONVERSION = 0.1
# Of each simulated backend.
REQUESTS_PER_BACKEND_S = 50


def token() -> str:
    """Return the token to send.

    Raises:
        SystemExit: none is given.
    """
    given = os.environ.get("LOAD_TOKEN")
    tokens = [given] if given else json.loads(os.environ.get("BEARER_TOKENS") or "[]")
    if not tokens:
        raise SystemExit("Set LOAD_TOKEN to a token of the service, or BEARER_TOKENS as the service has it.")
    return str(tokens[0])


def make_experiment(environment: Environment, **_: object) -> None:
    """Make the experiment that all simulated clients use; of several processes the first one to come does."""
    variants = [
        {"key": key, "name": key.title(), "allocation_pct": 50, "is_control": key == "control"}
        for key in ("control", "treatment")
    ]
    body = {"key": EXPERIMENT, "name": "Load test", "variants": variants, "status": "running"}
    answer = httpx.post(f"{environment.host}{API}/experiments", json=body, headers=headers())
    if answer.status_code not in {201, 409}:
        raise StopTest(f"no experiment: {answer.status_code} {answer.text}")


events.test_start.add_listener(make_experiment)  # type: ignore[no-untyped-call]  # Locust's hooks have no types.


def headers() -> dict[str, str]:
    return {"Authorization": f"Bearer {token()}"}


class Client(FastHttpUser):
    """What all simulated clients have in common."""

    abstract = True

    def ask(self, method: str, path: str, *, name: str, body: object | None = None) -> None:
        """Send a request; its name groups paths that differ in ids alone."""
        self.client.request(method, f"{API}{path}", name=name, json=body, headers=headers())


class Backend(Client):
    """A product's backend: it asks for the variant of whoever comes, and sends what they do."""

    weight = 20
    wait_time = constant_throughput(REQUESTS_PER_BACKEND_S)

    @task(60)
    def assign(self) -> None:
        """Users come back; the first visit stores the assignment."""
        self.ask("GET", f"/experiments/{EXPERIMENT}/assignment/{some_user()}", name="assignment")

    @task(5)
    def assign_with_context(self) -> None:
        context = {"country": random.choice(["de", "fr", "us"]), "device": random.choice(["phone", "desk"])}
        body = {"experiment": EXPERIMENT, "user_id": some_user(), "context": context}
        self.ask("POST", "/assignments", name="assignment with context", body=body)

    @task(30)
    def send_event(self) -> None:
        self.ask("POST", "/events", name="event", body=some_event())

    @task(5)
    def send_events(self) -> None:
        self.ask("POST", "/events/batch", name=f"{BATCH} events", body={"events": [some_event() for _ in range(BATCH)]})


class Dashboard(Client):
    """A person who watches an experiment."""

    weight = 1
    wait_time = between(1, 5)

    @task(10)
    def look(self) -> None:
        self.ask("GET", f"/experiments/{EXPERIMENT}/results", name="results")

    @task(1)
    def look_afresh(self) -> None:
        self.ask("GET", f"/experiments/{EXPERIMENT}/results?fresh=true", name="results, computed anew")


def some_user() -> str:
    return f"user-{random.randrange(USERS)}"


def some_event() -> dict[str, Any]:
    bought = random.random() < CONVERSION
    return {
        "event_id": str(uuid.uuid4()),
        "user_id": some_user(),
        "event_type": "purchase" if bought else "view",
        "value": round(random.lognormvariate(3, 0.5), 2) if bought else None,
    }
