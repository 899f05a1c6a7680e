"""`python -m app.workers.loader`: take Kafka's topics to the ClickHouse server, until told to stop.

Any number of these may run; they share the partitions.
"""

import argparse
import asyncio
import contextlib
import logging
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.core.clickhouse import ClickHouse
from app.core.errors import Unauthenticated
from app.core.listening import ListenFailed, listen
from app.core.logging import configure_logging
from app.core.metrics import Metrics
from app.core.problems import problem_response
from app.core.settings import Settings, SettingsError
from app.core.termination import obey_termination
from app.pipeline.consumer import Consumer

log = structlog.get_logger()

# For the last flush and for leaving Kafka, which are bounded, too. Whoever starts processes kills them after 30 s.
_STOP_S = 22.0


@dataclass(frozen=True, slots=True)
class _Parts:
    clickhouse: ClickHouse
    consumer: Consumer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop; returns the exit code."""
    argparse.ArgumentParser(
        prog="python -m app.workers.loader",
        description="Bring Kafka's messages to ClickHouse, as one of a group, until told to stop. It serves /health,"
        " /ready and /metrics on HOST:PORT; all settings are environment variables, see .env.example.",
    ).parse_args(arguments)
    obey_termination()
    try:
        settings = Settings.from_environment()
        brokers = _required("KAFKA_BOOTSTRAP_SERVERS", settings.kafka.bootstrap_servers)
        _required("CLICKHOUSE_HOST", settings.clickhouse.host)
        configure_logging(settings.observability.log_level, readable=sys.stderr.isatty())
        # It reports each attempt; the loader does once.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        with listen(settings.server.host, settings.server.port) as listener:
            return _serve(create_app(settings, brokers), listener)
    except (SettingsError, ListenFailed) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:  # Everything has ended in good order by now.
        return 0


def create_app(settings: Settings, brokers: str) -> Starlette:
    """Build the application that loads while it lives, and tells how it is."""
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        clickhouse = await ClickHouse.connect_server(settings.clickhouse)
        consumer = Consumer(brokers, clickhouse, settings.loader, metrics)
        app.state.parts = _Parts(clickhouse, consumer)
        loading = asyncio.create_task(consumer.run(), name="loader")
        try:
            yield
        finally:
            consumer.stop()
            await end(loading, within_s=_STOP_S)
            await clickhouse.close()

    return Starlette(
        routes=[Route("/health", _health), Route("/ready", _ready), *_metrics_routes(settings, metrics)],
        lifespan=lifespan,
    )


async def end(loading: asyncio.Task[None], *, within_s: float) -> None:
    """Wait for a consumer that was told to stop, and cancel it when that takes too long."""
    _, late = await asyncio.wait({loading}, timeout=within_s)
    if late:
        log.warning("loader.not_ended", after_s=within_s)
        loading.cancel()
    await asyncio.wait({loading})


async def _health(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _ready(request: Request) -> Response:
    parts: _Parts = request.app.state.parts
    answers = {"kafka": parts.consumer.working, "clickhouse": await parts.clickhouse.ping()}
    checks = {name: "ok" if up else "down" for name, up in answers.items()}
    ready = all(answers.values())
    return JSONResponse({"status": "ready" if ready else "unavailable", "checks": checks}, 200 if ready else 503)


def _metrics_routes(settings: Settings, metrics: Metrics) -> list[Route]:
    if not settings.observability.prometheus_enabled:
        return []
    token = settings.observability.metrics_token
    expected = None if token is None else f"Bearer {token.get_secret_value()}".encode()

    async def prometheus(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode()
        if expected is not None and not secrets.compare_digest(given, expected):
            return problem_response(
                Unauthenticated("Send the metrics token as 'Authorization: Bearer <METRICS_TOKEN>'.")
            )
        return Response(metrics.render(), media_type=metrics.content_type)

    return [Route("/metrics", prometheus)]


def _serve(app: Starlette, listener: socket.socket) -> int:
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="on", server_header=False, timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    return 0 if server.started else 1


def _required(name: str, value: str | None) -> str:
    if value is None:
        raise SettingsError(f"{name}: must be set; where it is not, the service brings rows to ClickHouse itself")
    return value


if __name__ == "__main__":
    sys.exit(main())
