"""Endpoints for events."""

from fastapi import Response

from app.access.caller import CurrentCaller
from app.access.guard import WITH_BODY, requires
from app.access.scopes import Scope
from app.core import routes
from app.core.problems import documented
from app.core.routes import MAX_BATCH_BODY_BYTES, MAX_BODY_KEY
from app.core.rows import BatchOut, valid_rows
from app.events.schemas import EventBatchIn, EventIn, EventOut
from app.events.wiring import Events
from app.experiments.errors import ExperimentNotFound

router = routes.router(tags=["events"])
_TRAFFIC = [requires(Scope.EVENTS, is_traffic=True)]


@router.post(
    "/events",
    status_code=201,
    dependencies=_TRAFFIC,
    responses={
        200: {
            "model": EventOut,
            "description": "The event_id is known; nothing was stored again, and one more duplicate counted.",
        },
        **documented(*WITH_BODY, ExperimentNotFound),
    },
)
async def record_event(body: EventIn, caller: CurrentCaller, events: Events, response: Response) -> EventOut:
    """Record an event; the answer comes once it is durable."""
    recorded = await events.record(caller.project_id, body.sent())
    response.status_code = 201 if recorded.is_new else 200
    return EventOut(event_id=recorded.event_id, status=recorded.status)


@router.post(
    "/events/batch",
    response_model=BatchOut,
    dependencies=_TRAFFIC,
    responses=documented(*WITH_BODY),
    openapi_extra={MAX_BODY_KEY: MAX_BATCH_BODY_BYTES},
)
async def record_events(body: EventBatchIn, caller: CurrentCaller, events: Events) -> Response:
    """Record many events: good rows are stored, bad ones are named."""
    rows, errors = valid_rows(EventIn, body.events)
    batch = await events.record_many(caller.project_id, [(index, row.sent()) for index, row in rows])
    events.count_rejected(len(errors) + len(batch.rejected))
    errors = sorted([*errors, *batch.rejected], key=lambda error: error.index)
    answer = BatchOut(accepted=batch.accepted, duplicates=batch.duplicates, rejected=len(errors), errors=errors)
    return Response(answer.model_dump_json(), media_type="application/json")
