"""Raw probes: the same work with nothing around it."""

import asyncio
import contextlib
import io
import json
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis

from app.assignments import messages as assignments
from benchmarks.pinned import SERVICE_CORE, on_core, pin
from tests.service_process import ROOT, wait_until

MGET_KEYS = 64
_VALUE_BYTES = 120
_WITHIN_S = 60.0

# Copies with all constraints and indexes, so that the rows cost what they cost the service.
_TABLES = """
CREATE TABLE IF NOT EXISTS probe_assignments (LIKE assignments INCLUDING ALL);
CREATE TABLE IF NOT EXISTS probe_outbox (LIKE outbox_events INCLUDING ALL);
"""
_INSERT = f"""
WITH stored AS (
    INSERT INTO probe_assignments (experiment_id, user_id, variant_id, source, experiment_version, assigned_at)
    SELECT 1, user_id, 1, 'hash', 1, clock_timestamp() FROM unnest($1::text[]) AS asked (user_id)
    RETURNING *
)
INSERT INTO probe_outbox (aggregatetype, aggregateid, type, payload)
SELECT '{assignments.AGGREGATE}', user_id, '{assignments.ASSIGNED}', {assignments.ASSIGNED_PAYLOAD} FROM stored
"""

# What somebody would write by hand to see how an experiment does.
HOT_QUERY = """
SELECT variant_id, count(*), count(DISTINCT user_id) FROM events JOIN assignments USING (user_id)
WHERE assignments.experiment_id = $1 AND ts >= assigned_at GROUP BY variant_id
"""
COLD_QUERY = """
SELECT variant_id, count(), uniqExact(user_id) FROM events FINAL
INNER JOIN (SELECT user_id, variant_id, exposed_at FROM exposures FINAL WHERE experiment_id = 1) AS exposed
USING (user_id) WHERE ts >= exposed_at GROUP BY variant_id
"""

# In a process of its own, on the folder that the service has left: the engine lives in one process at a time.
_HISTORY_PROBE = """
import json, sys, time, clickhouse_connect
folder, query, repeats, lines_file, batch = sys.argv[1:]
client = clickhouse_connect.get_client(
    interface="chdb", path=folder, database="experiments", settings={"session_timezone": "UTC"})
times = []
for _ in range(int(repeats)):
    started = time.perf_counter()
    client.query(query)
    times.append(time.perf_counter() - started)
lines = open(lines_file, "rb").read().splitlines()
client.command("CREATE TABLE probe AS events")
started = time.perf_counter()
for start in range(0, len(lines), int(batch)):
    block = b"\\n".join(lines[start : start + int(batch)])
    client.raw_insert("probe", insert_block=block, fmt="JSONEachRow")
inserted = len(lines) / (time.perf_counter() - started)
client.command("DROP TABLE probe")
print(json.dumps({"seconds": min(times), "inserted_per_s": inserted}))
client.close()
"""


@contextlib.contextmanager
def empty_server() -> Iterator[str]:
    """Run the empty application on uvicorn, on the service's core; yields its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", "benchmarks.empty_app:app", "--port", str(port)),
            *("--no-access-log", "--log-level", "warning", "--no-server-header"),
        ],
        cwd=ROOT,
    )
    pin(process.pid, SERVICE_CORE)
    try:
        wait_until(lambda: _listens(port), "the empty application answers")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(_WITHIN_S)


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def insert_assignments(url: str, *, rows_per_statement: int, seconds: float) -> float:
    """Insert rows of assignments and their outbox rows, one statement after the other; returns rows a second."""

    async def probe() -> float:
        connection = await asyncpg.connect(url, ssl=False)
        try:
            await connection.execute(_TABLES)
            insert = await connection.prepare(_INSERT)
            rows, prefix, started = 0, uuid.uuid4().hex, time.perf_counter()
            while time.perf_counter() - started < seconds:
                await insert.fetch([f"{prefix}-{rows + index}" for index in range(rows_per_statement)])
                rows += rows_per_statement
            return rows / (time.perf_counter() - started)
        finally:
            await connection.close()

    with on_core(SERVICE_CORE):
        return asyncio.run(probe())


def copy_events(url: str) -> float:
    """COPY the events that are stored into a table without indexes; returns rows a second."""

    async def probe() -> float:
        connection = await asyncpg.connect(url, ssl=False)
        try:
            data = io.BytesIO()
            await connection.copy_from_query("SELECT * FROM events", output=data)
            await connection.execute("DROP TABLE IF EXISTS probe_events; CREATE TABLE probe_events (LIKE events)")
            data.seek(0)
            started = time.perf_counter()
            done = await connection.copy_to_table("probe_events", source=data)
            return int(done.removeprefix("COPY ")) / (time.perf_counter() - started)
        finally:
            await connection.close()

    with on_core(SERVICE_CORE):
        return asyncio.run(probe())


def get_many_keys(url: str, *, seconds: float) -> float:
    """Read 64 keys a call, one call after the other; returns keys a second."""

    async def probe() -> float:
        async with Redis.from_url(url) as redis:
            names = [f"probe:{index}" for index in range(MGET_KEYS)]
            await redis.mset(dict.fromkeys(names, b"x" * _VALUE_BYTES))
            keys, started = 0, time.perf_counter()
            while time.perf_counter() - started < seconds:
                keys += len(await redis.mget(names))
            return keys / (time.perf_counter() - started)

    with on_core(SERVICE_CORE):
        return asyncio.run(probe())


def query_postgres(url: str, experiment_id: int) -> float:
    """Run the query by hand; returns seconds."""

    async def probe() -> float:
        connection = await asyncpg.connect(url, ssl=False)
        try:
            started = time.perf_counter()
            await connection.fetch(HOT_QUERY, experiment_id)
            return time.perf_counter() - started
        finally:
            await connection.close()

    return asyncio.run(probe())


def probe_history(data_dir: Path, lines: list[str], *, repeats: int, batch_rows: int) -> dict[str, Any]:
    """In the folder of a stopped service, run the query by hand and insert event lines into a table of their own."""
    lines_file = data_dir.with_suffix(".lines")
    lines_file.write_text("\n".join(lines), encoding="utf-8")
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", _HISTORY_PROBE),
            *(str(data_dir / "clickhouse"), COLD_QUERY, str(repeats), str(lines_file), str(batch_rows)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    pin(process.pid, SERVICE_CORE)
    said, _ = process.communicate(timeout=_WITHIN_S * 2)
    found: dict[str, Any] = json.loads(said)
    return found
