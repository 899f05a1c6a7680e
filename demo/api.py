"""The service as a shop's backend talks to it: with a token, and with patience."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

_TIMEOUT_S = 60.0
# The service says how long to wait: 429 when a client is too fast, 503 when the database is away.
_WAITED_FOR = frozenset({429, 503})
_MOST_WAITS = 20

Json = dict[str, Any]


class DemoFailed(Exception):
    """The demo cannot go on; the message says what to do."""


class Shop:
    """A client of the service."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._client = httpx.Client(
            base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=_TIMEOUT_S
        )

    def close(self) -> None:
        self._client.close()

    def create_experiment(self, body: Json) -> Json:
        return self._send("POST", "/experiments", json=body)

    def assign(self, experiment: str, user_ids: Sequence[str]) -> list[Json]:
        """Assign up to 1,000 users; returns their assignments in the same order."""
        body = {"experiment": experiment, "user_ids": list(user_ids)}
        assignments: list[Json] = self._send("POST", "/assignments/bulk", json=body)["assignments"]
        return assignments

    def send_events(self, events: Sequence[Json]) -> Json:
        """Send up to 1,000 events; returns how many were accepted and how many were known."""
        outcome = self._send("POST", "/events/batch", json={"events": list(events)})
        if outcome["rejected"]:
            raise DemoFailed(f"the service rejected events: {outcome['errors'][:3]}")
        return outcome

    def results(self, experiment: str, **parameters: str | bool | Sequence[str]) -> Json:
        return self._send("GET", f"/experiments/{experiment}/results", params=parameters)

    def _send(
        self,
        method: str,
        path: str,
        *,
        json: Json | None = None,
        params: Mapping[str, str | bool | Sequence[str]] | None = None,
    ) -> Json:
        for _ in range(_MOST_WAITS):
            try:
                answer = self._client.request(method, path, json=json, params=params)
            except httpx.TransportError as error:
                raise DemoFailed(
                    f"no service answers at {self._url} ({error or type(error).__name__}). "
                    "Start it with `make run`, or say where it is with DEMO_URL."
                ) from error
            if answer.status_code not in _WAITED_FOR:
                return _body_of(answer)
            time.sleep(float(answer.headers.get("Retry-After", "1")))
        raise DemoFailed(f"{method} {path}: the service asked to wait {_MOST_WAITS} times")


def _body_of(answer: httpx.Response) -> Json:
    if answer.is_success:
        body: Json = answer.json()
        return body
    try:
        said = answer.json()["detail"]
    except (json.JSONDecodeError, KeyError, TypeError):
        said = answer.text[:200]
    hint = " Give a token of the service with --token or DEMO_TOKEN." if answer.status_code in {401, 403} else ""
    raise DemoFailed(f"{answer.request.method} {answer.request.url.path}: {answer.status_code}, {said}{hint}")


def url_from_environment() -> str:
    return os.environ.get("DEMO_URL") or f"http://127.0.0.1:{os.environ.get('PORT') or 8000}"


def token_from_environment() -> str:
    """Return DEMO_TOKEN, or the first token that the service itself is given.

    Raises:
        DemoFailed: there is none.
    """
    if token := os.environ.get("DEMO_TOKEN"):
        return token
    try:
        tokens = json.loads(os.environ.get("BEARER_TOKENS") or "[]")
    except json.JSONDecodeError:
        tokens = None
    if not isinstance(tokens, list) or not tokens:
        raise DemoFailed(
            "a token is needed: run `make demo DEMO_TOKEN=...` with the token that the service showed at its first"
            " start, or set BEARER_TOKENS as the service has it."
        )
    return str(tokens[0])
