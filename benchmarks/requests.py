"""Assignments and events: how many a second, and how long one takes."""

import contextlib
from pathlib import Path

import httpx

from benchmarks import probes, traffic
from benchmarks.pinned import PinnedService
from benchmarks.runs import EXPERIMENT, Size, in_turns, note
from benchmarks.table import Row, latency_row, memory_row, rate_row
from benchmarks.traffic import BenchmarkFailed, Rate, Traffic
from tests.service_process import TOKEN, experiment_body

CONNECTIONS = 64
EVENT_CONNECTIONS = 8
EVENTS_PER_BATCH = 100
ROWS_PER_STATEMENT = 100
USERS_PER_CALL = 1000
RETURNING_USERS = 10_000


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


def load(url: str, kind: Traffic, seconds: float) -> Rate:
    return traffic.send(kind, url, TOKEN, connections=CONNECTIONS, seconds=seconds)


def warm_up(url: str, kind: Traffic) -> None:
    note(f"{kind.name}, {CONNECTIONS} connections")
    with contextlib.suppress(BenchmarkFailed):  # On a busy machine a cold start may answer nothing for a second.
        load(url, kind, 1)


def measure_returning_users(service: PinnedService, returning: Traffic, size: Size) -> list[Row]:
    with probes.empty_server() as url:
        warm_up(service.url, returning)
        found, empty = in_turns(
            size.turns,
            lambda: load(service.url, returning, size.seconds),
            lambda: load(url, returning, size.seconds),
            lambda item: item.per_s,
        )
    name = "empty raw-ASGI answer"
    return [
        rate_row("returning users, requests/s", found.per_s, name, empty.per_s),
        latency_row("returning users, p50 / p99", found, name, empty),
    ]


def measure_new_users(service: PinnedService, size: Size) -> list[Row]:
    warm_up(service.url, traffic.new_users(EXPERIMENT))
    found, probe = in_turns(
        size.turns,
        lambda: load(service.url, traffic.new_users(EXPERIMENT), size.seconds),
        lambda: probes.insert_assignments(
            service.postgres_url, rows_per_statement=ROWS_PER_STATEMENT, seconds=size.seconds / 2
        ),
        float,
    )
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
    note(f"batches of {EVENTS_PER_BATCH} events, {EVENT_CONNECTIONS} connections")

    def send() -> Rate:
        # Ids repeat with the kind, so that each turn has a kind of its own.
        kind = traffic.event_batches(RETURNING_USERS, EVENTS_PER_BATCH)
        before = stored_events(service)
        found = traffic.send(kind, service.url, TOKEN, connections=EVENT_CONNECTIONS, seconds=size.seconds)
        stored = stored_events(service) - before
        if stored < found.requests * EVENTS_PER_BATCH:
            raise BenchmarkFailed(f"{found.requests * EVENTS_PER_BATCH} events were acknowledged, {stored} are stored")
        return found

    found, probe = in_turns(size.turns, send, lambda: probes.copy_events(service.postgres_url), float)
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
    warm_up(service.url, returning)  # It fills Valkey from PostgreSQL.
    found, probe = in_turns(
        size.turns,
        lambda: load(service.url, returning, size.seconds),
        lambda: probes.get_many_keys(redis_url, seconds=size.seconds / 2),
        float,
    )
    name = f"MGET of {probes.MGET_KEYS}, keys/s"
    return rate_row("returning users out of Valkey, requests/s", found.per_s, name, probe)
