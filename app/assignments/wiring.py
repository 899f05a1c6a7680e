"""How endpoints reach the assignment service."""

from typing import Annotated

from fastapi import Depends, Path, Request
from starlette.convertors import PathConvertor, register_url_convertor

from app.assignments.override_service import OverrideService
from app.assignments.service import AssignmentService
from app.assignments.user_ids import UserId


class _UserIdConvertor(PathConvertor):
    """Takes the whole rest of a path: slashes, and line breaks too, so that they are refused and not cut off."""

    regex = r"[\s\S]+"


register_url_convertor("user_id", _UserIdConvertor())

UserIdInPath = Annotated[UserId, Path(alias="user_id", description="Your id of the user; percent-encode it.")]


def _assignments(request: Request) -> AssignmentService:
    service = request.app.state.services.assignments
    assert isinstance(service, AssignmentService)  # noqa: S101  # Built once at startup.
    return service


def _overrides(request: Request) -> OverrideService:
    service = request.app.state.services.overrides
    assert isinstance(service, OverrideService)  # noqa: S101  # Built once at startup.
    return service


Assignments = Annotated[AssignmentService, Depends(_assignments)]
Overrides = Annotated[OverrideService, Depends(_overrides)]
