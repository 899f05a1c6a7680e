"""Projects, tokens and entries of the audit log as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.access.scopes import Scope


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token as it is kept: without its secret."""

    id: int
    project_id: int | None
    project_key: str | None
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Project:
    """A tenant: experiments, events and most tokens belong to exactly one."""

    id: int
    key: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what to which subject, and under which request."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    request_id: str
    details: Mapping[str, Any]
