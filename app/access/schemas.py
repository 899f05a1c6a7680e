"""Requests and answers about tokens and projects."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.access.scopes import Scope
from app.access.values import AuditEntry, Project, StoredToken
from app.core.moments import Moment
from app.core.names import KEY_FORM, Key, Name


def _each_once(scopes: list[Scope]) -> list[Scope]:
    return list(dict.fromkeys(scopes))


class TokenIn(BaseModel):
    """A token to make."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=20), AfterValidator(_each_once)]
    expires_at: Moment | None = None
    project: Annotated[
        str | None,
        Field(
            pattern=rf"^(\*|{KEY_FORM})$",
            description="The key of the token's project; `*` for all projects; left out: the request's project.",
        ),
    ] = None


class TokenOut(BaseModel):
    """A token without its secret. `project` is null when it may act in all projects."""

    id: int
    name: str
    scopes: list[Scope]
    project: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @classmethod
    def of(cls, token: StoredToken) -> "TokenOut":
        return cls(
            id=token.id,
            name=token.name,
            scopes=list(token.scopes),
            project=token.project_key,
            created_at=token.created_at,
            expires_at=token.expires_at,
            revoked_at=token.revoked_at,
        )


class NewTokenOut(TokenOut):
    """A new token; `token` is shown this once."""

    token: str


class TokenList(BaseModel):
    items: list[TokenOut]
    next_cursor: str | None


class ProjectIn(BaseModel):
    """A project to make."""

    model_config = ConfigDict(extra="forbid")

    key: Key
    name: Name


class ProjectOut(BaseModel):
    """A project."""

    id: int
    key: str
    name: str
    created_at: datetime

    @classmethod
    def of(cls, project: Project) -> "ProjectOut":
        return cls(id=project.id, key=project.key, name=project.name, created_at=project.created_at)


class ProjectList(BaseModel):
    items: list[ProjectOut]
    next_cursor: str | None


class AuditEntryOut(BaseModel):
    """Who did what. `subject` is `experiment:<id>`, `token:<id>` or `project:<id>`."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    request_id: str
    details: dict[str, Any]

    @classmethod
    def of(cls, entry: AuditEntry) -> "AuditEntryOut":
        return cls(
            id=entry.id,
            at=entry.at,
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            request_id=entry.request_id,
            details=dict(entry.details),
        )


class AuditList(BaseModel):
    items: list[AuditEntryOut]
    next_cursor: str | None
