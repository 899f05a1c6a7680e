"""How endpoints reach the export service."""

from typing import Annotated

from fastapi import Depends, Request

from app.exports.service import ExportService


def _exports(request: Request) -> ExportService:
    service = request.app.state.services.exports
    assert isinstance(service, ExportService)  # noqa: S101  # Built once at startup.
    return service


Exports = Annotated[ExportService, Depends(_exports)]
