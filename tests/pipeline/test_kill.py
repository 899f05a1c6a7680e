"""A relay killed at any moment, again and again: nothing is lost and everything counts once."""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.pipeline.payloads import record_events

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("relay_program.py")
KILLS = 5
READY_WITHIN_S = 30.0
# Long enough to be in the middle of some batch, short enough not to have caught up.
LONGEST_LIFE_S = 0.8


@pytest.mark.timeout(180)
async def test_relay__killed_again_and_again__loses_nothing(
    database_url: str, postgres: asyncpg.Connection, tmp_path: Path
) -> None:
    written: set[UUID] = set()
    stopping = asyncio.Event()
    writing = asyncio.create_task(_keep_writing(postgres, written, stopping))

    for _ in range(KILLS):
        async with _program("relay", database_url, tmp_path) as relay:
            await _line(relay)
            await asyncio.sleep(random.uniform(0, LONGEST_LIFE_S))
            relay.send_signal(signal.SIGKILL)
            await relay.wait()
    stopping.set()
    await writing
    async with _program("relay", database_url, tmp_path, batch_rows=10_000) as relay:
        await _line(relay)
        await asyncio.sleep(LONGEST_LIFE_S)
        relay.send_signal(signal.SIGTERM)
        assert await relay.wait() == 0

    async with _program("report", database_url, tmp_path) as report:
        there = json.loads(await _line(report))
        assert await report.wait() == 0
    assert len(there["ids"]) == len(written)
    assert {UUID(id_) for id_ in there["ids"]} == written
    assert there["heartbeats"] == 1


async def _keep_writing(postgres: asyncpg.Connection, written: set[UUID], stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        ids = [uuid4() for _ in range(random.randint(1, 200))]
        await record_events(postgres, ids)
        written.update(ids)
        await asyncio.sleep(0.02)


@asynccontextmanager
async def _program(
    task: str, url: str, folder: Path, *, batch_rows: int = 100
) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("KAFKA")},
        "PYTHONPATH": str(ROOT),
        # Small batches for those who are killed, so that it happens in the middle of one.
        "RELAY_BATCH_ROWS": str(batch_rows),
        "RELAY_IDLE_SECONDS": "0.05",
        "HEARTBEAT_SECONDS": "0.1",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), task, url, str(folder / "data")),
        stdout=asyncio.subprocess.PIPE,
        env=environment,
        cwd=ROOT,
        limit=2**26,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _line(process: asyncio.subprocess.Process) -> str:
    """Return the next line that is not a log line."""
    assert process.stdout is not None
    async with asyncio.timeout(READY_WITHIN_S):
        while line := (await process.stdout.readline()).decode():
            if line.startswith(("ready", "{")):
                return line
    raise AssertionError("the program ended")
