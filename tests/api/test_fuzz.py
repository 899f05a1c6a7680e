"""Requests made from the OpenAPI schema, good and bad: no answer is a 5xx, and each is as the schema says."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.service_process import ServiceProcess, experiment_body, running_service

pytestmark = [pytest.mark.xdist_group("heavy"), pytest.mark.timeout(600)]

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "12"))
SEED = int(os.environ.get("FUZZ_SEED", "20260101"))
USERS = [f"user-{number}" for number in range(20)]

# Most requests name an experiment that there is, so that they get past the 404.
CONFIGURATION = """
continue-on-failure = true
warnings = false

[dictionaries.experiments]
values = ["draft", "running", "paused", "completed", "archived", "1", "2"]

[dictionaries.metrics]
values = ["revenue", "checkout", "conversion_rate", "1"]

[dictionaries.users]
values = ["user-1", "user-2", "ünï ☃", "a/b?c#d", "%2F"]

[dictionaries.event_types]
values = ["purchase", "view"]

[parameters]
"path.experiment" = { dictionary = "experiments", probability = 0.8 }
"path.metric" = { dictionary = "metrics", probability = 0.8 }
"path.user_id" = { dictionary = "users", probability = 0.5 }
"query.event_type" = { dictionary = "event_types", probability = 0.5 }

[checks]
# A body may have the right shape and a meaning that is refused, such as allocations that do not add up to 100.
positive_data_acceptance.enabled = false

# A batch is accepted and names its bad rows.
[[operations]]
include-path = ["/api/v1/events/batch", "/api/v1/experiments/{experiment}/assignments/import"]
checks.negative_data_rejection.enabled = false
"""


def test_fuzz__every_operation__answers_as_its_schema_says(tmp_path: Path) -> None:
    with running_service(tmp_path / "data") as service, service.client() as client:
        fill(client)

        code, report = fuzz(service, tmp_path, client.headers["Authorization"])

        said = service.said()
    assert code == 0, report
    assert "Traceback" not in said
    assert '"event": "request.failed"' not in said


def fill(client: httpx.Client) -> None:
    """Make metrics, and an experiment in each state that has them, with users and events in one of them."""
    steps = [{"event_type": "view"}, {"event_type": "purchase"}]
    for metric in ({"key": "revenue", "kind": "sum"}, {"key": "checkout", "kind": "funnel", "steps": steps}):
        client.post("/api/v1/metrics", json=metric).raise_for_status()
    plan = {"metrics": [{"metric": "revenue", "role": "primary"}, {"metric": "conversion_rate", "role": "guardrail"}]}
    for key, moves in {
        "draft": [],
        "running": ["start"],
        "paused": ["start", "pause"],
        "completed": ["start", "complete"],
        "archived": ["archive"],
    }.items():
        client.post(
            "/api/v1/experiments", json=experiment_body(key, status="draft") | {"plan": plan}
        ).raise_for_status()
        for move in moves:
            client.post(f"/api/v1/experiments/{key}/{move}").raise_for_status()
    body = {"experiment": "running", "user_ids": USERS}
    client.post("/api/v1/assignments/bulk", json=body).raise_for_status()
    events = [{"user_id": user_id, "event_type": "purchase", "value": 12.5} for user_id in USERS]
    client.post("/api/v1/events/batch", json={"events": events}).raise_for_status()


def fuzz(service: ServiceProcess, folder: Path, authorization: str) -> tuple[int, str]:
    """Run Schemathesis; returns its exit code and its report."""
    configuration = folder / "schemathesis.toml"
    configuration.write_text(CONFIGURATION, encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--no-color", "--config-file", configuration),
            *("run", f"{service.url}/api/v1/openapi.json"),
            *("--header", f"Authorization: {authorization}"),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES)),
            *("--seed", str(SEED), "--generation-database", "none"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
