"""ClickHouse and loaders as processes of their own, to be stopped, killed and started again."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid4

import asyncpg
import httpx

from app.core.clickhouse import ClickHouse
from app.core.settings import ClickHouseSettings
from app.embedded.ports import LOOPBACK, free_port
from app.pipeline.schema import migrate
from tests.pipeline.clickhouse_http import PASSWORD, USER
from tests.pipeline.payloads import record_events

ROOT = Path(__file__).resolve().parents[3]
WITHIN_S = 60.0
_POLL_S = 0.05


class ClickHouseProgram:
    """A stand-in for a ClickHouse server: its HTTP interface over the engine, on one folder and one port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def variables(self) -> dict[str, str]:
        return {
            "CLICKHOUSE_HOST": LOOPBACK,
            "CLICKHOUSE_PORT": str(self.port),
            "CLICKHOUSE_USER": USER,
            "CLICKHOUSE_PASSWORD": PASSWORD,
        }

    def start(self) -> None:
        program = ROOT / "tests" / "pipeline" / "clickhouse_program.py"
        self._folder.mkdir(exist_ok=True)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, program, str(self._folder / "data"), str(self.port)],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_for(self._answers, "ClickHouse answers")

    def empty(self) -> None:
        """Lose everything; it must not be running."""
        shutil.rmtree(self._folder / "data")

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(WITHIN_S)
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://{LOOPBACK}:{self.port}/ping").is_success
        return False


class LoaderProcess:
    """One run of `python -m app.workers.loader`."""

    def __init__(self, log: Path, variables: Mapping[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.workers.loader"],
                cwd=log.parent,  # Not the checkout, whose .env is a developer's own.
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(ROOT),
                    "HOST": LOOPBACK,
                    "PORT": str(self.port),
                    **variables,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @classmethod
    def start(cls, log: Path, variables: Mapping[str, str]) -> Self:
        """Start one and wait until it has joined its group."""
        loader = cls(log, variables)
        try:
            wait_for(loader.is_ready, "the loader is ready")
        except BaseException:
            loader.kill()
            raise
        return loader

    def is_up(self) -> bool:
        return self._says_yes("/health")

    def is_ready(self) -> bool:
        return self._says_yes("/ready")

    def _says_yes(self, path: str) -> bool:
        assert self.process.poll() is None, self.said()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}{path}", timeout=10).is_success
        return False

    def metrics(self) -> dict[str, float]:
        """Return every sample by its name and labels, as they are written."""
        lines = httpx.get(f"{self.url}/metrics", timeout=10).raise_for_status().text.splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return {name: float(value) for name, value in pairs}

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def terminate(self) -> int:
        self.process.terminate()
        return self.process.wait(WITHIN_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WITHIN_S)


@contextlib.contextmanager
def clickhouse_program(folder: Path) -> Iterator[ClickHouseProgram]:
    """Serve for the length of the block, with all tables made."""
    program = ClickHouseProgram(folder)
    program.start()
    try:
        asyncio.run(_migrate(program))
        yield program
    finally:
        program.kill()


async def _migrate(program: ClickHouseProgram) -> None:
    client = await ClickHouse.connect_server(ClickHouseSettings.model_validate(program.variables))
    await migrate(client)
    await client.close()


def wait_for(condition: Any, what: str, *, within_s: float = WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"this did not happen within {within_s:.0f} s: {what}"
        time.sleep(_POLL_S)


async def record(outbox: asyncpg.Connection, number: int) -> set[UUID]:
    ids = [uuid4() for _ in range(number)]
    await record_events(outbox, ids)
    return set(ids)


async def has_all(history: ClickHouse, ids: set[UUID]) -> bool:
    return ids <= await stored(history)


async def stored(history: ClickHouse) -> set[Any]:
    rows = await history.rows("SELECT event_id FROM events FINAL")
    return {row["event_id"] for row in rows}


async def number(history: ClickHouse, sql: str) -> int:
    ((value,),) = [row.values() for row in await history.rows(sql)]
    return int(value)
