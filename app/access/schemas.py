"""Requests and answers about tokens and projects."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.access.scopes import Scope
from app.access.values import AuditEntry, ChainReport, Flaw, Project, StoredToken
from app.core.moments import Moment
from app.core.names import KEY_FORM, Key, Name


def _each_once(scopes: list[Scope]) -> list[Scope]:
    return list(dict.fromkeys(scopes))


class TokenIn(BaseModel):
    """A token to make."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "shop backend", "scopes": ["assignments", "events"]}]},
    )

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

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": 2,
                    "name": "shop backend",
                    "scopes": ["assignments", "events"],
                    "project": "default",
                    "created_at": "2026-01-31T12:00:00.123456Z",
                    "expires_at": None,
                    "revoked_at": None,
                    "token": "exp_" + 43 * "x",
                }
            ]
        }
    )

    token: str


class TokenList(BaseModel):
    """One page of tokens."""

    items: list[TokenOut]
    next_cursor: str | None


class ProjectIn(BaseModel):
    """A project to make."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"key": "mobile", "name": "Mobile apps"}]}
    )

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
    """One page of projects."""

    items: list[ProjectOut]
    next_cursor: str | None


class AuditEntryOut(BaseModel):
    """Who did what. `subject` is `experiment:<id>`, `metric:<id>`, `token:<id>` or `project:<id>`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": 5,
                    "at": "2026-01-31T12:00:00.123456Z",
                    "actor": "token:1",
                    "action": "token.created",
                    "subject": "token:2",
                    "request_id": "701656d3ac78af8220e479c671c148ce",
                    "details": {"name": "shop backend", "scopes": ["assignments", "events"]},
                    "position": 4,
                    "hash": "39126e6747c3257e4f907fa82c3d0bc24b77525c130bb6d92bdc3324cf35db7f",
                }
            ]
        }
    )

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    request_id: str
    details: Annotated[
        dict[str, Any] | Any,
        Field(description="An object. Anything else was not written by the service, and the chain is broken there."),
    ]
    position: Annotated[int | None, Field(description="The entry's place in the chain of its project, from 1.")]
    hash: Annotated[str | None, Field(description="SHA-256 over the hash before it and this entry, in hexadecimal.")]

    @classmethod
    def of(cls, entry: AuditEntry) -> "AuditEntryOut":
        return cls(
            id=entry.id,
            at=entry.at,
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            request_id=entry.request_id,
            details=entry.details,
            position=entry.position,
            hash=None if entry.hash is None else entry.hash.hex(),
        )


class AuditList(BaseModel):
    """One page of the audit log."""

    items: list[AuditEntryOut]
    next_cursor: str | None


class Chain(StrEnum):
    """Which chain of the audit log."""

    PROJECT = "project"
    INSTALLATION = "installation"


class BreakOut(BaseModel):
    """Where a chain is broken first. `id` and `at` are null where no entry is left to be named."""

    id: int | None
    at: datetime | None
    reason: Flaw
    detail: str


class ChainReportOut(BaseModel):
    """What the recomputation of a chain found. `head` is the last entry's hash: keep it to ask for it later."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "valid": False,
                    "entries": 4,
                    "head": "39126e6747c3257e4f907fa82c3d0bc24b77525c130bb6d92bdc3324cf35db7f",
                    "first_broken": {
                        "id": 3,
                        "at": "2026-01-31T12:00:00.123456Z",
                        "reason": "CHANGED",
                        "detail": "entry 3, or the one before it, is not what was hashed",
                    },
                }
            ]
        }
    )

    valid: bool
    entries: int
    head: str | None
    first_broken: BreakOut | None

    @classmethod
    def of(cls, report: ChainReport) -> "ChainReportOut":
        broken = report.first_broken
        return cls(
            valid=broken is None,
            entries=report.entries,
            head=None if report.head is None else report.head.hex(),
            first_broken=None
            if broken is None
            else BreakOut(id=broken.id, at=broken.at, reason=broken.reason, detail=broken.detail),
        )
