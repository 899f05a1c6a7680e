"""Endpoints for experiments."""

from typing import Annotated

from fastapi import Query, Response

from app.access.caller import CurrentCaller
from app.access.guard import GUARDED, WITH_BODY, requires
from app.access.scopes import Scope
from app.core import routes
from app.core.names import KEY_PATTERN
from app.core.paging import Paging
from app.core.problems import documented
from app.experiments.errors import (
    ChangeNotAllowed,
    DraftInUse,
    ExperimentKeyTaken,
    ExperimentNotFound,
    MoveNotAllowed,
    NotADraft,
    VariantInUse,
)
from app.experiments.lifecycle import Move, Status
from app.experiments.schemas import ExperimentChange, ExperimentIn, ExperimentList, ExperimentOut
from app.experiments.values import ExperimentFilter
from app.experiments.wiring import ExperimentReference, Experiments

router = routes.router(tags=["experiments"])
_READ = [requires(Scope.EXPERIMENTS_READ)]
_WRITE = [requires(Scope.EXPERIMENTS_WRITE)]


@router.post(
    "/experiments",
    status_code=201,
    dependencies=_WRITE,
    responses=documented(*WITH_BODY, ExperimentKeyTaken),
)
async def create_experiment(
    body: ExperimentIn, caller: CurrentCaller, experiments: Experiments, response: Response
) -> ExperimentOut:
    """Create an experiment: a draft, or running at once."""
    experiment = await experiments.create(caller, body.experiment(), running=body.status is Status.RUNNING)
    response.headers["Location"] = f"/api/v1/experiments/{experiment.id}"
    return ExperimentOut.of(experiment)


@router.get("/experiments", dependencies=_READ, responses=documented(*GUARDED))
async def list_experiments(
    caller: CurrentCaller,
    experiments: Experiments,
    paging: Paging,
    status: Annotated[Status | None, Query(description="Only those in this state.")] = None,
    key_prefix: Annotated[str | None, Query(pattern=KEY_PATTERN, description="How keys begin.")] = None,
    q: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=200,
            pattern=r"^[^\x00]*$",
            description="Text in key, name or description.",
        ),
    ] = None,
) -> ExperimentList:
    """List experiments, newest first."""
    page = await experiments.list_(caller, ExperimentFilter(status, key_prefix, q), paging)
    return ExperimentList(items=[ExperimentOut.of(item) for item in page.items], next_cursor=page.next_cursor)


@router.get("/experiments/{experiment}", dependencies=_READ, responses=documented(*GUARDED, ExperimentNotFound))
async def get_experiment(
    experiment: ExperimentReference, caller: CurrentCaller, experiments: Experiments
) -> ExperimentOut:
    """Read an experiment."""
    return ExperimentOut.of(await experiments.get(caller, experiment))


@router.patch(
    "/experiments/{experiment}",
    dependencies=_WRITE,
    responses=documented(*WITH_BODY, ExperimentNotFound, ChangeNotAllowed, ExperimentKeyTaken, VariantInUse),
)
async def change_experiment(
    experiment: ExperimentReference, body: ExperimentChange, caller: CurrentCaller, experiments: Experiments
) -> ExperimentOut:
    """Change what the experiment's state allows."""
    return ExperimentOut.of(await experiments.change(caller, experiment, body.wanted()))


@router.delete(
    "/experiments/{experiment}",
    status_code=204,
    dependencies=_WRITE,
    responses=documented(*WITH_BODY, ExperimentNotFound, NotADraft, DraftInUse),
)
async def delete_experiment(experiment: ExperimentReference, caller: CurrentCaller, experiments: Experiments) -> None:
    """Delete a draft."""
    await experiments.delete(caller, experiment)


_MOVE_ERRORS = documented(*WITH_BODY, ExperimentNotFound, MoveNotAllowed)


@router.post("/experiments/{experiment}/start", dependencies=_WRITE, responses=_MOVE_ERRORS)
async def start_experiment(
    experiment: ExperimentReference, caller: CurrentCaller, experiments: Experiments
) -> ExperimentOut:
    """Start a draft."""
    return ExperimentOut.of(await experiments.move(caller, experiment, Move.START))


@router.post("/experiments/{experiment}/pause", dependencies=_WRITE, responses=_MOVE_ERRORS)
async def pause_experiment(
    experiment: ExperimentReference, caller: CurrentCaller, experiments: Experiments
) -> ExperimentOut:
    """Pause: users already assigned keep their variant, nobody new enters."""
    return ExperimentOut.of(await experiments.move(caller, experiment, Move.PAUSE))


@router.post("/experiments/{experiment}/resume", dependencies=_WRITE, responses=_MOVE_ERRORS)
async def resume_experiment(
    experiment: ExperimentReference, caller: CurrentCaller, experiments: Experiments
) -> ExperimentOut:
    """Resume a paused experiment."""
    return ExperimentOut.of(await experiments.move(caller, experiment, Move.RESUME))


@router.post("/experiments/{experiment}/complete", dependencies=_WRITE, responses=_MOVE_ERRORS)
async def complete_experiment(
    experiment: ExperimentReference, caller: CurrentCaller, experiments: Experiments
) -> ExperimentOut:
    """Complete: from now on nobody gets a variant; results stay."""
    return ExperimentOut.of(await experiments.move(caller, experiment, Move.COMPLETE))


@router.post("/experiments/{experiment}/archive", dependencies=_WRITE, responses=_MOVE_ERRORS)
async def archive_experiment(
    experiment: ExperimentReference, caller: CurrentCaller, experiments: Experiments
) -> ExperimentOut:
    """Archive a draft or a completed experiment."""
    return ExperimentOut.of(await experiments.move(caller, experiment, Move.ARCHIVE))
