"""Many events, of which everything follows from their numbers; and an export of them, read and measured."""

import asyncio
import csv
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import msgspec
import psutil
from pyarrow import compute, parquet

from tests.factories import Json
from tests.service_process import TOKEN, ServiceProcess

MIB = 1024 * 1024
FORMS = ("csv", "json", "parquet")
USERS = 200_000
# EXPORT_EVENTS=10000000 is the long form.
EVENTS = int(os.environ.get("EXPORT_EVENTS", "300000"))

_ASSIGNMENTS = f"""
INSERT INTO assignments (experiment_id, user_id, variant_id, source, experiment_version, assigned_at)
SELECT $1::bigint, 'user-' || i, ($2::bigint[])[1 + i % 2], 'hash', 1, '2026-01-01T00:00:00Z'
FROM generate_series(0, {USERS} - 1) AS i
"""
_EVENTS = f"""
INSERT INTO events (project_id, event_id, user_id, event_type, ts, value, properties)
SELECT $1::bigint, lpad(to_hex(i), 32, '0')::uuid, 'user-' || i % {USERS}, 'type ' || i % 5,
    '2026-01-02T00:00:00Z'::timestamptz + i * interval '1 microsecond', i / 7.0::float8,
    CASE WHEN i % 3 = 0 THEN jsonb_build_object('i', i) END
FROM generate_series(0, {EVENTS} - 1, $2::int) AS i
"""
_NAMES = ("event_id", "user_id", "variant", "event_type", "timestamp", "value", "properties")
_Read = tuple[str, str, str, str, str, float, str | None]


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


def client_of(service: ServiceProcess) -> httpx.Client:
    """Return a client that waits as long as a large export may take to begin; the caller closes it."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return httpx.Client(base_url=f"{service.url}/api/v1", headers=headers, timeout=120)


def store_in_postgres(service: ServiceProcess, experiment: Json, *, every: int = 1) -> int:
    """Store all users, and of the events each whose number is a multiple of `every`; returns the project's id."""
    return asyncio.run(_store(service.postgres_url, experiment, every))


async def _store(url: str, experiment: Json, every: int) -> int:
    connection = await asyncpg.connect(url, ssl=False, timeout=10)
    try:
        variants = [variant["id"] for variant in experiment["variants"]]
        await connection.execute(_ASSIGNMENTS, experiment["id"], variants)
        project = "SELECT project_id FROM experiments WHERE id = $1"
        project_id: int = await connection.fetchval(project, experiment["id"])
        await connection.execute(_EVENTS, project_id, every)
        await connection.execute("ANALYZE events, assignments")
    finally:
        await connection.close()
    return project_id


def check_export(large: Large, form: str, folder: Path, *, most_growth: int, longest_s: float) -> None:
    """Export all events, and check that each is there once, how long it took and by how much the service grew."""
    service = psutil.Process(large.service.process.pid)
    file = folder / f"events.{form}"
    before = most = service.memory_info().rss
    began = time.monotonic()

    with (
        large.client.stream("GET", large.path, params={"of": "events", "format": form}) as response,
        file.open("wb") as out,
    ):
        assert response.status_code == 200, response.read()
        for chunk in response.iter_bytes():
            out.write(chunk)
            most = max(most, service.memory_info().rss)

    took_s = time.monotonic() - began
    _assert_exact(_rows_of(form, file))
    assert took_s < longest_s
    assert most - before < most_growth, f"{(most - before) / MIB:.0f} MiB"
    print(f"{form}: {took_s:.1f} s, {file.stat().st_size / MIB:.0f} MiB, grew by {(most - before) / MIB:.1f} MiB")


class _Line(msgspec.Struct):
    """The part of an object of JSON that is looked at."""

    event_id: str
    user_id: str
    variant: str
    event_type: str
    timestamp: str
    value: float
    properties: dict[str, int] | None


_decode = msgspec.json.Decoder(_Line).decode


def _rows_of(form: str, file: Path) -> Iterator[_Read]:
    match form:
        case "csv":
            with file.open(encoding="utf-8", newline="") as lines:
                reader = csv.reader(lines, strict=True)
                header = next(reader)
                places = [header.index(name) for name in _NAMES]
                for row in reader:
                    event_id, user_id, variant, event_type, timestamp, value, properties = (row[p] for p in places)
                    yield event_id, user_id, variant, event_type, timestamp, float(value), properties or None
        case "json":
            with file.open("rb") as lines:
                assert lines.read(1) == b"["
                for line in lines:
                    if line != b"]\n":
                        one = _decode(line.lstrip(b","))
                        inner = one.properties
                        text = None if inner is None else f'{{"i": {inner["i"]}}}'
                        yield one.event_id, one.user_id, one.variant, one.event_type, one.timestamp, one.value, text
            assert file.read_bytes()[-4:] == b"}\n]\n"
        case _:
            opened = parquet.ParquetFile(file)
            sizes = [opened.metadata.row_group(index).num_rows for index in range(opened.num_row_groups)]
            assert max(sizes) < 100_000
            for batch in opened.iter_batches(columns=list(_NAMES)):
                moments = compute.strftime(batch.column("timestamp"), "%Y-%m-%dT%H:%M:%SZ")
                columns = [batch.column(name).to_pylist() for name in _NAMES]
                columns[_NAMES.index("timestamp")] = moments.to_pylist()
                yield from zip(*columns, strict=True)


def _assert_exact(rows: Iterable[_Read]) -> None:
    seen = bytearray(EVENTS)
    for event_id, user_id, variant, event_type, timestamp, value, properties in rows:
        i = int(event_id[24:], 16)
        seen[i] += 1
        assert event_id[:24] == "00000000-0000-0000-0000-"
        assert (user_id, variant, event_type) == (f"user-{i % USERS}", f"v{i % 2}", f"type {i % 5}")
        assert (timestamp, value) == (f"2026-01-02T00:00:{i // 10**6:02d}.{i % 10**6:06d}Z", i / 7.0)
        assert properties == (None if i % 3 else f'{{"i": {i}}}')
    assert seen == b"\x01" * EVENTS
