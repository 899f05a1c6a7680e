"""Many events of which PostgreSQL has dropped most: exact in each form, in bounded memory and time, over HTTP."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest

from tests.factories import Json, make_experiment, unique
from tests.integration.exports.conftest import EVENTS, USERS, store_users
from tests.integration.exports.test_large import assert_exact, rows_of
from tests.service_process import TOKEN, ServiceProcess, ask_history, running_service, wait_for_history, wait_until

_MIB = 1024 * 1024
# The engine of ClickHouse is in the same process here, and keeps what it has read of files for a while.
_MOST_GROWTH = 320 * _MIB
_LONGEST_S = 30.0 * max(1.0, EVENTS / 500_000)
_FORMS = ("csv", "json", "parquet")
# What PostgreSQL still has: every fourth event.
_DROPPED_BEFORE = datetime(2026, 2, 1, tzinfo=UTC)
_KEPT_EVENTS = f"""
INSERT INTO events (project_id, event_id, user_id, event_type, ts, value, properties)
SELECT $1::bigint, lpad(to_hex(i), 32, '0')::uuid, 'user-' || i % {USERS}, 'type ' || i % 5,
    '2026-01-02T00:00:00Z'::timestamptz + i * interval '1 microsecond', i / 7.0::float8,
    CASE WHEN i % 3 = 0 THEN jsonb_build_object('i', i) END
FROM generate_series(0, {EVENTS} - 1, 4) AS i
"""
# Some of them twice.
_DROPPED_EVENTS = """
INSERT INTO events
SELECT {project_id}, toUUID(concat('00000000-0000-0000-0000-', leftPad(lower(hex(i)), 12, '0'))), NULL,
    concat('user-', toString(i % {users})), concat('type ', toString(i % 5)),
    toDateTime64('2026-01-02 00:00:00', 6, 'UTC') + toIntervalMicrosecond(i), i / 7.,
    if(i % 3 = 0, concat('{{"i": ', toString(i), '}}'), '{{}}'),
    toDateTime64('2026-01-02 00:00:00', 6, 'UTC') + toIntervalMicrosecond(i)
FROM (SELECT number AS i FROM numbers({events})) WHERE i % 4 <> 0 AND i % {every} = 0
"""
_EXPOSURES = """
INSERT INTO exposures
SELECT {experiment_id}, concat('user-', toString(number)), [{variants}][1 + number % 2], 'hash', 1, '{{}}',
    toDateTime64('2026-01-01 00:00:00', 6, 'UTC'), toDateTime64('2026-01-01 00:00:00', 6, 'UTC')
FROM numbers({users})
"""

pytestmark = pytest.mark.xdist_group("large-export-brought")


@dataclass
class _Brought:
    """A service whose PostgreSQL lacks most events, and its experiment."""

    service: ServiceProcess
    client: httpx.Client
    experiment: Json

    @property
    def path(self) -> str:
        return f"/api/v1/experiments/{self.experiment['key']}/export"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("brought") / "data"


@pytest.fixture(scope="module")
def brought(data_dir: Path) -> Iterator[_Brought]:
    with running_service(data_dir) as service, _v1(service) as client:
        experiment = make_experiment(client)
        project_id = asyncio.run(_fill(service.postgres_url, experiment))
    values = {
        "project_id": project_id,
        "experiment_id": experiment["id"],
        "variants": ", ".join(str(variant["id"]) for variant in experiment["variants"]),
        "users": USERS,
        "events": EVENTS,
    }
    # The engine's folder is one process's at a time.
    for sql, every in ((_EXPOSURES, 1), (_DROPPED_EVENTS, 1), (_DROPPED_EVENTS, 10)):
        ask_history(data_dir, sql.format(**values, every=every))
    with running_service(data_dir) as service, service.client(timeout_s=120) as client:
        wait_for_history(client, experiment["key"])
        yield _Brought(service, client, experiment)


def _v1(service: ServiceProcess) -> httpx.Client:
    return httpx.Client(base_url=f"{service.url}/api/v1", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)


async def _fill(url: str, experiment: Json) -> int:
    connection = await asyncpg.connect(url, ssl=False, timeout=10)
    try:
        await store_users(connection, experiment)
        project = "SELECT project_id FROM experiments WHERE id = $1"
        project_id: int = await connection.fetchval(project, experiment["id"])
        await connection.execute(_KEPT_EVENTS, project_id)
        dropped = "INSERT INTO dropped_partitions (name, upper_bound, row_count) VALUES ('events_p202601', $1, 1)"
        await connection.execute(dropped, _DROPPED_BEFORE)
        await connection.execute("ANALYZE events, assignments")
    finally:
        await connection.close()
    return project_id


@pytest.mark.parametrize("form", _FORMS)
def test_export__most_events_dropped__is_exact_in_bounded_memory_and_time(
    brought: _Brought, form: str, tmp_path: Path
) -> None:
    service = psutil.Process(brought.service.process.pid)
    file = tmp_path / f"events.{form}"
    before = most = service.memory_info().rss
    began = time.monotonic()

    with (
        brought.client.stream("GET", brought.path, params={"of": "events", "format": form}) as response,
        file.open("wb") as out,
    ):
        assert response.status_code == 200, response.read()
        for chunk in response.iter_bytes():
            out.write(chunk)
            most = max(most, service.memory_info().rss)

    took_s = time.monotonic() - began
    assert_exact(rows_of(form, file))
    assert took_s < _LONGEST_S
    assert most - before < _MOST_GROWTH, f"{(most - before) / _MIB:.0f} MiB"
    print(f"{form}: {took_s:.1f} s, {file.stat().st_size / _MIB:.0f} MiB, grew by {(most - before) / _MIB:.1f} MiB")


def test_export__events_by_the_stream_and_dropped__is_as_before_to_the_last_byte(brought: _Brought) -> None:
    with _v1(brought.service) as client:
        _assert_same_when_dropped(brought, client)


def _assert_same_when_dropped(brought: _Brought, client: httpx.Client) -> None:
    experiment = make_experiment(client)
    user = unique("user")
    assert client.get(f"/experiments/{experiment['key']}/assignment/{user}").json()["enrolled"]
    events = [
        {
            "user_id": user,
            "event_type": unique("é"),
            "value": value,
            "properties": {"text": f'{value} "\\/ é😀\u2028\n', "deep": [{"n": None}, 1e300, {}], "": 0},
        }
        for value in (None, 0.1 + 0.2, 5e-324, 1e22, 1e23, -1.7976931348623157e308, 0)
    ]
    assert client.post("/events/batch", json={"events": events}).json()["accepted"] == len(events)
    wait_for_history(brought.client, experiment["key"])
    path, query = f"/experiments/{experiment['key']}/export", {"of": "events", "format": "csv"}
    before = client.get(path, params=query)
    everything = client.get(path, params=query | {"counted": "false"})
    brought.service.rows("DELETE FROM events WHERE user_id = $1", user)
    dropped = "INSERT INTO dropped_partitions (name, upper_bound, row_count) VALUES ('now', clock_timestamp(), 1)"
    brought.service.rows(dropped)
    # The watermark has to pass what was dropped.
    wait_for_history(brought.client, experiment["key"])
    try:
        after = client.get(path, params=query)
        assert sorted(after.content.splitlines()) == sorted(before.content.splitlines())
        assert len(after.content.splitlines()) == 1 + len(events)
        again = client.get(path, params=query | {"counted": "false"})
        assert sorted(again.content.splitlines()) == sorted(everything.content.splitlines())
    finally:
        brought.service.rows("DELETE FROM dropped_partitions WHERE name = 'now'")


def test_export__client_gone_while_events_are_brought__frees_connections_and_its_turn(brought: _Brought) -> None:
    exporting = "SELECT pid FROM pg_stat_activity WHERE application_name = 'experimentation-export'"
    for _ in range(3):
        query = {"of": "events", "format": "csv"}
        with brought.client.stream("GET", brought.path, params=query) as response:
            next(response.iter_bytes())
        wait_until(lambda: not brought.service.rows(exporting), "the connections are free")
