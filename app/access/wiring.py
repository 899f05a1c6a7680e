"""How endpoints reach the access service."""

from typing import Annotated

from fastapi import Depends, Request

from app.access.service import AccessService


def _access(request: Request) -> AccessService:
    service = request.app.state.services.access
    assert isinstance(service, AccessService)  # noqa: S101  # Built once at startup.
    return service


Access = Annotated[AccessService, Depends(_access)]
