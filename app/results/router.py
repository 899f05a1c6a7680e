"""The endpoint for results."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Response

from app.access.caller import CurrentCaller
from app.access.guard import GUARDED, requires
from app.access.scopes import Scope
from app.core import routes
from app.core.db import StoreUnavailable
from app.core.problems import documented
from app.experiments.errors import ExperimentNotFound
from app.experiments.wiring import ExperimentReference
from app.results.errors import AnswerNotFound, HistoryDropped, NoSourceAvailable, StoreDropped
from app.results.parameters import CONTEXT_PREFIX, question_of, reading_of
from app.results.reading import Reading
from app.results.schemas import ResultsOut
from app.results.values import Question
from app.results.wiring import ResultsEngine

router = routes.router(tags=["results"])


@router.get(
    "/experiments/{experiment}/results",
    dependencies=[requires(Scope.RESULTS)],
    responses=documented(
        *GUARDED, ExperimentNotFound, HistoryDropped, StoreDropped, NoSourceAvailable, StoreUnavailable
    ),
    openapi_extra={"x-open-query-prefix": CONTEXT_PREFIX},
)
async def read_results(
    experiment: ExperimentReference,
    question: Annotated[Question, Depends(question_of)],
    reading: Annotated[Reading, Depends(reading_of)],
    caller: CurrentCaller,
    results: ResultsEngine,
) -> ResultsOut:
    """Say how the variants do. `context.<name>=<value>` keeps users whose stored context has that value."""
    return ResultsOut.of(await results.results(caller.project_id, experiment, question, reading))


@router.get(
    "/experiments/{experiment}/results/{answer_id}",
    dependencies=[requires(Scope.RESULTS)],
    response_model=ResultsOut,
    responses=documented(*GUARDED, ExperimentNotFound, AnswerNotFound, StoreUnavailable),
)
async def read_kept_results(
    experiment: ExperimentReference,
    answer_id: Annotated[UUID, Path(description="`provenance.answer_id` of the answer.")],
    caller: CurrentCaller,
    results: ResultsEngine,
) -> Response:
    """Show an answer once more, as it was given; its `provenance.answer_id` names it."""
    document = await results.kept_answer(caller.project_id, experiment, answer_id)
    return Response(document, media_type="application/json")
