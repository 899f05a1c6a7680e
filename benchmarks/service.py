"""`python -m benchmarks.service`: measure a service of its own, each figure beside a raw probe of the same run.

The service, with all its threads, has one core; PostgreSQL, Valkey and the load generator share another. Everything
is as durable as in normal work. Only the ratios travel to other machines.
"""

import argparse
import contextlib
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks import dataset, probes, traffic
from benchmarks.pinned import CAN_PIN, OTHER_CORE, PinnedService, pin
from benchmarks.table import Row, latency_row, layout, memory_row, rate_row, seconds_row
from benchmarks.traffic import BenchmarkFailed, Rate, Traffic
from tests.service_process import TOKEN, experiment_body

EXPERIMENT = "benchmark"
CONNECTIONS = 64
EVENT_CONNECTIONS = 8
EVENTS_PER_BATCH = 100
ROWS_PER_STATEMENT = 100
USERS_PER_CALL = 1000
RETURNING_USERS = 10_000
RELAY_BATCH_ROWS = 10_000
RELAY_WITHIN_S = 180.0
RELAY_POLL_S = 0.5
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")


@dataclass(frozen=True, slots=True)
class Size:
    """How long and how much is measured."""

    seconds: float
    probe_s: float
    users: int
    events: int
    repeats: int


FULL = Size(seconds=6, probe_s=3, users=100_000, events=1_000_000, repeats=5)
QUICK = Size(seconds=2, probe_s=1, users=10_000, events=100_000, repeats=3)


def main() -> int:
    """Measure everything and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.service", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the data and shorter loads")
    size = QUICK if parser.parse_args().quick else FULL
    pin(os.getpid(), OTHER_CORE)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            Path(folder).chmod(0o711)  # PostgreSQL, which is not run as root, must pass through.
            rows = [*measure_traffic(Path(folder) / "traffic", size), *measure_results(Path(folder) / "results", size)]
    except BenchmarkFailed as error:
        sys.stderr.write(f"benchmark: {error}\n")
        return 1
    print(layout(rows))
    print(f"\n{conditions(size)} {time.monotonic() - started:.0f} s in all.")
    return 0


def measure_traffic(data_dir: Path, size: Size) -> list[Row]:
    """Measure assignments and events."""
    note("starting a service for traffic")
    service = PinnedService.start(data_dir)
    try:
        with service.client() as client:
            at_start = service.memory()
            returning = prepare(client)
            rows = [
                *measure_returning_users(service, returning, size),
                *measure_new_users(service, size),
                *measure_events(service, size),
            ]
            after = service.memory()
    finally:
        service.end()
    note("starting it again without its memory cache")
    service = PinnedService.start(data_dir, ASSIGNMENT_MEMORY_ENTRIES="0")
    try:
        rows.insert(2, measure_returning_users_from_valkey(service, returning, size))
    finally:
        service.end()
    return [*rows, memory_row("memory, just started", at_start), memory_row("memory, after this traffic", after)]


def prepare(client: httpx.Client) -> Traffic:
    """Make the experiment and its returning users."""
    client.post("/api/v1/experiments", json=experiment_body(EXPERIMENT)).raise_for_status()
    for start in range(0, RETURNING_USERS, USERS_PER_CALL):
        users = [f"user-{number}" for number in range(start, start + USERS_PER_CALL)]
        body = {"experiment": EXPERIMENT, "user_ids": users}
        client.post("/api/v1/assignments/bulk", json=body).raise_for_status()
    return traffic.returning_users(EXPERIMENT, RETURNING_USERS)


def load(service_url: str, kind: Traffic, seconds: float, connections: int = CONNECTIONS) -> Rate:
    """Warm up, then measure."""
    note(f"{kind.name}, {connections} connections")
    with contextlib.suppress(BenchmarkFailed):  # On a busy machine a cold start may answer nothing for a second.
        traffic.send(kind, service_url, TOKEN, connections=connections, seconds=1)
    return traffic.send(kind, service_url, TOKEN, connections=connections, seconds=seconds)


def measure_returning_users(service: PinnedService, returning: Traffic, size: Size) -> list[Row]:
    found = load(service.url, returning, size.seconds)
    with probes.empty_server() as url:
        note("the empty application")
        empty = load(url, returning, size.probe_s)
    name = "empty raw-ASGI answer"
    return [
        rate_row("returning users, requests/s", found.per_s, name, empty.per_s),
        latency_row("returning users, p50 / p99", found, name, empty),
    ]


def measure_new_users(service: PinnedService, size: Size) -> list[Row]:
    found = load(service.url, traffic.new_users(EXPERIMENT), size.seconds)
    note("bare INSERT of the same rows")
    probe = probes.insert_assignments(service.postgres_url, rows_per_statement=ROWS_PER_STATEMENT, seconds=size.probe_s)
    name = f"INSERT of the same rows, {ROWS_PER_STATEMENT} a statement"
    a_statement = ROWS_PER_STATEMENT / probe * 1000
    return [
        rate_row("new users, requests/s", found.per_s, name, probe),
        Row(
            "new users, p50 / p99",
            f"{found.p50_ms:.2f} / {found.p99_ms:.2f} ms",
            "one such statement",
            f"{a_statement:.2f} ms",
            f"{found.p50_ms / a_statement:.1f} (p50)",
        ),
    ]


def measure_events(service: PinnedService, size: Size) -> list[Row]:
    # Ids repeat with the kind, so that the warm-up has a kind of its own.
    warm_up, kind = (traffic.event_batches(RETURNING_USERS, EVENTS_PER_BATCH) for _ in range(2))
    note(f"{kind.name}, {EVENT_CONNECTIONS} connections")
    traffic.send(warm_up, service.url, TOKEN, connections=EVENT_CONNECTIONS, seconds=1)
    before = stored_events(service)
    found = traffic.send(kind, service.url, TOKEN, connections=EVENT_CONNECTIONS, seconds=size.seconds)
    stored = stored_events(service) - before
    if stored < found.requests * EVENTS_PER_BATCH:
        raise BenchmarkFailed(f"{found.requests * EVENTS_PER_BATCH} events were acknowledged, {stored} are stored")
    note("bare COPY of the same rows")
    probe = probes.copy_events(service.postgres_url)
    per_s = found.per_s * EVENTS_PER_BATCH
    return [
        Row(
            f"events/s in batches of {EVENTS_PER_BATCH} (p50 / p99 of a batch)",
            f"{per_s:,.0f} ({found.p50_ms:.1f} / {found.p99_ms:.1f} ms)",
            "COPY into a table without indexes",
            f"{probe:,.0f}",
            f"{per_s / probe:.2f}",
        )
    ]


def stored_events(service: PinnedService) -> int:
    return int(service.rows("SELECT count(*) AS n FROM events")[0]["n"])


def measure_returning_users_from_valkey(service: PinnedService, returning: Traffic, size: Size) -> Row:
    redis_url = dict(
        line.split("=", 1) for line in (service.data_dir / "urls.env").read_text(encoding="utf-8").splitlines() if line
    )["REDIS_URL"]
    # The first round fills Valkey from PostgreSQL.
    found = load(service.url, returning, size.seconds)
    note("bare MGET")
    probe = probes.get_many_keys(redis_url, seconds=size.probe_s)
    return rate_row(
        "returning users out of Valkey, requests/s", found.per_s, f"MGET of {probes.MGET_KEYS}, keys/s", probe
    )


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
            by_hand = statistics.median(
                probes.query_postgres(service.postgres_url, created["id"]) for _ in range(size.repeats)
            )
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
    """Return the median latency of computing results anew, in seconds."""
    note(f"results, source={source}")
    seconds: list[float] = []
    for _ in range(size.repeats + 1):
        started = time.perf_counter()
        answer = client.get(f"/api/v1/experiments/{EXPERIMENT}/results", params={"source": source, "fresh": True})
        seconds.append(time.perf_counter() - started)
        total = answer.raise_for_status().json()["metadata"]["total_users"]
        if total != size.users:
            raise BenchmarkFailed(f"results from {source} speak of {total} users")
    return statistics.median(seconds[1:])


def conditions(size: Size) -> str:
    """Say under which conditions the figures were taken."""
    pinned = (
        "the service on one core, PostgreSQL, Valkey and the generator on another"
        if CAN_PIN
        else "nothing pinned to a core"
    )
    return (
        f"{os.cpu_count()} cores, {pinned}; Python {platform.python_version()}; load by {traffic.GENERATOR}, "
        f"{CONNECTIONS} connections ({EVENT_CONNECTIONS} for batches), {size.seconds:g} s each; "
        f"{', '.join(DURABLE)} on."
    )


def note(what: str) -> None:
    sys.stderr.write(f"... {what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
