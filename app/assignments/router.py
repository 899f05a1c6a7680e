"""Endpoints for assignments: one user, many, overrides, imports, lists."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import Body, Query, Response
from pydantic import Discriminator, Tag

from app.access.caller import Caller, CurrentCaller
from app.access.guard import GUARDED, WITH_BODY, requires
from app.access.scopes import Scope
from app.assignments.errors import ImportClosed, OverrideClosed, OverrideNotFound
from app.assignments.schemas import (
    AssignIn,
    AssignmentOut,
    BulkForExperimentIn,
    BulkForUserIn,
    BulkOut,
    ImportIn,
    ImportRowIn,
    OverrideIn,
    StoredAssignmentList,
    StoredAssignmentOut,
)
from app.assignments.values import Answer, Question
from app.assignments.wiring import Assignments, Overrides, UserIdInPath
from app.core import routes
from app.core.errors import TAG_PREFIX
from app.core.paging import Paging
from app.core.problems import documented, problem_of
from app.core.routes import MAX_BATCH_BODY_BYTES, MAX_BODY_KEY
from app.core.rows import BatchOut, valid_rows
from app.experiments.errors import ExperimentNotFound
from app.experiments.values import Experiment
from app.experiments.wiring import ExperimentReference, Experiments

router = routes.router(tags=["assignments"])
_TRAFFIC = [requires(Scope.ASSIGNMENTS, is_traffic=True)]
_encode = msgspec.json.Encoder().encode
NO_STORE = {"Cache-Control": "no-store"}
# What a caller sent as a number, or might have: it is told so again.
_IS_ID = re.compile(r"0|[1-9][0-9]{0,17}")


class _FailedItem(msgspec.Struct, frozen=True):
    experiment_id: int | str
    user_id: str
    error: dict[str, Any]


@router.get(
    "/experiments/{experiment}/assignment/{user_id:user_id}",
    response_model=AssignmentOut,
    dependencies=_TRAFFIC,
    responses=documented(*GUARDED, ExperimentNotFound),
)
async def get_assignment(
    experiment: ExperimentReference,
    user_id: UserIdInPath,
    caller: CurrentCaller,
    experiments: Experiments,
    assignments: Assignments,
    *,
    enroll: Annotated[bool, Query(description="false: never store, only look or preview.")] = True,
) -> Response:
    """Return the user's variant; the first call stores it, later calls give the same one for ever."""
    found = await experiments.get(caller, experiment)
    return _json(await assignments.answer(Question(found, user_id, enroll=enroll)))


@router.post(
    "/assignments",
    response_model=AssignmentOut,
    dependencies=_TRAFFIC,
    responses=documented(*WITH_BODY, ExperimentNotFound),
)
async def assign(body: AssignIn, caller: CurrentCaller, experiments: Experiments, assignments: Assignments) -> Response:
    """Return the user's variant, with a context that is stored with a new assignment."""
    found = await experiments.get(caller, body.experiment)
    return _json(await assignments.answer(Question(found, body.user_id, enroll=body.enroll, context=body.context)))


def _form_of(body: object) -> str:
    has_users = "user_ids" in body if isinstance(body, dict) else isinstance(body, BulkForExperimentIn)
    return f"{TAG_PREFIX}users" if has_users else f"{TAG_PREFIX}user"


Bulk = Annotated[
    Annotated[BulkForUserIn, Tag(f"{TAG_PREFIX}user")] | Annotated[BulkForExperimentIn, Tag(f"{TAG_PREFIX}users")],
    Discriminator(_form_of),
]


@router.post(
    "/assignments/bulk",
    response_model=BulkOut,
    dependencies=_TRAFFIC,
    responses=documented(*WITH_BODY, ExperimentNotFound),
    openapi_extra={MAX_BODY_KEY: MAX_BATCH_BODY_BYTES},
)
async def assign_many(
    body: Annotated[Bulk, Body()], caller: CurrentCaller, experiments: Experiments, assignments: Assignments
) -> Response:
    """Answer for one user in many experiments, or for many users in one."""
    match body:
        case BulkForExperimentIn():
            found = await experiments.get(caller, body.experiment)
            questions = [Question(found, user_id, enroll=body.enroll) for user_id in body.user_ids]
            return _json({"assignments": await assignments.answer_many(questions)})
        case BulkForUserIn():
            return _json({"assignments": await _for_user(body, caller, experiments, assignments)})


async def _for_user(
    body: BulkForUserIn, caller: Caller, experiments: Experiments, assignments: Assignments
) -> list[Answer | _FailedItem]:
    if body.experiment_ids is None:
        enroll = bool(body.enroll)
        running = await experiments.running(caller)
        return [*await assignments.answer_many([_question(item, body, enroll=enroll) for item in running])]
    enroll = body.enroll is not False
    known = [await experiments.find(caller, reference) for reference in body.experiment_ids]
    answers = iter(
        await assignments.answer_many([_question(item, body, enroll=enroll) for item in known if item is not None])
    )
    return [
        next(answers) if item is not None else _unknown(reference, body.user_id)
        for reference, item in zip(body.experiment_ids, known, strict=True)
    ]


def _question(experiment: Experiment, body: BulkForUserIn, *, enroll: bool) -> Question:
    return Question(experiment, body.user_id, enroll=enroll, context=body.context)


def _unknown(reference: str, user_id: str) -> _FailedItem:
    asked: int | str = int(reference) if _IS_ID.fullmatch(reference) else reference
    return _FailedItem(asked, user_id, problem_of(ExperimentNotFound(reference)))


@router.get(
    "/experiments/{experiment}/assignments",
    dependencies=[requires(Scope.RESULTS)],
    responses=documented(*GUARDED, ExperimentNotFound),
)
async def list_assignments(
    experiment: ExperimentReference,
    caller: CurrentCaller,
    experiments: Experiments,
    assignments: Assignments,
    paging: Paging,
    variant: Annotated[str | None, Query(max_length=64, description="Only those of this variant (key).")] = None,
) -> StoredAssignmentList:
    """List stored assignments, the last stored first."""
    found = await experiments.get(caller, experiment)
    page = await assignments.list_(found, variant, paging)
    keys = {item.id: item.key for item in found.variants}
    return StoredAssignmentList(
        items=[
            StoredAssignmentOut(
                user_id=item.user_id,
                variant=keys[item.variant_id],
                source=item.source,
                version=item.version,
                context=dict(item.context) if item.context is not None else None,
                assigned_at=item.assigned_at,
            )
            for item in page.items
        ],
        next_cursor=page.next_cursor,
    )


@router.post(
    "/experiments/{experiment}/assignments/import",
    dependencies=[requires(Scope.EXPERIMENTS_WRITE, is_traffic=True)],
    responses=documented(*WITH_BODY, ExperimentNotFound, ImportClosed),
    openapi_extra={MAX_BODY_KEY: MAX_BATCH_BODY_BYTES},
)
async def import_assignments(
    experiment: ExperimentReference,
    body: ImportIn,
    caller: CurrentCaller,
    experiments: Experiments,
    assignments: Assignments,
) -> BatchOut:
    """Take over assignments decided elsewhere, with their own past times."""
    found = await experiments.get(caller, experiment)
    rows, errors = valid_rows(ImportRowIn, body.assignments)
    errors += await assignments.import_rows(caller, found, [row.at(index) for index, row in rows])
    errors.sort(key=lambda error: error.index)
    accepted = len(body.assignments) - len(errors)
    return BatchOut(accepted=accepted, duplicates=0, rejected=len(errors), errors=errors)


@router.put(
    "/experiments/{experiment}/overrides/{user_id:user_id}",
    response_model=AssignmentOut,
    dependencies=[requires(Scope.EXPERIMENTS_WRITE, is_traffic=True)],
    responses=documented(*WITH_BODY, ExperimentNotFound, OverrideClosed),
)
async def put_override(
    experiment: ExperimentReference,
    user_id: UserIdInPath,
    body: OverrideIn,
    caller: CurrentCaller,
    experiments: Experiments,
    overrides: Overrides,
) -> Response:
    """Force a variant for one user; such users are left out of results unless asked for."""
    found = await experiments.get(caller, experiment)
    return _json(await overrides.put(caller, found, user_id, body.variant))


@router.delete(
    "/experiments/{experiment}/overrides/{user_id:user_id}",
    status_code=204,
    dependencies=[requires(Scope.EXPERIMENTS_WRITE, is_traffic=True)],
    responses=documented(*WITH_BODY, ExperimentNotFound, OverrideNotFound),
)
async def remove_override(
    experiment: ExperimentReference,
    user_id: UserIdInPath,
    caller: CurrentCaller,
    experiments: Experiments,
    overrides: Overrides,
) -> None:
    """Remove an override; the user's stored assignment is in force again."""
    found = await experiments.get(caller, experiment)
    await overrides.remove(caller, found, user_id)


def _json(answer: Answer | dict[str, Sequence[Answer | _FailedItem]]) -> Response:
    return Response(_encode(answer), media_type="application/json", headers=NO_STORE)
