"""The one place that renders `application/problem+json` (RFC 9457)."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from app.core.errors import AppError, Invalid, field_problem

log = structlog.get_logger()
MEDIA_TYPE = "application/problem+json"
_TYPE_BASE = "urn:experimentation:problem:"


class FieldProblemBody(BaseModel):
    """One field's problem."""

    field: str
    detail: str


class Problem(BaseModel):
    """What every error looks like."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": _TYPE_BASE + "validation-error",
                    "title": "The request is not valid",
                    "status": 422,
                    "detail": "name: must not be blank; give at least one visible character",
                    "errors": [{"field": "name", "detail": "must not be blank; give at least one visible character"}],
                }
            ]
        },
    )

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblemBody] | None = None


def problem_of(error: AppError) -> dict[str, Any]:
    """Describe an error as a problem object, for a whole answer or for one item of a bulk answer."""
    return {
        "type": _TYPE_BASE + error.slug,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        **error.extensions,
    }


def problem_response(error: AppError) -> Response:
    return Response(
        msgspec.json.encode(problem_of(error)),
        status_code=error.status,
        media_type=MEDIA_TYPE,
        headers=error.headers,
    )


def documented(*errors: type[AppError]) -> dict[int | str, dict[str, Any]]:
    """List errors for a route's `responses=`, several of one status together."""
    by_status: dict[int | str, list[str]] = {}
    for error in errors:
        by_status.setdefault(error.status, []).append(f"{error.title} (`{_TYPE_BASE}{error.slug}`)")
    return {
        status: {
            "description": "; ".join(titles),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, titles in by_status.items()
    }


def install_problem_handlers(app: FastAPI, routes: Sequence[Route]) -> None:
    """Answer every failure of `app`, expected or not, with a problem; `routes` are all that it serves."""

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101  # Registered for this class.
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_methods_of(request.url.path, routes))
        return _http_problem(request, error, headers)

    app.add_exception_handler(AppError, _on_app_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(Exception, _on_bug)


async def _on_app_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)  # noqa: S101  # Registered for this class.
    return problem_response(error)


async def _on_validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    return problem_response(Invalid([field_problem(item) for item in error.errors()]))


def _methods_of(path: str, routes: Sequence[Route]) -> list[str]:
    """Return the methods of all routes with this path; the framework names those of one only."""
    return sorted({method for route in routes if route.path_regex.match(path) for method in route.methods or ()})


def _http_problem(request: Request, error: HTTPException, headers: Mapping[str, str]) -> Response:
    status = error.status_code
    slug = {404: "route-not-found", 405: "method-not-allowed"}.get(status, "http-error")
    detail = {
        404: f"No such path: {request.url.path}. The paths are listed at /api/v1/openapi.json.",
        405: f"{request.method} is not allowed here, but {headers.get('Allow')}.",
    }.get(status, str(error.detail))
    return _plain_problem(status, slug, detail, headers)


async def _on_bug(request: Request, error: Exception) -> Response:
    return bug_response(request.scope, error)


def bug_response(scope: Scope, error: Exception) -> Response:
    """Log an unexpected error and describe it by the id under which it is logged."""
    request_id = scope.get("request_id", "")
    log.error("request.failed", path=scope["path"], exc_info=error)
    return _plain_problem(500, "internal-error", f"An unexpected error, logged under request id {request_id}.", {})


def _plain_problem(status: int, slug: str, detail: str, headers: Mapping[str, str]) -> Response:
    body = {"type": _TYPE_BASE + slug, "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return Response(msgspec.json.encode(body), status_code=status, media_type=MEDIA_TYPE, headers=dict(headers))
