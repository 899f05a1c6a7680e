"""How endpoints reach the diagnosis."""

from typing import Annotated

from fastapi import Depends, Request

from app.diagnosis.service import DiagnosisService


def _diagnoses(request: Request) -> DiagnosisService:
    service = request.app.state.services.diagnosis
    assert isinstance(service, DiagnosisService)  # noqa: S101  # Built once at startup.
    return service


Diagnoses = Annotated[DiagnosisService, Depends(_diagnoses)]
