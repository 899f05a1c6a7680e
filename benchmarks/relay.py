"""How fast the relay brings a filled outbox to ClickHouse, on embedded servers of its own.

python -m benchmarks.relay [rows]
"""

import asyncio
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.migrations import migrate as migrate_postgres
from app.core.settings import Settings
from app.embedded.clickhouse import EmbeddedClickHouse
from app.embedded.data_folder import DataFolder
from app.embedded.postgres import EmbeddedPostgres
from app.events.messages import AGGREGATE, RECORDED, RECORDED_PAYLOAD
from app.pipeline.schema import migrate
from app.pipeline.service import Pipeline
from benchmarks.pipeline_writing import connect
from benchmarks.runs import note
from benchmarks.table import Row, layout, rate_row

DEFAULT_ROWS = 200_000
LINES_PER_INSERT = 10_000
MOST_PROBE_LINES = 200_000
ROWS_PER_TRANSACTION = 1_000
LOOK_EVERY_S = 0.02

FILL = f"""
WITH stored AS (
    SELECT 1::bigint AS project_id, gen_random_uuid() AS event_id, NULL::bigint AS experiment_id,
        'user-' || mod(i * 7919, 50000) AS user_id, (ARRAY['view', 'cart', 'purchase'])[mod(i, 3) + 1] AS event_type,
        clock_timestamp() AS ts, random() * 100 AS value,
        jsonb_build_object('sku', 'sku-' || mod(i, 1000), 'quantity', mod(i, 7)) AS properties,
        ingestion_time() AS ingested_at
    FROM generate_series(1, $1::int) AS i
)
INSERT INTO outbox_events (aggregatetype, aggregateid, type, payload)
SELECT '{AGGREGATE}', user_id, '{RECORDED}', {RECORDED_PAYLOAD} FROM stored
"""


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROWS
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as folder:
        print(layout(measure_relay(Path(folder), n_rows=rows)))


def measure_relay(folder: Path, *, n_rows: int) -> list[Row]:
    """Fill an outbox, relay it, and insert the same lines once more with nothing around."""
    data = DataFolder.open(folder)
    postgres = EmbeddedPostgres(data, say=note)
    engine = EmbeddedClickHouse(data, say=note)
    url = postgres.start()
    try:
        asyncio.run(migrate_postgres(url))
        return asyncio.run(_measure(url, engine, n_rows))
    finally:
        engine.stop()
        postgres.stop()
        data.close()


async def _measure(url: str, engine: EmbeddedClickHouse, n_rows: int) -> list[Row]:
    note(f"filling the outbox with {n_rows:,} rows")
    lines = await _fill(url, n_rows)
    clickhouse = await ClickHouse.over_engine(engine.start(), "experiments")
    await migrate(clickhouse)
    database = Database.connect(url, pool_size=5)
    pipeline = Pipeline(database, clickhouse, Settings.from_environment(), Metrics())
    gc.collect()
    gc.freeze()  # As a long-running service does after its start.
    stalls: list[float] = []
    watching = asyncio.create_task(_watch_loop(stalls))

    note("relaying them")
    began, cpu = time.perf_counter(), time.process_time()
    await pipeline.start()
    while (await clickhouse.rows("SELECT count() AS n FROM events"))[0]["n"] < n_rows:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_EVERY_S)
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu

    watching.cancel()
    note(f"processor of this process: {cpu_s / took_s:.2f} cores, PostgreSQL's not counted")
    note(f"longest stall of the event loop: {max(stalls) * 1000:.0f} ms")
    await pipeline.stop()
    inserted_per_s = await _insert(clickhouse, lines)
    await clickhouse.close()
    await database.close()
    probe = f"insert of ready lines, {LINES_PER_INSERT:,} a time"
    return [rate_row("embedded relay, rows/s", n_rows / took_s, probe, inserted_per_s)]


async def _insert(clickhouse: ClickHouse, lines: Sequence[bytes]) -> float:
    """Insert lines into a table of their own; returns lines a second."""
    await clickhouse.command("CREATE TABLE probe AS events")
    began = time.perf_counter()
    for start in range(0, len(lines), LINES_PER_INSERT):
        await clickhouse.insert_json("probe", lines[start : start + LINES_PER_INSERT])
    return len(lines) / (time.perf_counter() - began)


async def _fill(url: str, rows: int) -> list[bytes]:
    """Fill the outbox; returns lines as they stand in it, at most as many as the probe inserts."""
    connection = await connect(url)
    try:
        for start in range(0, rows, ROWS_PER_TRANSACTION):
            await connection.execute(FILL, min(ROWS_PER_TRANSACTION, rows - start))
        read = await connection.fetch("SELECT payload::text AS line FROM outbox_events LIMIT $1", MOST_PROBE_LINES)
        return [row["line"].encode() for row in read]
    finally:
        await connection.close()


async def _watch_loop(stalls: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        stalls.append(time.perf_counter() - began - 0.001)


if __name__ == "__main__":
    main()
