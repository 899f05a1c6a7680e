"""One Kafka node, broker and controller at once, for a machine without containers."""

import base64
import os
import shutil
import signal
import socket
import struct
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

from app.embedded.accounts import account_for, give
from app.embedded.child import Program, run_to_end, task
from app.embedded.data_folder import DataFolder, explained
from app.embedded.ports import LOOPBACK, free_port
from app.embedded.processes import end_leftovers, read_pid
from app.embedded.supervisor import Supervisor, start_on_free_port
from app.workers.jars import ROOT, Jars
from app.workers.java import java_arguments, java_server, keep_properties, make_home

TEMPLATE = ROOT / "debezium" / "kafka-server.properties"

NAME = "kafka"
PORT_FILE = "kafka.port"
PROPERTIES_FILE = "kafka/server.properties"
LOG_FOLDER = "log"

_HEAP_MB = 256
_FORMAT_WITHIN_S = 60.0
_PROBE_TIMEOUT_S = 1.0
# ApiVersions, version 0, correlation id 1, no client id. Source: Kafka protocol guide.
_PROBE = struct.pack(">ihhih", 10, 18, 0, 1, -1)


class KafkaBroker:
    """A broker for this machine alone; one that dies is started again."""

    def __init__(
        self,
        folder: DataFolder,
        jars: Jars,
        *,
        say: Callable[[str], None],
        extra_options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._folder = folder
        self._jars = jars
        self._say = say
        self._extra_options = extra_options
        self._supervisor: Supervisor | None = None

    def start(self) -> str:
        """Start the broker and return its address, as clients want it to begin with.

        Raises:
            EmbeddedError: it cannot be started.
        """
        home = make_home(self._folder, NAME)
        with explained(home):
            end_leftovers(self._program(port=0))
            self._format_storage(home)
        self._supervisor, port = start_on_free_port(self._folder, PORT_FILE, self._program, say=self._say)
        return f"{LOOPBACK}:{port}"

    def stop(self) -> None:
        """End the broker in good order; calling it again does nothing."""
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None

    def kill(self) -> None:
        """Kill it as a crash would; it is then started again."""
        if (pid := read_pid(self._folder.path / f"{NAME}.pid")) is not None:
            os.kill(pid, signal.SIGKILL)

    def _program(self, port: int) -> Program:
        return java_server(
            self._folder,
            self._jars,
            name=NAME,
            main_class="kafka.Kafka",
            arguments=[str(self._folder.path / PROPERTIES_FILE)],
            heap_mb=_HEAP_MB,
            is_ready=lambda: _answers(port),
            before_start=lambda: self._configure(port),
        )

    def _configure(self, port: int) -> None:
        controller_port = free_port()
        options = {
            "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
            "log.dirs": str(self._folder.path / NAME / LOG_FOLDER),
            **self._extra_options,
        }
        keep_properties(self._folder, PROPERTIES_FILE, TEMPLATE, options)

    def _format_storage(self, home: Path) -> None:
        """Make the storage beside its place and move it there whole: a killed start leaves no half of one."""
        for unfinished in home.glob("unfinished-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        if (home / LOG_FOLDER).is_dir():
            return
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=home))
        give(unfinished, account_for(self._folder.path))
        options = {
            "listeners": f"PLAINTEXT://{LOOPBACK}:1,CONTROLLER://{LOOPBACK}:2",
            "controller.quorum.voters": f"1@{LOOPBACK}:2",
            "log.dirs": str(unfinished),
        }
        properties = keep_properties(self._folder, "kafka/format.properties", TEMPLATE, options)
        command = ["format", "--cluster-id", _cluster_id(), "--config", str(properties)]
        arguments = java_arguments(home, self._jars, "kafka.tools.StorageTool", command, heap_mb=_HEAP_MB)
        server = self._program(port=0)
        run_to_end(task(server, server.executable.name, arguments, folder=home), within_s=_FORMAT_WITHIN_S)
        unfinished.rename(home / LOG_FOLDER)


def _cluster_id() -> str:
    """Make an id as Kafka does: 16 random bytes in base64, which must not look like an option."""
    return "E" + base64.urlsafe_b64encode(uuid4().bytes).decode()[1:22]


def _answers(port: int) -> bool:
    """Ask what the broker understands; the port alone is open long before it can do anything."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=_PROBE_TIMEOUT_S) as connection:
            connection.sendall(_PROBE)
            return len(connection.recv(8)) == 8
    except OSError:
        return False
