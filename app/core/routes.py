"""The route class of every endpoint: admission first, then strict JSON, and of query parameters only what is known."""

import email.message
from collections.abc import Callable, Coroutine, Mapping
from enum import Enum
from typing import Any, Protocol, get_args, get_origin, runtime_checkable

from fastapi import APIRouter, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.responses import Response

from app.core.errors import BodyTooLarge, FieldProblem, Invalid, MalformedBody, UnsupportedMediaType
from app.core.json_body import decode_json

API_PREFIX = "/api/v1"
MAX_BODY_BYTES = 1024 * 1024
MAX_BODY_KEY = "x-max-body-bytes"
MAX_BATCH_BODY_BYTES = 8 * 1024 * 1024


@runtime_checkable
class Guard(Protocol):
    """A dependency that admits a request, or raises, before anything else of it is looked at."""

    async def admit(self, request: Request) -> None: ...


class StrictRoute(APIRoute):
    """Runs the route's guards before its body is read, and refuses what it does not know."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        dependencies: list[object] = [item.dependency for item in self.dependencies]
        guards = [item for item in dependencies if isinstance(item, Guard)]
        known = _query_parameters(self.dependant)
        open_prefix = (self.openapi_extra or {}).get("x-open-query-prefix")
        takes_body = self.body_field is not None
        max_body_bytes = (self.openapi_extra or {}).get(MAX_BODY_KEY, MAX_BODY_BYTES)

        async def handle_strictly(request: Request) -> Response:
            for guard in guards:
                await guard.admit(request)
            _refuse_query(request, known, open_prefix)
            if takes_body:
                _refuse_other_media(request)
                await _decode_strictly(request, max_body_bytes)
            elif request.method != "GET":
                await _refuse_body(request)
            return await handle(request)

        return handle_strictly


def router(*, tags: list[str | Enum]) -> APIRouter:
    """Make a router under the API's prefix whose routes are all strict."""
    return APIRouter(prefix=API_PREFIX, route_class=StrictRoute, tags=tags)


async def _decode_strictly(request: Request, max_bytes: int) -> None:
    """Read and decode the body our way; FastAPI finds both where Starlette keeps them."""
    body = await _read_body(request, max_bytes)
    request._body = body  # noqa: SLF001
    if body:
        request._json = decode_json(body)  # noqa: SLF001
    elif "content-type" in request.headers:
        raise MalformedBody("The body is empty, which is not JSON; send an object.")


async def _refuse_body(request: Request) -> None:
    """Refuse what would be ignored where nothing is taken.

    Null, and an object, a list or a text with nothing in it, say nothing: clients send them where they have nothing to
    say, and some languages write an empty object as an empty list.

    Raises:
        BodyTooLarge: nothing this long says nothing.
        UnsupportedMediaType: the body is no JSON by its own account.
        MalformedBody: it is none.
        Invalid: it holds anything.
    """
    body = await _read_body(request, MAX_BODY_BYTES)
    if not body.strip():
        return
    _refuse_other_media(request)
    sent = decode_json(body)
    nothing = "this path takes no body; remove it"
    if isinstance(sent, dict) and sent:
        raise Invalid([{"field": str(name), "detail": f"unknown field; {nothing}"} for name in sent])
    if sent not in (None, {}, [], ""):
        raise Invalid.field("body", nothing)


async def _read_body(request: Request, max_bytes: int) -> bytes:
    too_large = BodyTooLarge(f"The body must be at most {max_bytes} bytes.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)


def _query_parameters(dependant: Dependant) -> dict[str, bool]:
    """Return the names of the query parameters, and of each whether it may be given several times."""
    found = {field.alias: _is_list(field.field_info.annotation) for field in dependant.query_params}
    for inner in dependant.dependencies:
        found |= _query_parameters(inner)
    return found


def _is_list(annotation: object) -> bool:
    return get_origin(annotation) is list or any(get_origin(part) is list for part in get_args(annotation))


def _refuse_query(request: Request, known: Mapping[str, bool], open_prefix: str | None) -> None:
    """Refuse what would be ignored: parameters that the path does not know, and the first ones of repeated ones.

    Raises:
        Invalid: with every such parameter.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    allowed = f"allowed: {', '.join(sorted(known))}" if known else "this path takes none; remove it"
    problems: list[FieldProblem] = []
    for name in dict.fromkeys(names):
        if name not in known:
            # Parameters with the open prefix are the route's own to judge.
            if not (open_prefix and name.startswith(open_prefix)):
                problems.append({"field": name, "detail": f"unknown query parameter; {allowed}"})
        elif not known[name] and (given := names.count(name)) > 1:
            detail = f"is given {given} times, but has one value; give it once"
            problems.append({"field": name, "detail": detail})
    if problems:
        raise Invalid(problems)


def _refuse_other_media(request: Request) -> None:
    given = request.headers.get("content-type")
    message = email.message.Message()
    message["content-type"] = given or "application/json"
    if message.get_content_type() != "application/json":
        raise UnsupportedMediaType(f"Content-Type is {given!r}; send application/json.")
    charset = message.get_content_charset("utf-8")
    if charset.lower() not in {"utf-8", "utf8"}:
        raise UnsupportedMediaType(f"The charset is {charset!r}; send UTF-8.")
