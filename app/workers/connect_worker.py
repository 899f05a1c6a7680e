"""One Kafka Connect worker with Debezium, for a machine without containers."""

import http.client
import os
import signal
from collections.abc import Callable, Mapping
from types import MappingProxyType

from app.embedded.child import Program
from app.embedded.data_folder import DataFolder, explained
from app.embedded.ports import LOOPBACK
from app.embedded.processes import end_leftovers, read_pid
from app.embedded.supervisor import Supervisor, start_on_free_port
from app.workers.jars import ROOT, Jars
from app.workers.java import java_server, keep_properties, make_home

TEMPLATE = ROOT / "debezium" / "connect-distributed.properties"

NAME = "connect"
PORT_FILE = "connect.port"
PROPERTIES_FILE = "connect/connect-distributed.properties"

_HEAP_MB = 512
_PROBE_TIMEOUT_S = 2.0


class ConnectWorker:
    """A worker for this machine alone; one that dies is started again."""

    def __init__(
        self,
        folder: DataFolder,
        jars: Jars,
        *,
        bootstrap_servers: str,
        database_password: str,
        say: Callable[[str], None],
        extra_options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._folder = folder
        self._jars = jars
        self._bootstrap_servers = bootstrap_servers
        self._database_password = database_password
        self._say = say
        self._extra_options = extra_options
        self._supervisor: Supervisor | None = None

    def start(self) -> str:
        """Start the worker and return its URL; the broker must be there.

        Raises:
            EmbeddedError: it cannot be started.
        """
        home = make_home(self._folder, NAME)
        with explained(home):
            end_leftovers(self._program(port=0))
        self._supervisor, port = start_on_free_port(self._folder, PORT_FILE, self._program, say=self._say)
        return f"http://{LOOPBACK}:{port}"

    def stop(self) -> None:
        """End the worker in good order; calling it again does nothing."""
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
            main_class="org.apache.kafka.connect.cli.ConnectDistributed",
            arguments=[str(self._folder.path / PROPERTIES_FILE)],
            heap_mb=_HEAP_MB,
            is_ready=lambda: _is_healthy(port),
            before_start=lambda: self._configure(port),
            # The connector's configuration names this variable instead of holding the password.
            environment={"CDC_DATABASE_PASSWORD": self._database_password},
        )

    def _configure(self, port: int) -> None:
        options = {
            "bootstrap.servers": self._bootstrap_servers,
            "listeners": f"http://{LOOPBACK}:{port}",
            "plugin.path": str(self._jars.plugins),
            **self._extra_options,
        }
        keep_properties(self._folder, PROPERTIES_FILE, TEMPLATE, options)


def _is_healthy(port: int) -> bool:
    """Ask whether the worker has joined its group and read its topics."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
