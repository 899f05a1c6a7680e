"""The endpoint for the SQL of a number."""

from app.access.caller import CurrentCaller
from app.access.guard import WITH_BODY, requires
from app.access.scopes import Scope
from app.core import routes
from app.core.db import StoreUnavailable
from app.core.problems import documented
from app.experiments.errors import ExperimentNotFound
from app.experiments.wiring import ExperimentReference
from app.explain.schemas import ExplainIn, ExplanationOut
from app.explain.wiring import Explanations

router = routes.router(tags=["results"])


@router.post(
    "/experiments/{experiment}/query/explain",
    dependencies=[requires(Scope.RESULTS)],
    responses=documented(*WITH_BODY, ExperimentNotFound, StoreUnavailable),
)
async def explain(
    experiment: ExperimentReference, body: ExplainIn, caller: CurrentCaller, explanations: Explanations
) -> ExplanationOut:
    """Give the very SQL of a number, for PostgreSQL and ClickHouse, ready to paste."""
    return ExplanationOut.of(await explanations.explain(caller.project_id, experiment, body.question()))
