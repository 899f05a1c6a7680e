"""How endpoints name an experiment and reach the service."""

import re
from typing import Annotated

from fastapi import Depends, Path, Request
from pydantic import AfterValidator

from app.experiments.errors import ExperimentNotFound
from app.experiments.plan_service import PlanService
from app.experiments.references import REFERENCE_PATTERN
from app.experiments.service import ExperimentService

_REFERENCE = re.compile(REFERENCE_PATTERN)


def _possible(reference: str) -> str:
    """Return `reference`.

    Raises:
        ExperimentNotFound: no experiment can have it. A path that leads nowhere leads nowhere, however it is written.
    """
    if _REFERENCE.fullmatch(reference) is None:
        raise ExperimentNotFound(reference)
    return reference


ExperimentReference = Annotated[
    str,
    Path(
        alias="experiment",
        description="The experiment's id or key.",
        json_schema_extra={"pattern": REFERENCE_PATTERN},
    ),
    AfterValidator(_possible),
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
