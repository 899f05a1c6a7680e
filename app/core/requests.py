"""What happens around every request: its id, its time, its metrics, its slow-request log."""

import os
import re
import time

import structlog
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.logging import REQUEST_ID
from app.core.metrics import Metrics
from app.core.problems import bug_response
from app.core.settings import ObservabilitySettings

log = structlog.get_logger()

# An id from outside ends up in logs and headers, so only harmless ones are taken over.
_ACCEPTABLE_ID = re.compile(rb"^[A-Za-z0-9._:/+=@-]{1,128}$")
REQUEST_ID_HEADER = b"x-request-id"
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def request_id_of(scope: Scope) -> str:
    """Return the caller's request id when it is harmless, otherwise a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID_HEADER:
            if _ACCEPTABLE_ID.match(value):
                return str(value.decode("ascii"))
            break
    return os.urandom(16).hex()


class RequestObservation:
    """Outermost ASGI layer: gives each request its id, and counts, times and logs it."""

    def __init__(self, app: ASGIApp, metrics: Metrics, settings: ObservabilitySettings) -> None:
        self._app = app
        self._metrics = metrics
        self._settings = settings
        # Looking labels up anew would cost more than all the rest here.
        self._meters: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = scope["request_id"] = request_id_of(scope)
        REQUEST_ID.set(request_id)
        status = 0

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID_HEADER, request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_observed)
        except Exception as error:  # noqa: BLE001  # The last resort of every request.
            # Starlette raises a failure again after it has answered it; then it is logged, and the client has its 500.
            if status == 0:
                await bug_response(scope, error)(scope, receive, send_observed)
        finally:
            self._record(scope, status or 500, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _KNOWN_METHODS else "OTHER"
        route = route_of(scope)
        requests, latency = self._meters.get((method, route, status)) or self._meter(method, route, status)
        requests.inc()
        if self._settings.timing_enabled:
            latency.observe(seconds)
            if seconds * 1000 >= self._settings.slow_api_threshold_ms:
                log.warning(
                    "request.slow",
                    method=method,
                    route=route,
                    status=status,
                    duration_ms=round(seconds * 1000, 1),
                )

    def _meter(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        meters = (
            self._metrics.requests.labels(method, route, str(status)),
            self._metrics.latency.labels(method, route),
        )
        self._meters[method, route, status] = meters
        return meters


def route_of(scope: Scope) -> str:
    """Return the route's template, never the path: ids of users do not belong in metrics."""
    return str(scope.get("lane_route") or getattr(scope.get("route"), "path", None) or "unmatched")
