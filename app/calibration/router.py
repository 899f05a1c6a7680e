"""Endpoints for calibrations."""

from typing import Annotated
from uuid import UUID

from fastapi import Path, Response

from app.access.caller import CurrentCaller
from app.access.guard import GUARDED, WITH_BODY, requires
from app.access.scopes import Scope
from app.calibration.errors import CalibrationEnded, CalibrationNotFound, TooManyCalibrations
from app.calibration.schemas import CalibrationIn, CalibrationList, CalibrationOut
from app.calibration.wiring import Calibrations
from app.core import routes
from app.core.db import StoreUnavailable
from app.core.paging import Paging
from app.core.problems import documented
from app.experiments.errors import ExperimentNotFound
from app.experiments.wiring import ExperimentReference
from app.results.errors import HistoryDropped, NoSourceAvailable

router = routes.router(tags=["results"])
CalibrationId = Annotated[UUID, Path(description="`id` of the answer that began it.")]


@router.post(
    "/experiments/{experiment}/calibrations",
    status_code=202,
    dependencies=[requires(Scope.RESULTS)],
    responses=documented(
        *WITH_BODY, ExperimentNotFound, HistoryDropped, TooManyCalibrations, NoSourceAvailable, StoreUnavailable
    ),
)
async def begin_calibration(
    experiment: ExperimentReference,
    body: CalibrationIn,
    caller: CurrentCaller,
    calibrations: Calibrations,
    response: Response,
) -> CalibrationOut:
    """Split the control's users at random many times, and see how often the tests find what is not there."""
    begun = await calibrations.begin(caller.project_id, experiment, body.wanted())
    response.headers["Location"] = f"{routes.API_PREFIX}/experiments/{begun.experiment_id}/calibrations/{begun.id}"
    return CalibrationOut.of(begun)


@router.get(
    "/experiments/{experiment}/calibrations",
    dependencies=[requires(Scope.RESULTS)],
    responses=documented(*GUARDED, ExperimentNotFound, StoreUnavailable),
)
async def list_calibrations(
    experiment: ExperimentReference, caller: CurrentCaller, calibrations: Calibrations, paging: Paging
) -> CalibrationList:
    """List the experiment's calibrations, newest first; the newest 100 are kept."""
    page = await calibrations.list_(caller.project_id, experiment, paging)
    return CalibrationList(items=[CalibrationOut.of(item) for item in page.items], next_cursor=page.next_cursor)


@router.get(
    "/experiments/{experiment}/calibrations/{calibration_id}",
    dependencies=[requires(Scope.RESULTS)],
    responses=documented(*GUARDED, ExperimentNotFound, CalibrationNotFound, StoreUnavailable),
)
async def get_calibration(
    experiment: ExperimentReference,
    calibration_id: CalibrationId,
    caller: CurrentCaller,
    calibrations: Calibrations,
) -> CalibrationOut:
    """Read how far a calibration is, and what came out."""
    return CalibrationOut.of(await calibrations.get(caller.project_id, experiment, calibration_id))


@router.post(
    "/experiments/{experiment}/calibrations/{calibration_id}/cancel",
    dependencies=[requires(Scope.RESULTS)],
    responses=documented(*WITH_BODY, ExperimentNotFound, CalibrationNotFound, CalibrationEnded, StoreUnavailable),
)
async def cancel_calibration(
    experiment: ExperimentReference, calibration_id: CalibrationId, caller: CurrentCaller, calibrations: Calibrations
) -> CalibrationOut:
    """Cancel a running calibration; one that is cancelled stays so."""
    return CalibrationOut.of(await calibrations.cancel(caller.project_id, experiment, calibration_id))
