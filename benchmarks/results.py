"""Results of a large experiment: how long they take, and how fast its events reach ClickHouse."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks import dataset, probes
from benchmarks.pinned import PinnedService
from benchmarks.runs import EXPERIMENT, Size, note
from benchmarks.table import Row, memory_row, rate_row, seconds_row
from benchmarks.traffic import BenchmarkFailed
from tests.service_process import experiment_body

RELAY_BATCH_ROWS = 10_000
RELAY_WITHIN_S = 180.0
RELAY_POLL_S = 0.5
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")


def measure_results(data_dir: Path, size: Size) -> list[Row]:
    """Measure results on a large experiment, and the relay that brings it to ClickHouse."""
    note("starting a service for results")
    service = PinnedService.start(data_dir)
    try:
        refuse_fragile(service)
        with service.client(timeout_s=120) as client:
            created = client.post("/api/v1/experiments", json=experiment_body(EXPERIMENT)).raise_for_status().json()
            relay_s = fill(service, client, created, size)
            answers = {source: ask(client, source, size) for source in ("hot", "cold", "auto")}
            note("the query by hand in PostgreSQL")
            by_hand = min(probes.query_postgres(service.postgres_url, created["id"]) for _ in range(size.repeats))
            lines = dataset.event_lines(service.postgres_url, size.events // 5)
            memory = service.memory()
    finally:
        service.end()
    note("the query by hand in ClickHouse, and a bare insert")
    history = probes.probe_history(data_dir, lines, repeats=size.repeats, batch_rows=RELAY_BATCH_ROWS)
    hot, cold = ("one query by hand, PostgreSQL", by_hand), ("one query by hand, ClickHouse", history["seconds"])
    data = f"{size.events:,} events, {size.users:,} users"
    return [
        rate_row(
            "relay to ClickHouse, rows/s",
            (size.events + size.users) / relay_s,
            f"insert of ready lines, {RELAY_BATCH_ROWS:,} a time",
            history["inserted_per_s"],
        ),
        seconds_row(f"results, hot: {data}", answers["hot"], *hot),
        seconds_row("results, cold: the same", answers["cold"], *cold),
        seconds_row("results, auto (both): the same", answers["auto"], *cold),
        memory_row(f"memory, after {data}", memory),
    ]


def refuse_fragile(service: PinnedService) -> None:
    """See that what is acknowledged is on the disk, as in normal work."""
    rows = service.rows("SELECT name, setting FROM pg_settings WHERE name = ANY($1)", DURABLE)
    if {row["name"]: row["setting"] for row in rows} != dict.fromkeys(DURABLE, "on"):
        raise BenchmarkFailed(f"PostgreSQL is not durable: {rows}")


def fill(service: PinnedService, client: httpx.Client, experiment: dict[str, Any], size: Size) -> float:
    """Store the data in one transaction, and wait until ClickHouse has it; returns how long the relay took."""
    note(f"storing {size.events:,} events of {size.users:,} users")
    dataset.load(service.postgres_url, experiment, users=size.users, events=size.events)
    stored_at, started = datetime.now(UTC), time.monotonic()
    # A last event of nobody: a heartbeat follows what is newer than the one before, and that says how far it got.
    client.post("/api/v1/events", json={"user_id": "nobody", "event_type": "view"}).raise_for_status()
    note("relaying them to ClickHouse")
    while complete_until(client) <= stored_at:
        if time.monotonic() - started > RELAY_WITHIN_S:
            raise BenchmarkFailed(f"the relay took longer than {RELAY_WITHIN_S:.0f} s")
        time.sleep(RELAY_POLL_S)
    return time.monotonic() - started


def complete_until(client: httpx.Client) -> datetime:
    """Return up to when ClickHouse is known to be complete."""
    answer = client.get(
        f"/api/v1/experiments/{EXPERIMENT}/results",
        params={"source": "cold", "fresh": True, "end_date": "2000-01-01"},
    )
    if answer.status_code == 503:
        return datetime.min.replace(tzinfo=UTC)
    return datetime.fromisoformat(answer.raise_for_status().json()["metadata"]["complete_until"])


def ask(client: httpx.Client, source: str, size: Size) -> float:
    """Return the best latency of computing results anew, in seconds."""
    note(f"results, source={source}")
    seconds: list[float] = []
    for _ in range(size.repeats):
        started = time.perf_counter()
        answer = client.get(f"/api/v1/experiments/{EXPERIMENT}/results", params={"source": source, "fresh": True})
        seconds.append(time.perf_counter() - started)
        total = answer.raise_for_status().json()["metadata"]["total_users"]
        if total != size.users:
            raise BenchmarkFailed(f"results from {source} speak of {total} users")
    return min(seconds)
