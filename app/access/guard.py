"""The guard of a route: token, scope, project and rate limit, before anything else of a request is read."""

from typing import Annotated

from fastapi import Header, Request
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.params import Depends
from fastapi.security.base import SecurityBase

from app.access.caller import Caller, Identity
from app.access.errors import InvalidToken, MissingScope, ProjectNotFound, WrongProject
from app.access.projects import Projects
from app.access.rate_limit import Limit, RateLimiter
from app.access.scopes import Scope
from app.access.tokens import Authenticator
from app.core.errors import (
    BodyTooLarge,
    Invalid,
    MalformedBody,
    RateLimited,
    Unavailable,
    UnsupportedMediaType,
)

PROJECT_HEADER = "x-project"
# What any guarded route may answer, and on top what any route may that can be sent a body: one that takes none looks
# whether it says anything.
GUARDED = (InvalidToken, MissingScope, WrongProject, ProjectNotFound, RateLimited, Unavailable, Invalid)
WITH_BODY = (*GUARDED, MalformedBody, BodyTooLarge, UnsupportedMediaType)
# Where the fast lane leaves the caller of a request that it has admitted and passes on.
ADMITTED = "admitted_caller"


class Gate:
    """Admits requests: the one path that ordinary routes and the fast lane share."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        projects: Projects,
        limiter: RateLimiter,
        management: Limit,
        traffic: Limit,
    ) -> None:
        self._authenticator = authenticator
        self._projects = projects
        self._limiter = limiter
        self._management = management
        self._traffic = traffic
        self._strangers = Limit("address", management.capacity, management.period_s)

    async def admit(
        self,
        *,
        authorization: str | None,
        project_key: str | None,
        address: str,
        scope: Scope,
        is_traffic: bool,
        request_id: str,
    ) -> Caller:
        """Return the caller.

        Raises:
            InvalidToken: no token, or one that is not valid.
            MissingScope: the token's scopes do not cover the route.
            WrongProject: the token belongs to another project than the one asked for.
            RateLimited: the client sends faster than its limit.
        """
        identity = await self._identify(authorization, address)
        await self._limiter.admit(self._traffic if is_traffic else self._management, identity.client_key)
        if scope not in identity.scopes:
            raise MissingScope(
                f"This needs the scope {scope.value}; the token has {_listed(identity)}.",
                required=scope.value,
            )
        return Caller(identity, await self._project_of(identity, project_key), request_id)

    async def _identify(self, authorization: str | None, address: str) -> Identity:
        try:
            return await self._authenticator.identify(_bearer(authorization))
        except InvalidToken:
            await self._limiter.admit(self._strangers, address)
            raise

    async def _project_of(self, identity: Identity, key: str | None) -> int:
        if key is None:
            return identity.project_id if identity.project_id is not None else self._projects.default_id
        project = await self._projects.find(key)
        if identity.project_id is None:
            if project is None:
                raise ProjectNotFound(f"X-Project: no project has the key {key[:64]!r}.")
            return project.id
        if project is None or project.id != identity.project_id:
            raise WrongProject("X-Project names a project that the token does not belong to; leave it out.")
        return project.id


_ProjectHeader = Annotated[
    str | None,
    Header(
        alias="X-Project",
        description="The key of the project to act in; left out: the token's own, or `default`.",
    ),
]


class _Require(SecurityBase):
    """Documents the scope in OpenAPI and is run by `StrictRoute` ahead of the body."""

    def __init__(self, scope: Scope, *, is_traffic: bool) -> None:
        self.scope = scope
        self._is_traffic = is_traffic
        self.model = HTTPBearerModel(description="A token of this service, made by `POST /api/v1/tokens`.")
        self.scheme_name = "bearer"

    async def admit(self, request: Request) -> None:
        if (admitted := request.scope.get(ADMITTED)) is not None:
            request.state.caller = admitted
            return
        gate: Gate = request.app.state.services.gate
        headers = request.headers
        request.state.caller = await gate.admit(
            authorization=headers.get("authorization"),
            project_key=headers.get(PROJECT_HEADER),
            address=request.client.host if request.client else "unknown",
            scope=self.scope,
            is_traffic=self._is_traffic,
            request_id=request.scope.get("request_id", ""),
        )

    def __call__(self, _project: _ProjectHeader = None) -> None:
        """Do nothing but document: `admit` has run by the time that FastAPI resolves dependencies."""


def requires(scope: Scope, *, is_traffic: bool = False) -> Depends:
    """Guard a route: `dependencies=[requires(Scope.EVENTS, is_traffic=True)]`."""
    return Depends(_Require(scope, is_traffic=is_traffic))


def _bearer(authorization: str | None) -> str:
    if authorization is None:
        raise InvalidToken("Send the header 'Authorization: Bearer <token>'.")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise InvalidToken("The Authorization header must read 'Bearer <token>'.")
    return token.strip()


def _listed(identity: Identity) -> str:
    return ", ".join(sorted(scope.value for scope in identity.scopes))
