"""The fast lane: the calls that come with every page view, answered in front of FastAPI.

It serves the plain form of three requests through the very gate, models and services that the ordinary routes
use. Whatever is out of the ordinary (another header, a query it does not know, a body that does not validate)
goes on to the ordinary route, which answers it; tests hold the two to the same answers.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.caller import Caller
from app.access.guard import ADMITTED, PROJECT_HEADER
from app.access.scopes import Scope as AccessScope
from app.assignments.schemas import AssignIn
from app.assignments.user_ids import MAX_USER_ID
from app.assignments.values import Question
from app.core.errors import AppError, Invalid
from app.core.json_body import decode_json
from app.core.names import REFERENCE_PATTERN
from app.core.problems import problem_response
from app.core.routes import API_PREFIX, MAX_BODY_BYTES
from app.core.text import is_storable
from app.events.schemas import EventIn
from app.services import Services

_EXPERIMENTS = f"{API_PREFIX}/experiments/"
_ASSIGNMENT = "/assignment/"
_GET_ROUTE = f"{API_PREFIX}/experiments/{{experiment}}/assignment/{{user_id:user_id}}"
_ASSIGN_ROUTE = f"{API_PREFIX}/assignments"
_EVENT_ROUTE = f"{API_PREFIX}/events"
_ENROLL = {b"": True, b"enroll=true": True, b"enroll=false": False}
_NOT_UTF8 = Invalid.field("path", "is not UTF-8 once its percent signs are decoded")
_REFERENCE = re.compile(REFERENCE_PATTERN)
_PROJECT = PROJECT_HEADER.encode()

_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")
_encode = msgspec.json.Encoder().encode

Reply = tuple[int, bytes]


class FastLane:
    """ASGI application: answers what it knows, and passes everything else on."""

    def __init__(self, api: FastAPI) -> None:
        self._api: ASGIApp = api
        self._state = api.state
        self._posts: dict[str, tuple[AccessScope, Callable[[Services, Caller, Any], Awaitable[Reply]]]] = {
            _ASSIGN_ROUTE: (AccessScope.ASSIGNMENTS, _assign),
            _EVENT_ROUTE: (AccessScope.EVENTS, _record),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if "\ufffd" in scope["path"] and not _is_utf8(scope["raw_path"]):
                await problem_response(_NOT_UTF8)(scope, _nothing_more, send)
                return
            if scope["method"] == "GET":
                if (asked := _assignment_asked(scope)) is not None:
                    reference, user_id, enroll = asked
                    await self._answer_assignment(scope, send, reference, user_id, enroll=enroll)
                    return
            elif scope["method"] == "POST" and scope["path"] in self._posts and _plain_length(scope) is not None:
                await self._answer_post(scope, receive, send)
                return
        await self._api(scope, receive, send)

    async def _answer_assignment(self, scope: Scope, send: Send, reference: str, user_id: str, *, enroll: bool) -> None:
        scope["lane_route"] = _GET_ROUTE
        services: Services = self._state.services
        try:
            caller = await _admit(services, scope, AccessScope.ASSIGNMENTS)
            experiment = services.registry.get(caller.project_id, reference)
            answer = await services.assignments.answer(Question(experiment, user_id, enroll=enroll))
        except AppError as error:
            await problem_response(error)(scope, _nothing_more, send)
            return
        await _send(send, 200, _encode(answer), [_JSON, _NO_STORE])

    async def _answer_post(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        services: Services = self._state.services
        access, handle = self._posts[path]
        try:
            caller = scope[ADMITTED] = await _admit(services, scope, access)
            body = await _read(receive, _plain_length(scope) or 0)
            status, payload = await handle(services, caller, decode_json(body))
        except ValidationError:
            await self._api(scope, _replay(body), send)  # It says what is wrong; the caller is admitted already.
            return
        except AppError as error:
            scope["lane_route"] = path
            await problem_response(error)(scope, _nothing_more, send)
            return
        scope["lane_route"] = path
        await _send(send, status, payload, [_JSON, _NO_STORE] if handle is _assign else [_JSON])


async def _assign(services: Services, caller: Caller, body: Any) -> Reply:  # noqa: ANN401  # Decoded JSON.
    asked = AssignIn.model_validate(body)
    await services.registry.ensure_fresh()  # The body may have taken its time.
    experiment = services.registry.get(caller.project_id, asked.experiment)
    question = Question(experiment, asked.user_id, enroll=asked.enroll, context=asked.context)
    return 200, _encode(await services.assignments.answer(question))


async def _record(services: Services, caller: Caller, body: Any) -> Reply:  # noqa: ANN401
    recorded = await services.events.record(caller.project_id, EventIn.model_validate(body).sent())
    return 201 if recorded.is_new else 200, _encode({"event_id": recorded.event_id, "status": recorded.status})


def _assignment_asked(scope: Scope) -> tuple[str, str, bool] | None:
    """Return reference, user id and `enroll` of a plain request for an assignment."""
    path: str = scope["path"]
    if not path.startswith(_EXPERIMENTS):
        return None
    reference, found, user_id = path[len(_EXPERIMENTS) :].partition(_ASSIGNMENT)
    enroll = _ENROLL.get(scope["query_string"])
    plain = (
        found
        and enroll is not None
        and 0 < len(user_id) <= MAX_USER_ID
        and is_storable(user_id)
        and _REFERENCE.fullmatch(reference) is not None
    )
    return (reference, user_id, bool(enroll)) if plain else None


async def _admit(services: Services, scope: Scope, access: AccessScope) -> Caller:
    authorization = project = None
    for name, value in scope["headers"]:
        if name == b"authorization" and authorization is None:
            authorization = value.decode("latin-1")
        elif name == _PROJECT and project is None:
            project = value.decode("latin-1")
    client = scope.get("client")
    return await services.gate.admit(
        authorization=authorization,
        project_key=project,
        address=client[0] if client else "unknown",
        scope=access,
        is_traffic=True,
        request_id=scope["request_id"],
    )


def _plain_length(scope: Scope) -> int | None:
    """Return the body's length when the request is a plain one with a body of JSON."""
    if scope["query_string"]:
        return None
    length = -1
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            length = int(value)
        elif (name == b"content-type" and value != _JSON[1]) or name == b"transfer-encoding":
            return None
    return length if 0 < length <= MAX_BODY_BYTES else None


async def _read(receive: Receive, length: int) -> bytes:
    body = b""
    while len(body) < length:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message.get("body", b"")
    return body


def _is_utf8(raw_path: bytes) -> bool:
    """Tell whether the path is text; servers put U+FFFD in place of bytes that are not, which would merge users."""
    try:
        unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        return False
    return True


def _replay(body: bytes) -> Receive:
    """Hand a body that has been read to the ordinary route."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return pending.pop() if pending else {"type": "http.disconnect"}

    return receive


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}


async def _send(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
