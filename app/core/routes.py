"""The route class of every endpoint: admission first, then strict JSON and no unknown query parameters."""

import email.message
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from fastapi import APIRouter, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.responses import Response

from app.core.errors import Invalid, UnsupportedMediaType
from app.core.json_body import decode_json

MAX_BODY_BYTES = 1024 * 1024
MAX_BATCH_BODY_BYTES = 8 * 1024 * 1024


class Guard(Protocol):
    """A dependency that admits a request, or raises, before anything else of it is looked at."""

    async def admit(self, request: Request) -> None: ...


class _StrictRequest(Request):
    async def json(self) -> Any:  # noqa: ANN401
        return decode_json(await self.body())


class StrictRoute(APIRoute):
    """Runs the route's guards before its body is read, and refuses what it does not know."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        guards: list[Guard] = [
            depends.dependency for depends in self.dependencies if hasattr(depends.dependency, "admit")
        ]
        known = _query_names(self.dependant)
        open_prefix = (self.openapi_extra or {}).get("x-open-query-prefix")
        takes_body = self.body_field is not None

        async def handle_strictly(request: Request) -> Response:
            for guard in guards:
                await guard.admit(request)
            _refuse_unknown_query(request, known, open_prefix)
            if takes_body:
                _refuse_other_media(request)
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


def router(**options: Any) -> APIRouter:  # noqa: ANN401  # The options are FastAPI's.
    """Make a router whose routes are all strict."""
    return APIRouter(route_class=StrictRoute, **options)


def _query_names(dependant: Dependant) -> frozenset[str]:
    names = {field.alias for field in dependant.query_params}
    for inner in dependant.dependencies:
        names |= _query_names(inner)
    return frozenset(names)


def _refuse_unknown_query(request: Request, known: frozenset[str], open_prefix: str | None) -> None:
    unknown = [
        name
        for name in dict.fromkeys(key for key, _ in request.query_params.multi_items())
        if name not in known and not (open_prefix and name.startswith(open_prefix))
    ]
    if unknown:
        allowed = ", ".join(sorted(known)) or "none"
        raise Invalid(
            [{"field": name, "detail": f"unknown query parameter; allowed: {allowed}"} for name in unknown]
        )


def _refuse_other_media(request: Request) -> None:
    given = request.headers.get("content-type")
    message = email.message.Message()
    message["content-type"] = given or "application/json"
    if message.get_content_type() != "application/json":
        raise UnsupportedMediaType(f"Content-Type is {given!r}; send application/json.")
    charset = message.get_content_charset("utf-8")
    if charset.lower() not in {"utf-8", "utf8"}:
        raise UnsupportedMediaType(f"The charset is {charset!r}; send UTF-8.")
