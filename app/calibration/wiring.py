"""How endpoints reach the calibration service."""

from typing import Annotated

from fastapi import Depends, Request

from app.calibration.service import CalibrationService


def _calibrations(request: Request) -> CalibrationService:
    service = request.app.state.services.calibrations
    assert isinstance(service, CalibrationService)  # noqa: S101  # Built once at startup.
    return service


Calibrations = Annotated[CalibrationService, Depends(_calibrations)]
