"""The connector that reads the outbox: its configuration, and seeing it run."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from app.workers.connect_api import ConnectApi, ConnectRefused, ConnectUnavailable, Status
from app.workers.settings import Source

CONNECTOR_FILE = Path(__file__).resolve().parents[2] / "debezium" / "connector.json"

_RETRY_AFTER_S = 0.5
# A task that fails at once is said to run for a moment, and one that is started again to have failed.
_SETTLED_AFTER_S = 2.0
_HALTED = frozenset({"PAUSED", "STOPPED"})

Say = Callable[[str], None]
T = TypeVar("T")


class ConnectorFailed(Exception):
    """The connector cannot run; the message is one clear line."""


@dataclass(frozen=True, slots=True)
class Connector:
    """A connector's name and configuration. It holds no password, only where Connect finds it."""

    name: str
    config: dict[str, str]

    @classmethod
    def for_source(cls, source: Source, file: Path = CONNECTOR_FILE) -> "Connector":
        """Fill the database into the file's configuration."""
        template = json.loads(file.read_bytes())
        database = {
            "database.hostname": source.host,
            "database.port": str(source.port),
            "database.dbname": source.name,
            "database.user": source.user,
        }
        return cls(template["name"], {**template["config"], **database})

    @property
    def slot(self) -> str:
        return self.config["slot.name"]


def put(connect: ConnectApi, connector: Connector, *, say: Say, give_up_at: float) -> None:
    """Create the connector or change it where it differs, and start again what failed.

    Raises:
        ConnectorFailed: Connect does not answer until `give_up_at`, or refuses the configuration.
    """
    current = patiently(lambda: connect.find_config(connector.name), give_up_at)
    if current == connector.config:
        say(f"connector {connector.name}: unchanged")
        patiently(lambda: connect.restart_failed(connector.name), give_up_at)
        return
    patiently(lambda: connect.put_config(connector.name, connector.config), give_up_at)
    if current is None:
        say(f"connector {connector.name}: created")
    else:
        changed = sorted(
            key for key in current.keys() | connector.config if current.get(key) != connector.config.get(key)
        )
        say(f"connector {connector.name}: changed {', '.join(changed)}")


def await_running(connect: ConnectApi, connector: Connector, *, give_up_at: float) -> None:
    """Return when the connector and its task have run for a moment.

    Raises:
        ConnectorFailed: it failed, was halted by somebody, or does not run until `give_up_at`.
    """
    last, since = Status((), None), time.monotonic()
    while True:
        status = patiently(lambda: connect.status(connector.name), give_up_at)
        now = time.monotonic()
        if status != last:
            last, since = status, now
        elif now - since >= _SETTLED_AFTER_S and _is_final(connector, status):
            return
        if now >= give_up_at:
            states = ", ".join(status.states) or "unknown"
            raise ConnectorFailed(
                f"connector {connector.name} does not run; its states (its own, then its task's) are: {states}."
                " Connect's log says why; debezium/README.md says what to do."
            )
        time.sleep(_RETRY_AFTER_S)


def patiently(ask: Callable[[], T], give_up_at: float) -> T:
    """Ask until Connect answers.

    Raises:
        ConnectorFailed: it does not until `give_up_at`, or refuses.
    """
    while True:
        try:
            return ask()
        except ConnectRefused as error:
            raise ConnectorFailed(f"Connect refuses: {error}") from error
        except ConnectUnavailable as error:
            if time.monotonic() + _RETRY_AFTER_S >= give_up_at:
                raise ConnectorFailed(str(error)) from error
            time.sleep(_RETRY_AFTER_S)


def _is_final(connector: Connector, status: Status) -> bool:
    """Tell whether the connector runs; raise if it will not by itself."""
    if status.trace is not None:
        raise ConnectorFailed(f"connector {connector.name} failed: {_reason(status.trace)}")
    if _HALTED.intersection(status.states):
        raise ConnectorFailed(
            f"connector {connector.name} is {status.states[0]}: somebody halted it. Resume it by"
            f" PUT /connectors/{connector.name}/resume."
        )
    return status.runs


def _reason(trace: str) -> str:
    """Return a trace's first line, and the cause at its root."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    causes = [line for line in lines[1:] if line.startswith("Caused by:")]
    return " / ".join([*lines[:1], *causes[-1:]])
