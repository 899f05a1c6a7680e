"""Running a worker as an operator does: a program, told by its environment where the servers are."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from clickhouse_connect.driver.client import Client

from app.core.clickhouse import ClickHouse
from tests.pipeline.clickhouse_http import PASSWORD, USER, serving

ROOT = Path(__file__).resolve().parents[2]
_WITHIN_S = 120
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")

Worker = subprocess.CompletedProcess[str]


async def run_worker(
    module: str,
    *arguments: str,
    database_url: str,
    clickhouse: ClickHouse,
    connect_engine: Callable[..., Client],
    **environment: str,
) -> Worker:
    """Run `python -m app.workers.<module>`; this process serves the engine's database as a ClickHouse server would."""
    with serving(connect_engine) as port:
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", f"app.workers.{module}", *arguments],
            cwd=ROOT,
            env={
                **{name: os.environ[name] for name in _KEPT if name in os.environ},
                "DATABASE_URL": database_url,
                "CLICKHOUSE_HOST": "127.0.0.1",
                "CLICKHOUSE_PORT": str(port),
                "CLICKHOUSE_DATABASE": clickhouse.database,
                "CLICKHOUSE_USER": USER,
                "CLICKHOUSE_PASSWORD": PASSWORD,
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=_WITHIN_S,
            check=False,
        )
