"""A whole service in a process of its own, for tests that start it, kill it and look at what is left."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import asyncpg
import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "token-of-the-tests"
WITHIN_S = 60.0
POLL_S = 0.05
# SIGINT is answered with this, as shells have it: 128 + 2.
INTERRUPTED = 130

# The engine is opened in a process of its own: one process can have one at a time, and it takes over signals.
_ASK_HISTORY = """
import json, sys, clickhouse_connect
client = clickhouse_connect.get_client(
    interface="chdb", path=sys.argv[1], database="experiments", settings={"session_timezone": "UTC"})
result = client.query(sys.argv[2])
print(json.dumps([dict(zip(result.column_names, row)) for row in result.result_rows], default=str))
client.close()
"""

_READY = re.compile(r"^ready: (http://[^/]+)/", re.MULTILINE)
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")


class ServiceProcess:
    """One run of `python -m app`; it is up when `start` returns."""

    def __init__(self, data_dir: Path, **environment: str) -> None:
        self.data_dir = data_dir
        self._log = data_dir.with_name(f"{data_dir.name}.log")
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self._family: list[psutil.Process] = []
        self.url = ""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app"],
                cwd=data_dir.parent,  # Not the checkout, whose .env is a developer's own.
                env=service_environment(data_dir, **environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @classmethod
    def start(cls, data_dir: Path, **environment: str) -> Self:
        """Start a service and wait until it says that it is ready."""
        service = cls(data_dir, **environment)
        try:
            service.await_ready()
        except BaseException:
            service.end()
            raise
        return service

    def await_ready(self) -> None:
        wait_until(lambda: self._is_ready() or self.process.poll() is not None, "the service gets ready")
        assert self.process.poll() is None, f"the service ended at start:\n{self.said()}"

    def _is_ready(self) -> bool:
        found = _READY.search(self.said())
        if found is not None:
            self.url = found[1]
        return found is not None

    def said(self) -> str:
        """Return what this run wrote to its output and to its log."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def client(self, *, timeout_s: float = 30.0) -> httpx.Client:
        """Return a client with a token of every scope; the caller closes it."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=timeout_s)

    @property
    def postgres_url(self) -> str:
        """Where the embedded PostgreSQL is, as asyncpg wants it."""
        lines = (self.data_dir / "urls.env").read_text(encoding="utf-8").splitlines()
        urls = dict(line.split("=", 1) for line in lines if line)
        return urls["DATABASE_URL"].replace("+asyncpg", "")

    def rows(self, sql: str, *arguments: object) -> list[dict[str, Any]]:
        """Run a query in the embedded PostgreSQL."""
        return asyncio.run(_fetch(self.postgres_url, sql, arguments))

    def family(self) -> list[psutil.Process]:
        """Return every process that the service started, and those that these started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def child(self, name: str) -> psutil.Process | None:
        """Return the server that the service itself started, `postgres` or `valkey-server`, if it is alive."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.name() == name and child.status() != psutil.STATUS_ZOMBIE:
                        return child
        return None

    def kill(self) -> None:
        """Kill the service, and it alone; its children learn of it from the kernel."""
        self._family = self.family()
        self.process.kill()
        self.process.wait(WITHIN_S)

    def kill_tree(self) -> None:
        """Kill the service and all its children with no chance to put anything in order."""
        self._family = self.family()
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(self.process.pid).suspend()  # It must not bring its children back to life.
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait(WITHIN_S)

    def interrupt(self) -> int:
        """Do what Ctrl-C in a terminal does, to the whole process group; returns the exit code."""
        self._family = self.family()
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(WITHIN_S)

    def terminate(self) -> int:
        """Do what `docker stop`, systemd and Kubernetes do; returns the exit code."""
        self._family = self.family()
        self.process.terminate()
        return self.process.wait(WITHIN_S)

    def left_behind(self) -> list[psutil.Process]:
        """Return the children that outlive the service after a fair time."""
        _, alive = psutil.wait_procs(self._family, timeout=WITHIN_S)
        return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    def end(self) -> None:
        """Stop the service however it may be; calling it again does nothing."""
        if self.process.poll() is None:
            try:
                self.interrupt()
            except subprocess.TimeoutExpired:
                self.kill_tree()


def service_environment(data_dir: Path, **given: str) -> dict[str, str]:
    """Return all the variables of a service in this folder; none of the caller's own settings gets through."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "DATA_DIR": str(data_dir),
        "PORT": "0",
        "ENVIRONMENT": "test",
        "BEARER_TOKENS": json.dumps([TOKEN]),
        "RATE_LIMIT_ENABLED": "false",
        **given,
    }


async def _fetch(url: str, sql: str, arguments: tuple[object, ...]) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(url, ssl=False, timeout=10)
    try:
        return [dict(row) for row in await connection.fetch(sql, *arguments)]
    finally:
        await connection.close()


@contextlib.contextmanager
def running_service(data_dir: Path, **environment: str) -> Iterator[ServiceProcess]:
    """Run a service for the length of the block."""
    service = ServiceProcess.start(data_dir, **environment)
    try:
        yield service
    finally:
        service.end()


def ask_history(data_dir: Path, sql: str) -> list[dict[str, Any]]:
    """Run a query in the ClickHouse folder of a service that has stopped."""
    done = subprocess.run(
        [sys.executable, "-c", _ASK_HISTORY, str(data_dir / "clickhouse"), sql],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def wait_for_history(client: httpx.Client, experiment: str) -> None:
    """Wait until everything written before this call is in ClickHouse."""
    written_at = datetime.now(UTC)

    def is_complete() -> bool:
        answer = client.get(f"/api/v1/experiments/{experiment}/results", params={"source": "cold", "fresh": True})
        if answer.status_code == 503:  # It may know nothing yet.
            return False
        return datetime.fromisoformat(answer.raise_for_status().json()["metadata"]["complete_until"]) > written_at

    wait_until(is_complete, "every row has reached ClickHouse")


def wait_until(condition: Callable[[], bool], what: str, *, within_s: float = WITHIN_S) -> float:
    """Wait until the condition holds; returns how long that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < within_s, f"this did not happen within {within_s:.0f} s: {what}"
        time.sleep(POLL_S)
    return time.monotonic() - started


def experiment_body(key: str, *allocations: float, **fields: object) -> dict[str, object]:
    """Return the body of a running experiment: `control` first, then `treatment`, `treatment2` and so on."""
    keys = ["control", "treatment", *(f"treatment{index}" for index in range(2, len(allocations)))]
    variants = [
        {"key": name, "name": name.title(), "allocation_pct": share, "is_control": name == "control"}
        for name, share in zip(keys, allocations or (50, 50), strict=False)
    ]
    return {"key": key, "name": key.title(), "variants": variants, "status": "running", **fields}


def without_origin(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an answer about results says, without where it comes from and what follows from the clock."""
    said = {name: value for name, value in answer.items() if name not in {"metadata", "provenance"}}
    of_the_clock = {"users_per_day", "remaining_days", "remaining_days_null_reason"}
    return {**said, "summary": {name: value for name, value in said["summary"].items() if name not in of_the_clock}}
