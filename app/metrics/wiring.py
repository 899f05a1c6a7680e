"""How endpoints name a metric and reach the service."""

import re
from typing import Annotated

from fastapi import Depends, Path, Request
from pydantic import AfterValidator

from app.core.names import KEY_FORM
from app.metrics.errors import MetricNotFound
from app.metrics.service import MetricService

# As experiments are named: keys begin with a letter, so the two cannot be confused.
_PATTERN = rf"^([0-9]{{1,30}}|{KEY_FORM})$"
_REFERENCE = re.compile(_PATTERN)


def _possible(reference: str) -> str:
    """Return `reference`.

    Raises:
        MetricNotFound: no metric can have it.
    """
    if _REFERENCE.fullmatch(reference) is None:
        raise MetricNotFound(reference)
    return reference


MetricReference = Annotated[
    str,
    Path(alias="metric", description="The metric's id or key.", json_schema_extra={"pattern": _PATTERN}),
    AfterValidator(_possible),
]


def _metrics(request: Request) -> MetricService:
    service = request.app.state.services.metrics
    assert isinstance(service, MetricService)  # noqa: S101  # Built once at startup.
    return service


Metrics = Annotated[MetricService, Depends(_metrics)]
