"""How endpoints name a metric and reach the service."""

from typing import Annotated

from fastapi import Depends, Path, Request
from pydantic import AfterValidator

from app.core.names import REFERENCE_PATTERN, possible_for
from app.metrics.errors import MetricNotFound
from app.metrics.service import MetricService

MetricReference = Annotated[
    str,
    Path(alias="metric", description="The metric's id or key.", json_schema_extra={"pattern": REFERENCE_PATTERN}),
    AfterValidator(possible_for(MetricNotFound)),
]


def _metrics(request: Request) -> MetricService:
    service = request.app.state.services.metrics
    assert isinstance(service, MetricService)  # noqa: S101  # Built once at startup.
    return service


Metrics = Annotated[MetricService, Depends(_metrics)]
