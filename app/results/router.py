"""The endpoint for results."""

from typing import Annotated

from fastapi import Depends

from app.access.caller import CurrentCaller
from app.access.guard import GUARDED, requires
from app.access.scopes import Scope
from app.core import routes
from app.core.problems import documented
from app.experiments.errors import ExperimentNotFound
from app.experiments.wiring import ExperimentReference
from app.results.errors import HistoryDropped, NoSourceAvailable, StoreDropped
from app.results.parameters import CONTEXT_PREFIX, question_of
from app.results.schemas import ResultsOut
from app.results.values import Question
from app.results.wiring import ResultsEngine

router = routes.router(tags=["results"])


@router.get(
    "/experiments/{experiment}/results",
    dependencies=[requires(Scope.RESULTS)],
    responses=documented(*GUARDED, ExperimentNotFound, HistoryDropped, StoreDropped, NoSourceAvailable),
    openapi_extra={"x-open-query-prefix": CONTEXT_PREFIX},
)
async def read_results(
    experiment: ExperimentReference,
    question: Annotated[Question, Depends(question_of)],
    caller: CurrentCaller,
    results: ResultsEngine,
) -> ResultsOut:
    """Say how the variants do. `context.<name>=<value>` keeps users whose stored context has that value."""
    return ResultsOut.of(await results.results(caller.project_id, experiment, question))
