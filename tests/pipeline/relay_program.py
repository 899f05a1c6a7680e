"""A process that relays into an engine of its own, to be killed; or that reports what is there.

Arguments: `relay` or `report`, the URL of PostgreSQL, the data folder. `relay` says "ready" once its engine is open.
"""

import asyncio
import json
import signal
import sys
from pathlib import Path

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import Settings
from app.embedded.clickhouse import EmbeddedClickHouse
from app.embedded.data_folder import DataFolder
from app.pipeline.schema import migrate
from app.pipeline.service import Pipeline


async def relay(url: str, clickhouse: ClickHouse) -> None:
    database = Database.connect(url, pool_size=2)
    pipeline = Pipeline(database, clickhouse, Settings.from_environment(), Metrics())
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await pipeline.start()
    print("ready", flush=True)
    await ended.wait()
    await pipeline.stop()
    await database.close()


async def report(clickhouse: ClickHouse) -> None:
    rows = await clickhouse.rows("SELECT toString(event_id) AS id FROM events FINAL")
    copies = await clickhouse.rows("SELECT count() AS copies FROM events")
    proven = await clickhouse.rows("SELECT count() AS heartbeats FROM heartbeats FINAL")
    print(json.dumps({"ids": [row["id"] for row in rows], **copies[0], **proven[0]}), flush=True)


async def main(task: str, url: str, folder: str) -> None:
    data = DataFolder.open(Path(folder))
    engine = EmbeddedClickHouse(data, say=print)
    clickhouse = await ClickHouse.over_engine(engine.start(), "experiments")
    await migrate(clickhouse)
    await (relay(url, clickhouse) if task == "relay" else report(clickhouse))
    await clickhouse.close()
    engine.stop()
    data.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
