"""Use cases of access: make, list and revoke tokens; make and list projects."""

from collections.abc import Sequence
from datetime import datetime

from app.access.audit_chain import ChainCheck
from app.access.caller import Caller
from app.access.errors import ProjectKeyTaken, ProjectNotFound, TokenNotFound, WrongProject
from app.access.projects import Projects
from app.access.repository import AuditRepository, ProjectRepository, TokenRepository
from app.access.scopes import Scope
from app.access.tokens import TOPIC, hash_of, new_secret
from app.access.values import AuditEntry, ChainReport, Project, StoredToken
from app.core.changes import Changes
from app.core.clock import Clock, utc_now
from app.core.db import Database
from app.core.errors import Invalid
from app.core.paging import Page, PageRequest, page_of

ALL_PROJECTS = "*"


class AccessService:
    """Administers tokens and projects."""

    def __init__(self, *, database: Database, changes: Changes, projects: Projects, clock: Clock = utc_now) -> None:
        self._database = database
        self._changes = changes
        self._projects = projects
        self._clock = clock

    async def create_token(
        self,
        caller: Caller,
        *,
        name: str,
        scopes: Sequence[Scope],
        expires_at: datetime | None,
        project_key: str | None,
    ) -> tuple[StoredToken, str]:
        """Make a token; its secret is returned here and never again, and every process accepts it.

        Raises:
            Invalid: it would have expired already.
            ProjectNotFound: no project has this key.
            WrongProject: the caller's token may not act there.
        """
        if expires_at is not None and expires_at <= self._clock():
            raise Invalid.field("expires_at", "must lie in the future")
        project_id = await self._reachable_project(caller, project_key)
        secret = new_secret()
        async with self._database.begin() as connection:
            epoch = await self._changes.bump(connection, TOPIC)
            token = await TokenRepository(connection).insert(
                token_hash=hash_of(secret),
                name=name,
                scopes=scopes,
                project_id=project_id,
                expires_at=expires_at,
            )
            await AuditRepository(connection).append(
                project_id=project_id,
                actor=caller.actor,
                request_id=caller.request_id,
                action="token.created",
                subject=f"token:{token.id}",
                details={"name": name, "scopes": [scope.value for scope in scopes]},
            )
        await self._changes.settle(TOPIC, epoch)
        return token, secret

    async def create_first_token(self) -> str | None:
        """Make an administrator's token for a new installation; `None` when there are tokens already."""
        secret = new_secret()
        async with self._database.begin() as connection:
            tokens = TokenRepository(connection)
            if await tokens.any_exists():
                return None
            # Of two first starts at once the second waits here, and then sees what the first has made.
            await self._changes.bump(connection, TOPIC)
            if await tokens.any_exists():
                return None
            token = await tokens.insert(
                token_hash=hash_of(secret),
                name="first administrator",
                scopes=[Scope.ADMIN],
                project_id=None,
                expires_at=None,
            )
            await AuditRepository(connection).append(
                project_id=None,
                actor="installation",
                request_id="",
                action="token.created",
                subject=f"token:{token.id}",
            )
        return secret

    async def list_tokens(self, caller: Caller, page: PageRequest) -> Page[StoredToken]:
        async with self._database.read() as connection:
            rows = await TokenRepository(connection).list_(caller.identity.project_id, page)
        return page_of(rows, page, lambda token: token.id)

    async def revoke_token(self, caller: Caller, token_id: int) -> None:
        """Revoke a token; when this returns, no process accepts it any more.

        Raises:
            TokenNotFound: no such token within the caller's reach.
        """
        async with self._database.begin() as connection:
            epoch = await self._changes.bump(connection, TOPIC)
            token = await TokenRepository(connection).revoke(token_id, caller.identity.project_id)
            if token is None:
                raise TokenNotFound(f"No token has the id {token_id}.")
            await AuditRepository(connection).append(
                project_id=token.project_id,
                actor=caller.actor,
                request_id=caller.request_id,
                action="token.revoked",
                subject=f"token:{token_id}",
            )
        await self._changes.settle(TOPIC, epoch)

    async def create_project(self, caller: Caller, *, key: str, name: str) -> Project:
        """Make a project.

        Raises:
            ProjectKeyTaken: there is one with this key.
            WrongProject: the caller's token belongs to one project only.
        """
        _require_all_projects(caller)
        async with self._database.begin() as connection:
            project = await ProjectRepository(connection).insert(key, name)
            if project is None:
                raise ProjectKeyTaken(f"key: a project with the key {key!r} exists; choose another.")
            await AuditRepository(connection).append(
                project_id=project.id,
                actor=caller.actor,
                request_id=caller.request_id,
                action="project.created",
                subject=f"project:{project.id}",
            )
        return project

    async def list_projects(self, caller: Caller, page: PageRequest) -> Page[Project]:
        async with self._database.read() as connection:
            rows = await ProjectRepository(connection).list_(caller.identity.project_id, page)
        return page_of(rows, page, lambda project: project.id)

    async def list_audit(self, caller: Caller, subject: str | None, page: PageRequest) -> Page[AuditEntry]:
        async with self._database.read() as connection:
            rows = await AuditRepository(connection).list_(caller.identity.project_id, subject, page)
        return page_of(rows, page, lambda entry: entry.id)

    async def verify_audit(self, caller: Caller, *, of_installation: bool, remembered: bytes | None) -> ChainReport:
        """Recompute the chain of the request's project, or of the entries that belong to no project.

        Raises:
            WrongProject: entries without a project are for tokens of all projects.
        """
        if of_installation:
            _require_all_projects(caller)
        project_id = None if of_installation else caller.project_id
        check = ChainCheck(remembered=remembered)
        async with self._database.read() as connection:
            repository = AuditRepository(connection)
            await repository.hold_still()
            entries, head = await repository.head(project_id)
            async for entry in repository.chain(project_id):
                check.add(entry)
        return check.report(head_entries=entries, head_hash=head)

    async def _reachable_project(self, caller: Caller, key: str | None) -> int | None:
        if key is None:
            return caller.project_id
        if key == ALL_PROJECTS:
            _require_all_projects(caller)
            return None
        project = await self._projects.find(key)
        if project is None:
            raise ProjectNotFound(f"project: no project has the key {key!r}.")
        if caller.identity.project_id not in {None, project.id}:
            raise WrongProject("project: the token that you use belongs to another project.")
        return project.id


def _require_all_projects(caller: Caller) -> None:
    if caller.identity.project_id is not None:
        raise WrongProject("Only a token that belongs to all projects may do this.")
