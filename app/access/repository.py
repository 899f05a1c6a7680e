"""SQL of projects, tokens and the audit log."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, Text, cast, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.access.audit_chain import GENESIS, ChainedEntry
from app.access.details import read_details
from app.access.models import api_tokens, audit_heads, audit_log, projects
from app.access.scopes import Scope
from app.access.values import AuditEntry, Project, StoredToken
from app.core.paging import PageRequest


class ProjectRepository:
    """Reads and writes projects."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def all(self) -> list[Project]:
        rows = await self._connection.execute(select(projects).order_by(projects.c.id.desc()))
        return [_project(row) for row in rows]

    async def list_(self, project_id: int | None, page: PageRequest) -> list[Project]:
        """Return up to `limit + 1` projects, newest first; one alone when `project_id` is given."""
        statement = select(projects).order_by(projects.c.id.desc()).limit(page.limit + 1)
        if project_id is not None:
            statement = statement.where(projects.c.id == project_id)
        if (after := page.after_id()) is not None:
            statement = statement.where(projects.c.id < after)
        return [_project(row) for row in await self._connection.execute(statement)]

    async def insert(self, key: str, name: str) -> Project | None:
        """Return the new project, or `None` when the key is taken."""
        statement = insert(projects).values(key=key, name=name).on_conflict_do_nothing().returning(projects)
        row = (await self._connection.execute(statement)).one_or_none()
        return None if row is None else _project(row)


class TokenRepository:
    """Reads and writes tokens; it sees hashes only."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find_valid(self, token_hash: bytes) -> StoredToken | None:
        """Return the token unless it is unknown or revoked; its expiry is the caller's to check."""
        statement = _TOKENS.where(api_tokens.c.token_hash == token_hash, api_tokens.c.revoked_at.is_(None))
        row = (await self._connection.execute(statement)).one_or_none()
        return None if row is None else _token(row)

    async def valid_hashes(self) -> frozenset[bytes]:
        """Return the hashes of all tokens that are not revoked."""
        statement = select(api_tokens.c.token_hash).where(api_tokens.c.revoked_at.is_(None))
        return frozenset((await self._connection.execute(statement)).scalars())

    async def any_exists(self) -> bool:
        return (await self._connection.execute(select(api_tokens.c.id).limit(1))).first() is not None

    async def insert(
        self,
        *,
        token_hash: bytes,
        name: str,
        scopes: Sequence[Scope],
        project_id: int | None,
        expires_at: datetime | None,
    ) -> StoredToken:
        statement = (
            insert(api_tokens)
            .values(
                token_hash=token_hash,
                name=name,
                scopes=[scope.value for scope in scopes],
                project_id=project_id,
                expires_at=expires_at,
            )
            .returning(api_tokens.c.id)
        )
        token_id = (await self._connection.execute(statement)).scalar_one()
        row = (await self._connection.execute(_TOKENS.where(api_tokens.c.id == token_id))).one()
        return _token(row)

    async def list_(self, project_id: int | None, page: PageRequest) -> list[StoredToken]:
        """Return up to `limit + 1` tokens of a project, or of all when `project_id` is `None`."""
        statement = _TOKENS.order_by(api_tokens.c.id.desc()).limit(page.limit + 1)
        if project_id is not None:
            statement = statement.where(api_tokens.c.project_id == project_id)
        if (after := page.after_id()) is not None:
            statement = statement.where(api_tokens.c.id < after)
        return [_token(row) for row in await self._connection.execute(statement)]

    async def revoke(self, token_id: int, project_id: int | None) -> StoredToken | None:
        """Revoke the token if it is within reach; a second time changes nothing."""
        statement = (
            update(api_tokens)
            .where(api_tokens.c.id == token_id)
            .values(revoked_at=text("coalesce(revoked_at, clock_timestamp())"))
            .returning(api_tokens.c.id)
        )
        if project_id is not None:
            statement = statement.where(api_tokens.c.project_id == project_id)
        if (await self._connection.execute(statement)).one_or_none() is None:
            return None
        row = (await self._connection.execute(_TOKENS.where(api_tokens.c.id == token_id))).one()
        return _token(row)


class AuditRepository:
    """Appends to the audit log, and reads it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def append(
        self,
        *,
        project_id: int | None,
        actor: str,
        request_id: str,
        action: str,
        subject: str,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Record who did what, in the transaction that does it."""
        await self._connection.execute(
            insert(audit_log).values(
                project_id=project_id,
                actor=actor,
                request_id=request_id,
                action=action,
                subject=subject,
                details=dict(details or {}),
            )
        )

    async def list_(self, project_id: int | None, subject: str | None, page: PageRequest) -> list[AuditEntry]:
        """Return up to `limit + 1` entries of a project, or of all when `project_id` is `None`, newest first."""
        statement = _ENTRIES.order_by(audit_log.c.id.desc()).limit(page.limit + 1)
        if project_id is not None:
            statement = statement.where(audit_log.c.project_id == project_id)
        if subject is not None:
            statement = statement.where(audit_log.c.subject == subject)
        if (after := page.after_id()) is not None:
            statement = statement.where(audit_log.c.id < after)
        return [
            AuditEntry(
                id=row.id,
                at=row.at,
                actor=row.actor,
                action=row.action,
                subject=row.subject,
                request_id=row.request_id,
                details=read_details(row.details),
                position=row.position,
                hash=row.hash,
            )
            for row in await self._connection.execute(statement)
        ]

    async def details_of(self, project_id: int, subject: str, actions: Collection[str]) -> list[tuple[str, object]]:
        """Return action and details of the subject's entries with one of these actions, the oldest first."""
        statement = (
            select(audit_log.c.action, _DETAILS)
            .where(
                audit_log.c.project_id == project_id,
                audit_log.c.subject == subject,
                audit_log.c.action.in_(sorted(actions)),
            )
            .order_by(audit_log.c.id)
        )
        return [(row.action, read_details(row.details)) for row in await self._connection.execute(statement)]

    async def hold_still(self) -> None:
        """Have all that follows in this transaction read one state; nothing must have been read before."""
        await self._connection.execute(_ONE_SNAPSHOT)

    async def head(self, project_id: int | None) -> tuple[int, bytes]:
        """Return how many entries the project's chain has, and the hash of the last; `None`: without a project."""
        statement = select(audit_heads).where(audit_heads.c.chain == (project_id or _NO_PROJECT))
        row = (await self._connection.execute(statement)).one_or_none()
        return (0, GENESIS) if row is None else (row.entries, row.hash)

    async def chain(self, project_id: int | None) -> AsyncIterator[ChainedEntry]:
        """Give the entries of a chain in their order, those without a position last, a batch at a time."""
        mine = audit_log.c.project_id.is_(None) if project_id is None else audit_log.c.project_id == project_id
        place = tuple_(audit_log.c.position, audit_log.c.id)
        chained = _ENTRIES.where(mine).order_by(audit_log.c.position, audit_log.c.id)
        async for entry in self._batches(
            chained.where(audit_log.c.position.is_not(None)), lambda last: place > (last.position, last.id)
        ):
            yield entry
        astray = _ENTRIES.where(mine, audit_log.c.position.is_(None)).order_by(audit_log.c.id)
        async for entry in self._batches(astray, lambda last: audit_log.c.id > last.id):
            yield entry

    async def _batches(
        self, statement: Select[Any], after: Callable[[ChainedEntry], ColumnElement[bool]]
    ) -> AsyncIterator[ChainedEntry]:
        following = statement
        while True:
            rows = (await self._connection.execute(following.limit(_CHAIN_BATCH))).mappings().all()
            entries = [ChainedEntry(**row) for row in rows]
            for entry in entries:
                yield entry
            if len(entries) < _CHAIN_BATCH:
                return
            following = statement.where(after(entries[-1]))


_ONE_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
# In `audit_heads`, where every chain has a number.
_NO_PROJECT = 0
# Checking a batch takes the processor for some milliseconds, in which nobody else is answered.
_CHAIN_BATCH = 500
# As text: it is what is hashed, and what somebody else wrote may be more than a JSON decoder takes.
_DETAILS = cast(audit_log.c.details, Text).label("details")
_ENTRIES = select(*(column for column in audit_log.c if column.name != "details"), _DETAILS)
_TOKENS = select(api_tokens, projects.c.key.label("project_key")).select_from(
    api_tokens.outerjoin(projects, projects.c.id == api_tokens.c.project_id)
)


def _token(row: Row[Any]) -> StoredToken:
    return StoredToken(
        id=row.id,
        project_id=row.project_id,
        project_key=row.project_key,
        name=row.name,
        scopes=tuple(Scope(scope) for scope in row.scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


def _project(row: Row[Any]) -> Project:
    return Project(id=row.id, key=row.key, name=row.name, created_at=row.created_at)
