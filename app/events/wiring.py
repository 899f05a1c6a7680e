"""How endpoints reach the event service."""

from typing import Annotated

from fastapi import Depends, Request

from app.events.service import EventService


def _events(request: Request) -> EventService:
    service = request.app.state.services.events
    assert isinstance(service, EventService)  # noqa: S101  # Built once at startup.
    return service


Events = Annotated[EventService, Depends(_events)]
