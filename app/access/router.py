"""Endpoints for tokens and projects."""

import re
from typing import Annotated

from fastapi import Path, Query, Response
from pydantic import BeforeValidator

from app.access.caller import CurrentCaller
from app.access.errors import ProjectKeyTaken, TokenNotFound
from app.access.guard import GUARDED, WITH_BODY, requires
from app.access.schemas import (
    AuditEntryOut,
    AuditList,
    Chain,
    ChainReportOut,
    NewTokenOut,
    ProjectIn,
    ProjectList,
    ProjectOut,
    TokenIn,
    TokenList,
    TokenOut,
)
from app.access.scopes import Scope
from app.access.wiring import Access
from app.core import routes
from app.core.paging import Paging
from app.core.problems import documented

_MAX_ID = 2**63 - 1
_ID = re.compile("[1-9][0-9]*")


def _written_as_in_answers(token_id: str) -> str:
    """Take an id in the form that answers have it in: nobody revokes token 1 by `1.0`, `+1` or `01`."""
    if _ID.fullmatch(token_id) is None:
        raise ValueError("must be the token's id as answers have it, as in 7")
    return token_id


TokenId = Annotated[
    int,
    Path(ge=1, le=_MAX_ID, description="The token's `id`, not its secret."),
    BeforeValidator(_written_as_in_answers),
]

router = routes.router(tags=["access"])


@router.post(
    "/tokens",
    status_code=201,
    dependencies=[requires(Scope.ADMIN)],
    responses=documented(*WITH_BODY),
)
async def create_token(body: TokenIn, caller: CurrentCaller, access: Access, response: Response) -> NewTokenOut:
    """Make a token. Its secret is in this answer and nowhere else."""
    token, secret = await access.create_token(
        caller, name=body.name, scopes=body.scopes, expires_at=body.expires_at, project_key=body.project
    )
    response.headers["Cache-Control"] = "no-store"
    return NewTokenOut(**TokenOut.of(token).model_dump(), token=secret)


@router.get("/tokens", dependencies=[requires(Scope.ADMIN)], responses=documented(*GUARDED))
async def list_tokens(caller: CurrentCaller, access: Access, paging: Paging) -> TokenList:
    """List tokens without their secrets, revoked ones too."""
    page = await access.list_tokens(caller, paging)
    return TokenList(items=[TokenOut.of(token) for token in page.items], next_cursor=page.next_cursor)


@router.delete(
    "/tokens/{token_id}",
    status_code=204,
    dependencies=[requires(Scope.ADMIN)],
    responses=documented(*WITH_BODY, TokenNotFound),
)
async def revoke_token(
    token_id: TokenId,
    caller: CurrentCaller,
    access: Access,
) -> None:
    """Revoke a token, at once and in every process."""
    await access.revoke_token(caller, token_id)


@router.post(
    "/projects",
    status_code=201,
    dependencies=[requires(Scope.ADMIN)],
    responses=documented(*WITH_BODY, ProjectKeyTaken),
)
async def create_project(body: ProjectIn, caller: CurrentCaller, access: Access) -> ProjectOut:
    """Make a project: experiments, events and tokens of their own, invisible to all others."""
    return ProjectOut.of(await access.create_project(caller, key=body.key, name=body.name))


@router.get("/projects", dependencies=[requires(Scope.ADMIN)], responses=documented(*GUARDED))
async def list_projects(caller: CurrentCaller, access: Access, paging: Paging) -> ProjectList:
    """List the projects that the token may act in."""
    page = await access.list_projects(caller, paging)
    return ProjectList(items=[ProjectOut.of(project) for project in page.items], next_cursor=page.next_cursor)


@router.get("/audit", dependencies=[requires(Scope.ADMIN)], responses=documented(*GUARDED))
async def list_audit(
    caller: CurrentCaller,
    access: Access,
    paging: Paging,
    subject: Annotated[
        str | None, Query(pattern=r"^(experiment|metric|token|project):[0-9]{1,18}$", description="As in experiment:7.")
    ] = None,
) -> AuditList:
    """List who did what, newest first."""
    page = await access.list_audit(caller, subject, paging)
    return AuditList(items=[AuditEntryOut.of(entry) for entry in page.items], next_cursor=page.next_cursor)


@router.get(
    "/audit/verify",
    dependencies=[requires(Scope.ADMIN)],
    responses=documented(*GUARDED),
)
async def verify_audit(
    caller: CurrentCaller,
    access: Access,
    chain: Annotated[
        Chain,
        Query(
            description="`project`: the chain of the request's project. `installation`: that of entries without a"
            " project, which are those about tokens for all projects; it takes such a token."
        ),
    ] = Chain.PROJECT,
    head: Annotated[
        str | None,
        Query(pattern=r"^[0-9a-f]{64}$", description="A `head` of an earlier answer; it must still be in the chain."),
    ] = None,
) -> ChainReportOut:
    """Recompute the hashes of the audit log and say whether entries were changed, removed or slipped in."""
    remembered = None if head is None else bytes.fromhex(head)
    report = await access.verify_audit(caller, of_installation=chain is Chain.INSTALLATION, remembered=remembered)
    return ChainReportOut.of(report)
