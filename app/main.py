"""create_app(): settings, resources, services, routers, problem handlers."""

import gc
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from clickhouse_connect.driver.client import Client
from fastapi import FastAPI, Request, Response
from starlette.routing import Route

from app.api import ROUTERS
from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.errors import Unauthenticated
from app.core.health import Health, Readiness, readiness
from app.core.metrics import Metrics
from app.core.problems import documented, install_problem_handlers
from app.core.redis import RedisAid
from app.core.requests import RequestObservation
from app.core.settings import Settings
from app.documentation import add_documentation
from app.lane import FastLane
from app.services import Resources, build_services

VERSION = "0.1.0"
_PROMETHEUS = {"description": "In Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
_DESCRIPTION = "A/B tests over HTTP. Create an experiment, ask which variant a user gets, send events, read results."


def create_app(settings: Settings, *, connect_clickhouse: Callable[..., Client] | None = None) -> RequestObservation:
    """Build the application.

    Args:
        settings: with the addresses of PostgreSQL and Redis filled in.
        connect_clickhouse: makes clients of the engine in this process; `None` when a ClickHouse server is set.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        # Closes what is open, however far the start came.
        async with AsyncExitStack() as opened:
            resources = await _open_resources(settings, metrics, connect_clickhouse)
            opened.push_async_callback(resources.close)
            services = await build_services(resources, settings)
            opened.push_async_callback(services.stop)
            await services.start()
            api.state.services = services
            api.state.resources = resources
            # What lives as long as the process need not be looked at by every collection.
            gc.collect()
            gc.freeze()
            yield

    api = FastAPI(
        title="Experimentation Platform",
        version=VERSION,
        description=_DESCRIPTION,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,
    )
    for router in ROUTERS:
        api.include_router(router)
    add_documentation(api)
    _add_operations(api, settings, metrics)
    served = [*api.routes, *(route for router in ROUTERS for route in router.routes)]
    routes = [route for route in served if isinstance(route, Route)]
    install_problem_handlers(api, routes)
    return RequestObservation(FastLane(api), metrics, settings.observability)


async def _open_resources(
    settings: Settings, metrics: Metrics, connect_clickhouse: Callable[..., Client] | None
) -> Resources:
    assert settings.database.url is not None  # noqa: S101  # Filled in by the entry point.
    assert settings.redis.url is not None  # noqa: S101
    return Resources(
        database=Database.connect(settings.database.url, pool_size=settings.database.pool_size),
        redis=RedisAid.connect(settings.redis.url, pool_size=settings.redis.pool_size, metrics=metrics),
        # Last, because it alone may hold something open by now.
        clickhouse=await ClickHouse.over_engine(
            connect_clickhouse, settings.clickhouse.database, build_timeout_s=settings.clickhouse.build_timeout_s
        )
        if connect_clickhouse is not None
        else await ClickHouse.connect_server(settings.clickhouse),
        metrics=metrics,
    )


def _add_operations(api: FastAPI, settings: Settings, metrics: Metrics) -> None:
    @api.get("/health", tags=["operations"])
    async def health() -> Health:
        """Tell that the process answers; no dependency is touched."""
        return Health(status="ok")

    @api.get("/ready", tags=["operations"], responses={503: {"model": Readiness}})
    async def ready(request: Request, response: Response) -> Readiness:
        """Tell whether the servers that this one depends on answer."""
        resources: Resources = request.app.state.resources
        found = await readiness(resources.database, resources.redis, resources.clickhouse)
        if found.status == "unavailable":
            response.status_code = 503
        return found

    # Some load balancers probe with HEAD.
    api.head("/health", include_in_schema=False)(health)
    api.head("/ready", include_in_schema=False)(ready)

    if settings.observability.prometheus_enabled:

        @api.get(
            "/metrics",
            tags=["operations"],
            response_class=Response,
            responses={200: _PROMETHEUS, **documented(Unauthenticated)},
        )
        async def prometheus(request: Request) -> Response:
            """Prometheus metrics of this process."""
            token = settings.observability.metrics_token
            if token is not None and not _holds(request, token.get_secret_value()):
                raise Unauthenticated("Send the metrics token as 'Authorization: Bearer <METRICS_TOKEN>'.")
            pool = request.app.state.resources.database.pool
            metrics.pool_in_use.set(pool.checkedout())
            metrics.pool_size.set(pool.size())
            return Response(metrics.render(), media_type=metrics.content_type)


def _holds(request: Request, token: str) -> bool:
    """Tell whether the request bears the token, in a time that says nothing about how much of it is right."""
    given = request.headers.get("authorization", "")
    return secrets.compare_digest(given.encode(), f"Bearer {token}".encode())
