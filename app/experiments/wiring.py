"""How endpoints name an experiment and reach the service."""

from typing import Annotated

from fastapi import Depends, Path, Request

from app.experiments.service import ExperimentService

# A numeric id or a key; keys begin with a letter, so the two cannot be confused.
REFERENCE_PATTERN = r"^([0-9]{1,30}|[a-z][a-z0-9_-]{0,63})$"
ExperimentReference = Annotated[
    str, Path(alias="experiment", pattern=REFERENCE_PATTERN, description="The experiment's id or key.")
]


def _experiments(request: Request) -> ExperimentService:
    service = request.app.state.services.experiments
    assert isinstance(service, ExperimentService)  # noqa: S101  # Built once at startup.
    return service


Experiments = Annotated[ExperimentService, Depends(_experiments)]
