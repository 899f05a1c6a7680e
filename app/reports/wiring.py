"""How endpoints reach the report service."""

from typing import Annotated

from fastapi import Depends, Request

from app.reports.service import ReportService


def _reports(request: Request) -> ReportService:
    service = request.app.state.services.reports
    assert isinstance(service, ReportService)  # noqa: S101  # Built once at startup.
    return service


Reports = Annotated[ReportService, Depends(_reports)]
