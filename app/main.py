"""create_app(): settings, resources, services, routers, problem handlers."""

import gc
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import fastapi_offline
import structlog
from clickhouse_connect.driver.client import Client
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from app.api import ROUTERS
from app.assignments.schemas import ImportRowIn
from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.errors import Unauthenticated
from app.core.health import Health, Readiness, readiness
from app.core.metrics import Metrics
from app.core.problems import Problem, documented, install_problem_handlers
from app.core.redis import RedisAid
from app.core.requests import RequestObservation
from app.core.routes import API_PREFIX
from app.core.settings import Settings
from app.events.schemas import EventIn
from app.lane import FastLane
from app.services import Resources, build_services

log = structlog.get_logger()
VERSION = "0.1.0"
_ASSETS = Path(fastapi_offline.__file__).parent / "static"
# As Pydantic makes them unique, as in `app__results__schemas__MetricOut`.
_LONG_NAME = re.compile(r"app__(?P<context>[a-z]+)__\w+?__(?P<name>[A-Z]\w*)")
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
    _add_documentation(api)
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


def _add_documentation(api: FastAPI) -> None:
    """Serve the schema and the UI from this process alone: they work without internet and without a token."""
    api.mount(f"{API_PREFIX}/docs/assets", StaticFiles(directory=_ASSETS), name="docs-assets")

    def document() -> dict[str, Any]:
        if api.openapi_schema is None:
            api.openapi_schema = _openapi(api)
        return api.openapi_schema

    @api.get(f"{API_PREFIX}/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(document())

    @api.get(f"{API_PREFIX}/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        assets = f"{API_PREFIX}/docs/assets"
        return get_swagger_ui_html(
            openapi_url=f"{API_PREFIX}/openapi.json",
            title=api.title,
            swagger_js_url=f"{assets}/swagger-ui-bundle.js",
            swagger_css_url=f"{assets}/swagger-ui.css",
            swagger_favicon_url=f"{assets}/favicon.png",
            swagger_ui_parameters={"persistAuthorization": True, "tryItOutEnabled": True},
        )


def _openapi(api: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=api.title,
        version=api.version,
        description=api.description,
        routes=api.routes,
        # What is sent and what is answered are models of their own already; only enumerations are in both.
        separate_input_output_schemas=False,
    )
    # These are referred to by name only: problems by every route, rows by batches that judge them one by one.
    _, extra = models_json_schema(
        [(model, "validation") for model in (Problem, EventIn, ImportRowIn)],
        ref_template="#/components/schemas/{model}",
    )
    document["components"]["schemas"] |= extra["$defs"]
    for unused in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)
    _put_examples_back(document["components"]["schemas"])
    return _with_short_names(document)


def _put_examples_back(schemas: dict[str, Any]) -> None:
    """Give examples their nulls again, which FastAPI leaves out of all that it documents."""
    examples = {
        (model.__name__, frozenset(model.model_fields)): extra["examples"]
        for model in _models(BaseModel)
        if isinstance(extra := model.model_config.get("json_schema_extra"), dict) and "examples" in extra
    }
    for schema in schemas.values():
        if "examples" in schema:
            schema["examples"] = examples.get((schema["title"], frozenset(schema["properties"])), schema["examples"])


def _models(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _with_short_names(document: dict[str, Any]) -> dict[str, Any]:
    """Name schemas whose names two contexts have by the context alone: `ResultsMetricOut`, and not by their module."""

    def short(found: re.Match[str]) -> str:
        return found["context"].capitalize() + found["name"]

    renamed: dict[str, Any] = json.loads(_LONG_NAME.sub(short, json.dumps(document)))
    return renamed


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
