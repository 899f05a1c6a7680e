"""The API's documentation, from this process alone: its OpenAPI document and the page that shows it."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import HTMLResponse, JSONResponse

from app.assignments.schemas import ImportRowIn
from app.core.problems import Problem
from app.core.routes import API_PREFIX
from app.events.schemas import EventIn

_ASSETS = Path(fastapi_offline.__file__).parent / "static"
# As Pydantic makes them unique, as in `app__results__schemas__MetricOut`.
_LONG_NAME = re.compile(r"app__(?P<context>[a-z]+)__\w+?__(?P<name>[A-Z]\w*)")


def add_documentation(api: FastAPI) -> None:
    """Serve the document and the page, which work without internet and without a token."""
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


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return how each schema is shown: one that two contexts have by context, `ResultsMetricOut`, and not by module.

    Raises:
        ValueError: two schemas would have one name, so that one of them would be lost.
    """
    taken: dict[str, str] = {}
    for name in names:
        found = _LONG_NAME.fullmatch(name)
        short = name if found is None else found["context"].capitalize() + found["name"]
        if (other := taken.setdefault(short, name)) != name:
            raise ValueError(f"schemas: {other} and {name} would both be shown as {short}; rename one of the models")
    return {name: short for short, name in taken.items()}


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
    return _renamed(document, short_names(document["components"]["schemas"]))


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


def _renamed(document: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the document with other names for its schemas, wherever it refers to them."""
    text = _LONG_NAME.sub(lambda found: names.get(found[0], found[0]), json.dumps(document))
    renamed: dict[str, Any] = json.loads(text)
    return renamed
