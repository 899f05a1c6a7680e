"""How endpoints name a metric and reach the service."""

from typing import Annotated

from fastapi import Depends, Path, Request

from app.core.names import KEY_FORM
from app.metrics.service import MetricService

# As experiments are named: keys begin with a letter, so the two cannot be confused.
MetricReference = Annotated[
    str, Path(alias="metric", pattern=rf"^([0-9]{{1,30}}|{KEY_FORM})$", description="The metric's id or key.")
]


def _metrics(request: Request) -> MetricService:
    service = request.app.state.services.metrics
    assert isinstance(service, MetricService)  # noqa: S101  # Built once at startup.
    return service


Metrics = Annotated[MetricService, Depends(_metrics)]
