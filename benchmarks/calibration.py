"""A calibration of an experiment with many users, and how quick assignment is meanwhile.

python -m benchmarks.calibration [--users 1000000] [--resplits 1000]

The service is a whole one on embedded servers. All users are the control's, with one event each on average, written
into PostgreSQL directly. One client asks for assignments of new users all along, one after the other with a short
rest: before the calibration, and while it runs.
"""

import argparse
import asyncio
import contextlib
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import psutil

from tests.service_process import TOKEN, ServiceProcess, experiment_body, running_service

METRICS = ("conversion_rate", "value_per_user", "avg_value")
SETTLE_S = 15.0
BEFORE_S = 10.0
SLICE_S = 2.0
REST_S = 0.01
FILL_TIMEOUT_S = 1800

ASSIGN = """
INSERT INTO assignments (experiment_id, user_id, variant_id, source, experiment_version, assigned_at)
SELECT $1, 'user-' || i, $2, 'import', 1, now() - interval '1 hour' FROM generate_series(1, $3::int) AS i
"""
SEND = """
INSERT INTO events (project_id, event_id, user_id, event_type, ts, value)
SELECT 1, gen_random_uuid(), 'user-' || (1 + floor(random() * $1::int))::int, 'purchase', now() - interval '30 minutes',
    random() * 100
FROM generate_series(1, $1::int)
"""


async def fill(url: str, experiment_id: int, control_id: int, users: int) -> None:
    connection = await asyncpg.connect(url, ssl=False)
    try:
        await connection.execute(ASSIGN, experiment_id, control_id, users, timeout=FILL_TIMEOUT_S)
        await connection.execute(SEND, users, timeout=FILL_TIMEOUT_S)
        await connection.execute("ANALYZE assignments; ANALYZE events", timeout=FILL_TIMEOUT_S)
    finally:
        await connection.close()


def ask_for(client: httpx.Client, key: str, seconds: float) -> list[float]:
    """Ask for new users' variants for a while; returns how long each answer took, in milliseconds."""
    took = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.perf_counter()
        client.get(f"/experiments/{key}/assignment/{uuid4()}").raise_for_status()
        took.append((time.perf_counter() - started) * 1000)
        time.sleep(REST_S)
    return took


def latency(took: list[float]) -> str:
    ordered = sorted(took)
    p50, p95, p99 = (ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.95, 0.99))
    return f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms ({len(took)} answers)"


def helper_memory(service: ServiceProcess) -> int:
    """Return the most memory that the helping process has had so far, in bytes."""
    for process in service.family():
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            if "app.calibration.worker" in " ".join(process.cmdline()):
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
                return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    return 0


def measure(service: ServiceProcess, users: int, resplits: int) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=f"{service.url}/api/v1", headers=headers, timeout=60) as client:
        experiment = client.post("/experiments", json=experiment_body("many")).raise_for_status().json()
        control = next(variant["id"] for variant in experiment["variants"] if variant["is_control"])
        asyncio.run(fill(service.postgres_url, experiment["id"], control, users))
        time.sleep(SETTLE_S)
        print(f"{users:,} users, {users:,} events, {len(METRICS)} metrics, {resplits:,} resplits")
        print(f"assignment before:    {latency(ask_for(client, 'many', BEFORE_S))}", flush=True)
        body = {"metrics": METRICS, "resplits": resplits}
        begun = client.post("/experiments/many/calibrations", json=body).raise_for_status().json()
        started, memory, took = time.monotonic(), 0, list[float]()
        while True:
            took += ask_for(client, "many", SLICE_S)
            memory = max(memory, helper_memory(service))
            found = client.get(f"/experiments/many/calibrations/{begun['id']}").raise_for_status().json()
            if found["status"] != "running":
                break
        print(f"assignment meanwhile: {latency(took)}")
        print(f"{found['status']} after {time.monotonic() - started:.0f} s; the helper had {memory / 2**20:.0f} MiB")
        for metric in found["result"]["metrics"]:
            rate, lower, upper = metric["false_positive_rate"], metric["lower"], metric["upper"]
            print(f"{metric['metric']:>16}: {rate:.3f}, bounds {lower:.3f} to {upper:.3f}, inside: {metric['inside']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--resplits", type=int, default=1000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_service(Path(folder) / "data") as service:
        measure(service, asked.users, asked.resplits)


if __name__ == "__main__":
    main()
