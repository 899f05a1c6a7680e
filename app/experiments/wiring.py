"""How endpoints name an experiment and reach the service."""

from typing import Annotated

from fastapi import Depends, Path, Request
from pydantic import AfterValidator

from app.core.names import REFERENCE_PATTERN, possible_for
from app.experiments.errors import ExperimentNotFound
from app.experiments.plan_service import PlanService
from app.experiments.service import ExperimentService

ExperimentReference = Annotated[
    str,
    Path(
        alias="experiment",
        description="The experiment's id or key.",
        json_schema_extra={"pattern": REFERENCE_PATTERN},
    ),
    AfterValidator(possible_for(ExperimentNotFound)),
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
