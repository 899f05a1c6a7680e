"""How fast the relay brings a filled outbox to ClickHouse, on embedded servers of its own.

python -m benchmarks.relay [rows]
"""

import asyncio
import gc
import logging
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
import structlog
from alembic.config import Config
from sqlalchemy import make_url

from alembic import command
from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import Settings
from app.embedded.clickhouse import EmbeddedClickHouse
from app.embedded.data_folder import DataFolder
from app.embedded.postgres import EmbeddedPostgres
from app.events.messages import AGGREGATE, RECORDED, RECORDED_PAYLOAD
from app.pipeline.schema import migrate
from app.pipeline.service import Pipeline

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_ROWS = 200_000
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
        data = DataFolder.open(Path(folder))
        postgres = EmbeddedPostgres(data, say=print)
        engine = EmbeddedClickHouse(data, say=print)
        url = postgres.start()
        try:
            _migrate_postgres(url)
            asyncio.run(_measure(url, engine, rows))
        finally:
            engine.stop()
            postgres.stop()
            data.close()


def _migrate_postgres(url: str) -> None:
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("script_location", str(ROOT / "alembic"))
    config.set_main_option("sqlalchemy.url", url)
    command.upgrade(config, "head")


async def _measure(url: str, engine: EmbeddedClickHouse, rows: int) -> None:
    await _fill(url, rows)
    clickhouse = await ClickHouse.over_engine(engine.start(), "experiments")
    await migrate(clickhouse)
    database = Database.connect(url, pool_size=5)
    pipeline = Pipeline(database, clickhouse, Settings.from_environment(), Metrics())
    gc.collect()
    gc.freeze()  # As a long-running service does after its start.
    stalls: list[float] = []
    watching = asyncio.create_task(_watch_loop(stalls))

    began, cpu = time.perf_counter(), time.process_time()
    await pipeline.start()
    while (await clickhouse.rows("SELECT count() AS n FROM events"))[0]["n"] < rows:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_EVERY_S)
    took_s = time.perf_counter() - began

    watching.cancel()
    print(f"{rows} rows in {took_s:.2f} s: {rows / took_s:,.0f} rows/s")
    print(f"processor of this process: {(time.process_time() - cpu) / took_s:.2f} cores, PostgreSQL's not counted")
    print(f"longest stall of the event loop: {max(stalls) * 1000:.0f} ms")
    await pipeline.stop()
    await clickhouse.close()
    await database.close()


async def _fill(url: str, rows: int) -> None:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(plain, server_settings={"timezone": "UTC"})
    for start in range(0, rows, ROWS_PER_TRANSACTION):
        await connection.execute(FILL, min(ROWS_PER_TRANSACTION, rows - start))
    await connection.close()


async def _watch_loop(stalls: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        stalls.append(time.perf_counter() - began - 0.001)


if __name__ == "__main__":
    main()
