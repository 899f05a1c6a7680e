"""How endpoints name an experiment and reach the service."""

from typing import Annotated

from fastapi import Depends, Path, Request

from app.experiments.plan_service import PlanService
from app.experiments.references import REFERENCE_PATTERN
from app.experiments.service import ExperimentService

ExperimentReference = Annotated[
    str, Path(alias="experiment", pattern=REFERENCE_PATTERN, description="The experiment's id or key.")
]


def _experiments(request: Request) -> ExperimentService:
    service = request.app.state.services.experiments
    assert isinstance(service, ExperimentService)  # noqa: S101  # Built once at startup.
    return service


Experiments = Annotated[ExperimentService, Depends(_experiments)]


def _plans(request: Request) -> PlanService:
    service = request.app.state.services.plans
    assert isinstance(service, PlanService)  # noqa: S101  # Built once at startup.
    return service


Plans = Annotated[PlanService, Depends(_plans)]
