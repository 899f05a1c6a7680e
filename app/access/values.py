"""Projects, tokens and entries of the audit log as values."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

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
    # A mapping, unless somebody put something else in its place.
    details: object
    # The entry's place in its chain, from 1, and the hash that covers it and all before it; `None` if somebody
    # wrote the entry past the chain.
    position: int | None
    hash: bytes | None


class Flaw(StrEnum):
    """What a chain of audit entries can suffer from."""

    CHANGED = "CHANGED"  # An entry's content does not have the hash that is stored.
    MISSING = "MISSING"  # Entries are gone before this one, or at the end.
    UNCHAINED = "UNCHAINED"  # An entry was written past the trigger that chains all of them.
    BEYOND_HEAD = "BEYOND_HEAD"  # The entries do not end where the chain's head says.
    HEAD_NOT_FOUND = "HEAD_NOT_FOUND"  # The hash that the caller remembers is not in the chain any more.


@dataclass(frozen=True, slots=True)
class Break:
    """The first place where a chain is broken; `id` and `at` are `None` where no entry is left to be named."""

    id: int | None
    at: datetime | None
    reason: Flaw
    detail: str


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What the recomputation of a chain found; `head` is the hash of its last entry, `None` of an empty chain."""

    entries: int
    head: bytes | None
    first_broken: Break | None
