"""How endpoints reach the results service."""

from typing import Annotated

from fastapi import Depends, Request

from app.results.service import ResultsService


def _results(request: Request) -> ResultsService:
    service = request.app.state.services.results
    assert isinstance(service, ResultsService)  # noqa: S101  # Built once at startup.
    return service


ResultsEngine = Annotated[ResultsService, Depends(_results)]
