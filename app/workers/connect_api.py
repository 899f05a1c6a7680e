"""Kafka Connect's REST interface, as far as one connector needs it."""

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TIMEOUT_S = 30.0
# The group of workers is being put together anew, or the worker is not up yet: asking again helps.
_NOT_NOW = frozenset(
    {http.HTTPStatus.CONFLICT, http.HTTPStatus.SERVICE_UNAVAILABLE, http.HTTPStatus.INTERNAL_SERVER_ERROR}
)


class ConnectUnavailable(Exception):
    """Connect cannot be reached or is busy; the message says how it looked."""


class ConnectRefused(Exception):
    """Connect understood and said no; the message is Connect's own, on one line."""


@dataclass(frozen=True, slots=True)
class Status:
    """A connector's state and those of its tasks, with the trace of the first that failed."""

    states: tuple[str, ...]
    trace: str | None

    @property
    def runs(self) -> bool:
        """Whether the connector and at least one task run, and nothing does not."""
        return len(self.states) > 1 and set(self.states) == {"RUNNING"}


class ConnectApi:
    """A worker's REST interface; any worker of the group will do.

    Every method raises `ConnectUnavailable` when asking again may help, and otherwise `ConnectRefused`.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def find_config(self, connector: str) -> dict[str, str] | None:
        """Return the connector's configuration as it was given, or `None` if there is no such connector."""
        config: dict[str, str] | None = self._ask("GET", f"/connectors/{_quoted(connector)}/config")
        if config is not None:
            config.pop("name", None)
        return config

    def put_config(self, connector: str, config: Mapping[str, str]) -> None:
        """Create the connector or change it; Connect checks the configuration first."""
        self._ask("PUT", f"/connectors/{_quoted(connector)}/config", config)

    def create_stopped(self, connector: str, config: Mapping[str, str]) -> None:
        """Create the connector without starting it."""
        self._ask("POST", "/connectors", {"name": connector, "config": config, "initial_state": "STOPPED"})

    def stop(self, connector: str) -> None:
        """Shut the connector's tasks down and keep its configuration and offsets."""
        self._ask("PUT", f"/connectors/{_quoted(connector)}/stop")

    def resume(self, connector: str) -> None:
        self._ask("PUT", f"/connectors/{_quoted(connector)}/resume")

    def restart_failed(self, connector: str) -> None:
        self._ask("POST", f"/connectors/{_quoted(connector)}/restart?includeTasks=true&onlyFailed=true")

    def status(self, connector: str) -> Status:
        """Return how the connector is; one that Connect has not got round to yet has no states."""
        answer = self._ask("GET", f"/connectors/{_quoted(connector)}/status")
        if answer is None:
            return Status((), None)
        parts = [answer["connector"], *answer["tasks"]]
        traces = [part.get("trace") or part["state"] for part in parts if part["state"] == "FAILED"]
        return Status(tuple(part["state"] for part in parts), traces[0] if traces else None)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401  # JSON.
        """Return the answer; `None` for what does not exist and for an empty answer."""
        request = urllib.request.Request(  # noqa: S310  # The settings allow http and https alone.
            self._url + path,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Content-Type": "application/json", "Accept": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
                said = response.read()
        except urllib.error.HTTPError as error:
            return _refusal(error)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ConnectUnavailable(f"Connect at {self._url} does not answer: {reason}") from error
        return json.loads(said) if said else None


def _refusal(error: urllib.error.HTTPError) -> None:
    """Raise what an error status means; a missing connector is an answer like any other."""
    with error:
        said = error.read().decode(errors="replace")
    try:
        message = str(json.loads(said)["message"])
    except (ValueError, KeyError, TypeError):
        message = said
    message = " ".join(message.split()) or f"HTTP status {error.code}"
    if error.code == http.HTTPStatus.NOT_FOUND:
        return
    if error.code in _NOT_NOW:
        raise ConnectUnavailable(message) from error
    raise ConnectRefused(message) from error


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")
