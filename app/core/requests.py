"""What happens around every request: its id, its time, its metrics, its slow-request log."""

import re
import time
from uuid import uuid4

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.metrics import Metrics
from app.core.settings import ObservabilitySettings

log = structlog.get_logger()

# An id from outside ends up in logs and headers, so only harmless ones are taken over.
_ACCEPTABLE_ID = re.compile(rb"^[A-Za-z0-9._:/+=@-]{1,128}$")
REQUEST_ID_HEADER = b"x-request-id"


def request_id_of(scope: Scope) -> str:
    """Return the caller's request id when it is harmless, otherwise a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID_HEADER:
            if _ACCEPTABLE_ID.match(value):
                return str(value.decode("ascii"))
            break
    return uuid4().hex


class RequestObservation:
    """Outermost ASGI layer: gives each request its id, and counts, times and logs it."""

    def __init__(self, app: ASGIApp, metrics: Metrics, settings: ObservabilitySettings) -> None:
        self._app = app
        self._metrics = metrics
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope["request_id"] = request_id_of(scope)
        started = time.perf_counter()
        status = 500

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_observed)
            finally:
                self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _KNOWN_METHODS else "OTHER"
        route = route_of(scope)
        self._metrics.requests.labels(method, route, str(status)).inc()
        if self._settings.timing_enabled:
            self._metrics.latency.labels(method, route).observe(seconds)
            if seconds * 1000 >= self._settings.slow_api_threshold_ms:
                log.warning(
                    "request.slow",
                    method=method,
                    route=route,
                    status=status,
                    duration_ms=round(seconds * 1000, 1),
                )


_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def route_of(scope: Scope) -> str:
    """Return the route's template, never the path: ids of users do not belong in metrics."""
    return str(getattr(scope.get("route"), "path", None) or "unmatched")
