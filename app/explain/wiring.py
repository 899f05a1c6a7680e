"""How endpoints reach the service that explains."""

from typing import Annotated

from fastapi import Depends, Request

from app.explain.service import ExplainService


def _explanations(request: Request) -> ExplainService:
    service = request.app.state.services.explain
    assert isinstance(service, ExplainService)  # noqa: S101  # Built once at startup.
    return service


Explanations = Annotated[ExplainService, Depends(_explanations)]
