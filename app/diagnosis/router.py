"""The endpoint for diagnoses."""

from app.access.caller import CurrentCaller
from app.access.guard import GUARDED, requires
from app.access.scopes import Scope
from app.core import routes
from app.core.db import StoreUnavailable
from app.core.problems import documented
from app.diagnosis.schemas import DiagnosisOut
from app.diagnosis.wiring import Diagnoses
from app.experiments.errors import ExperimentNotFound
from app.experiments.wiring import ExperimentReference

router = routes.router(tags=["results"])


@router.get(
    "/experiments/{experiment}/diagnosis",
    dependencies=[requires(Scope.RESULTS)],
    responses=documented(*GUARDED, ExperimentNotFound, StoreUnavailable),
)
async def diagnose(experiment: ExperimentReference, caller: CurrentCaller, diagnoses: Diagnoses) -> DiagnosisOut:
    """Say whether the experiment and its data can be trusted, what is wrong, and what to do about it."""
    return DiagnosisOut.of(await diagnoses.diagnose(caller.project_id, experiment))
