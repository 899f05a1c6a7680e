"""Programs that a machine may lack, and the servers that the tests start with what compose mounts."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.service_process import wait_until

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"

Json = dict[str, Any]

_STOP_WITHIN_S = 20.0


def require(program: str, package: str) -> str:
    """Return the program's path; skip without it, but not where it is sure to be installed."""
    found = shutil.which(program)
    if found is None:
        absent(f"{program} is missing: apt-get install {package}")
    return found


def require_root() -> None:
    if os.geteuid() != 0:
        absent("root is missing: an image can be built without an engine by root alone")


def absent(what: str) -> NoReturn:
    """Skip the test, or fail it where nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def mounted(service: Json, target: str) -> Path:
    """Return the file of this repository that compose mounts at `target`."""
    for volume in service["volumes"]:
        if volume["type"] == "bind" and volume["target"] == target:
            return Path(volume["source"])
    raise AssertionError(f"nothing is mounted at {target}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str],
    user: str | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the length of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            env=dict(environment),
            user=user,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_success(command: Sequence[str], environment: Mapping[str, str], process: subprocess.Popen[bytes]) -> None:
    """Wait until a health check passes; fail when the server has ended before."""

    def passes() -> bool:
        assert process.poll() is None, "the server ended"
        return subprocess.run(command, env=dict(environment), capture_output=True, check=False).returncode == 0

    wait_until(passes, "the health check passes")
