"""Endpoints for events."""

from fastapi import Response
from pydantic import ValidationError

from app.access.caller import Caller, CurrentCaller
from app.access.guard import requires
from app.access.router import WITH_BODY
from app.access.scopes import Scope
from app.core import routes
from app.core.clock import random_id
from app.core.problems import documented
from app.core.routes import MAX_BATCH_BODY_BYTES, MAX_BODY_KEY
from app.core.rows import BatchOut, RowCode, RowError, row_error
from app.events.schemas import EventBatchIn, EventIn, EventOut, EventStatus
from app.events.values import Event
from app.events.wiring import Events
from app.experiments.errors import ExperimentNotFound
from app.experiments.wiring import Experiments

router = routes.router(tags=["events"])
_TRAFFIC = [requires(Scope.EVENTS, is_traffic=True)]


@router.post(
    "/events",
    status_code=201,
    dependencies=_TRAFFIC,
    responses={
        200: {"model": EventOut, "description": "The event_id is known; nothing was stored again."},
        **documented(*WITH_BODY, ExperimentNotFound),
    },
)
async def record_event(
    body: EventIn, caller: CurrentCaller, experiments: Experiments, events: Events, response: Response
) -> EventOut:
    """Record an event; the answer comes once it is durable."""
    event = await _event(body, caller, experiments)
    (is_new,) = await events.record([event])
    if not is_new:
        response.status_code = 200
    return EventOut(event_id=event.event_id, status=EventStatus.ACCEPTED if is_new else EventStatus.DUPLICATE)


@router.post(
    "/events/batch",
    response_model=BatchOut,
    dependencies=_TRAFFIC,
    responses=documented(*WITH_BODY),
    openapi_extra={MAX_BODY_KEY: MAX_BATCH_BODY_BYTES},
)
async def record_events(
    body: EventBatchIn, caller: CurrentCaller, experiments: Experiments, events: Events
) -> Response:
    """Record many events: good rows are stored, bad ones are named."""
    good: list[Event] = []
    errors: list[RowError] = []
    for index, raw in enumerate(body.events):
        try:
            good.append(await _event(EventIn.model_validate(raw), caller, experiments))
        except ValidationError as error:
            errors.append(row_error(index, error))
        except ExperimentNotFound as error:
            detail = f"experiment_id: {error.detail}"
            errors.append(RowError(index=index, code=RowCode.UNKNOWN_EXPERIMENT, detail=detail))
    outcomes = await events.record(good)
    events.count_rejected(len(errors))
    accepted = sum(outcomes)
    answer = BatchOut(accepted=accepted, duplicates=len(outcomes) - accepted, rejected=len(errors), errors=errors)
    return Response(answer.model_dump_json(), media_type="application/json")


async def _event(body: EventIn, caller: Caller, experiments: Experiments) -> Event:
    experiment = None if body.experiment_id is None else await experiments.get(caller, body.experiment_id)
    return Event(
        project_id=caller.project_id,
        event_id=body.event_id or random_id(),
        experiment_id=None if experiment is None else experiment.id,
        user_id=body.user_id,
        event_type=body.event_type,
        timestamp=body.timestamp,
        value=body.value,
        properties=body.properties,
    )
