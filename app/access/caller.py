"""The caller of a request: what its token allows, and in which project."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from app.access.scopes import Scope


@dataclass(frozen=True, slots=True)
class Identity:
    """A valid token: `project_id` is `None` when it may act in every project."""

    token_id: int | None
    name: str
    scopes: frozenset[Scope]
    project_id: int | None
    client_key: str


@dataclass(frozen=True, slots=True)
class Caller:
    """An admitted request's token, project and id."""

    identity: Identity
    project_id: int
    request_id: str

    @property
    def actor(self) -> str:
        """How the audit log names who did it."""
        token_id = self.identity.token_id
        return f"token:{token_id}" if token_id is not None else f"bootstrap:{self.identity.name}"


def caller_of(request: Request) -> Caller:
    """Return whom the route's guard admitted."""
    caller = request.state.caller
    assert isinstance(caller, Caller)  # noqa: S101  # Set by the guard of every route that asks for it.
    return caller


CurrentCaller = Annotated[Caller, Depends(caller_of)]
