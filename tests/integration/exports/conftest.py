"""A service of its own with many events, whose memory nobody else uses."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass

import asyncpg
import httpx
import pytest

from tests.factories import Json, make_experiment
from tests.service_process import TOKEN, ServiceProcess, running_service

USERS = 200_000
# EXPORT_EVENTS=10000000 is the long form.
EVENTS = int(os.environ.get("EXPORT_EVENTS", "300000"))

_ASSIGNMENTS = f"""
INSERT INTO assignments (experiment_id, user_id, variant_id, source, experiment_version, assigned_at)
SELECT $1::bigint, 'user-' || i, ($2::bigint[])[1 + i % 2], 'hash', 1, '2026-01-01T00:00:00Z'
FROM generate_series(0, {USERS} - 1) AS i
"""
# Everything about an event follows from its number.
_EVENTS = f"""
INSERT INTO events (project_id, event_id, user_id, event_type, ts, value, properties)
SELECT $1::bigint, lpad(to_hex(i), 32, '0')::uuid, 'user-' || i % {USERS}, 'type ' || i % 5,
    '2026-01-02T00:00:00Z'::timestamptz + i * interval '1 microsecond', i / 7.0::float8,
    CASE WHEN i % 3 = 0 THEN jsonb_build_object('i', i) END
FROM generate_series(0, {EVENTS} - 1) AS i
"""


@dataclass(frozen=True)
class Large:
    """A service and its experiment."""

    service: ServiceProcess
    client: httpx.Client
    experiment: Json

    @property
    def path(self) -> str:
        return f"/experiments/{self.experiment['key']}/export"

    def exporting(self) -> list[int]:
        """Return the processes of PostgreSQL that work for exports."""
        sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'experimentation-export'"
        return [row["pid"] for row in self.service.rows(sql)]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Large]:
    with running_service(tmp_path_factory.mktemp("large") / "data") as service:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=f"{service.url}/api/v1", headers=headers, timeout=60) as client:
            experiment = make_experiment(client)
            asyncio.run(_fill(service.postgres_url, experiment))
            yield Large(service, client, experiment)


async def _fill(url: str, experiment: Json) -> None:
    connection = await asyncpg.connect(url, ssl=False, timeout=10)
    try:
        await store_users(connection, experiment)
        project = await connection.fetchval("SELECT project_id FROM experiments WHERE id = $1", experiment["id"])
        await connection.execute(_EVENTS, project)
        await connection.execute("ANALYZE events, assignments")
    finally:
        await connection.close()


async def store_users(connection: asyncpg.Connection, experiment: Json) -> None:
    variants = [variant["id"] for variant in experiment["variants"]]
    await connection.execute(_ASSIGNMENTS, experiment["id"], variants)
