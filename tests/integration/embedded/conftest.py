"""Fixtures for the embedded servers: a data folder for each test, and services in other processes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from app.embedded.data_folder import DataFolder
from app.embedded.postgres import EmbeddedPostgres

ROOT = Path(__file__).resolve().parents[3]
SERVICE = Path(__file__).with_name("embedded_service.py")
WITHIN_S = 20.0

# No test cuts the power; and the memory of a laptop is not needed.
QUICK = {"fsync": "off", "shared_buffers": "16MB"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    opened = DataFolder.open(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def said() -> list[str]:
    """What the embedded servers told the operator."""
    return []


@pytest.fixture
def make_postgres(folder: DataFolder, said: list[str]) -> Iterator[Callable[..., EmbeddedPostgres]]:
    made: list[EmbeddedPostgres] = []

    def make(in_folder: DataFolder = folder, **options: str) -> EmbeddedPostgres:
        made.append(EmbeddedPostgres(in_folder, say=said.append, extra_options={**QUICK, **options}))
        return made[-1]

    yield make
    for postgres in made:
        postgres.stop()


class Service:
    """The embedded parts in a process of their own."""

    def __init__(self, path: Path, *parts: str, python: Sequence[str] = (sys.executable,), **popen: Any) -> None:
        self._process = subprocess.Popen(
            [*python, str(SERVICE), str(path), *parts],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *popen.pop("modules", sys.path)])},
            cwd=ROOT,
            **popen,
        )
        self._family: list[psutil.Process] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    def says(self) -> dict[str, Any]:
        """Return the next thing it says; fail with its complaint if it ends instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.complaint()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def complaint(self) -> str:
        _, complaint = self._process.communicate(timeout=WITHIN_S)
        return str(complaint)

    def kill(self) -> list[dict[str, Any]]:
        """Kill the service, and it alone, as the kernel would; return what it had said before."""
        self._family = psutil.Process(self.pid).children(recursive=True)
        assert self._family
        self._process.kill()
        heard, _ = self._process.communicate(timeout=WITHIN_S)
        # The last line may be torn.
        return [json.loads(line) for line in heard.splitlines() if line.endswith("}")]

    def interrupt(self) -> str:
        """Do what Ctrl-C in a terminal does: signal the whole process group."""
        self._family = psutil.Process(self.pid).children(recursive=True)
        os.killpg(self.pid, signal.SIGINT)
        heard, complaint = self._process.communicate(timeout=WITHIN_S)
        assert self._process.returncode == 130, complaint
        return str(heard)

    def leaves_nothing_behind(self) -> bool:
        _, alive = psutil.wait_procs(self._family, timeout=WITHIN_S)
        return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate(timeout=WITHIN_S)


@pytest.fixture
def run_service() -> Iterator[Callable[..., Service]]:
    running: list[Service] = []

    def run(path: Path, *parts: str, **options: Any) -> Service:
        running.append(Service(path, *parts, **options))
        return running[-1]

    yield run
    for service in running:
        service.end()


@pytest.fixture
def sql() -> Callable[[str, str], list[tuple[Any, ...]]]:
    """Runs one statement on the database at a URL and returns its rows."""

    async def fetch(url: str, statement: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""), ssl=False, timeout=10)
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    def run(url: str, statement: str) -> list[tuple[Any, ...]]:
        return asyncio.run(fetch(url, statement))

    return run


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Waits until a condition holds."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)

    return wait
