"""Endpoints for assignments: one user, many, overrides, imports, lists."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import Body, Query, Response
from pydantic import Discriminator, Tag, ValidationError

from app.access.caller import Caller, CurrentCaller
from app.access.guard import requires
from app.access.router import GUARDED, WITH_BODY
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
from app.assignments.values import Answer, ImportRow, Question
from app.assignments.wiring import Assignments, UserIdInPath
from app.core import routes
from app.core.clock import utc_now
from app.core.errors import Invalid
from app.core.paging import Paging
from app.core.problems import TAG_PREFIX, documented, problem_of
from app.core.routes import MAX_BATCH_BODY_BYTES, MAX_BODY_KEY
from app.core.rows import BatchOut, RowCode, RowError, row_error
from app.experiments.errors import ExperimentNotFound
from app.experiments.values import Experiment, Variant
from app.experiments.wiring import ExperimentReference, Experiments

router = routes.router(tags=["assignments"])
_TRAFFIC = [requires(Scope.ASSIGNMENTS, is_traffic=True)]
_encode = msgspec.json.Encoder().encode
NO_STORE = {"Cache-Control": "no-store"}


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
    asked: int | str = int(reference) if reference.isdecimal() and len(reference) < 19 else reference
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
    wanted = _variant_named(found, variant, "variant") if variant is not None else None
    page = await assignments.list_(found, wanted, paging)
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
    rows: dict[int, ImportRow] = {}
    errors: list[RowError] = []
    for index, raw in enumerate(body.assignments):
        checked = _import_row(found, index, raw)
        if isinstance(checked, RowError):
            errors.append(checked)
        else:
            rows[index] = checked
    indices = list(rows)
    refused = await assignments.import_rows(caller, found, list(rows.values()))
    errors += [
        RowError(
            index=indices[position],
            code=RowCode.ALREADY_ASSIGNED,
            detail="user_id: the user is assigned in this experiment already; an assignment never changes",
        )
        for position in refused
    ]
    errors.sort(key=lambda error: error.index)
    return BatchOut(accepted=len(rows) - len(refused), duplicates=0, rejected=len(errors), errors=errors)


def _import_row(experiment: Experiment, index: int, raw: object) -> ImportRow | RowError:
    try:
        row = ImportRowIn.model_validate(raw)
    except ValidationError as error:
        return row_error(index, error)
    variant = experiment.variant_with_key(row.variant)
    if variant is None:
        keys = ", ".join(item.key for item in experiment.variants)
        detail = f"variant: no variant has the key {row.variant!r}; there are {keys}"
        return RowError(index=index, code=RowCode.UNKNOWN_VARIANT, detail=detail)
    if row.assigned_at > utc_now():
        detail = "assigned_at: lies in the future; imported assignments have happened"
        return RowError(index=index, code=RowCode.FUTURE_TIMESTAMP, detail=detail)
    return ImportRow(row.user_id, variant.id, row.assigned_at)


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
    assignments: Assignments,
) -> Response:
    """Force a variant for one user; such users are left out of results unless asked for."""
    found = await experiments.get(caller, experiment)
    variant = _variant_named(found, body.variant, "variant")
    return _json(await assignments.put_override(caller, found, user_id, variant))


@router.delete(
    "/experiments/{experiment}/overrides/{user_id:user_id}",
    status_code=204,
    dependencies=[requires(Scope.EXPERIMENTS_WRITE, is_traffic=True)],
    responses=documented(*GUARDED, ExperimentNotFound, OverrideNotFound),
)
async def remove_override(
    experiment: ExperimentReference,
    user_id: UserIdInPath,
    caller: CurrentCaller,
    experiments: Experiments,
    assignments: Assignments,
) -> None:
    """Remove an override; the user's stored assignment is in force again."""
    found = await experiments.get(caller, experiment)
    await assignments.remove_override(caller, found, user_id)


def _variant_named(experiment: Experiment, key: str, field: str) -> Variant:
    variant = experiment.variant_with_key(key)
    if variant is None:
        keys = ", ".join(item.key for item in experiment.variants)
        raise Invalid.field(field, f"no variant has the key {key[:64]!r}; there are {keys}")
    return variant


def _json(answer: Answer | dict[str, Sequence[Answer | _FailedItem]]) -> Response:
    return Response(_encode(answer), media_type="application/json", headers=NO_STORE)
