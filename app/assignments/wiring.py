"""How endpoints reach the assignment service."""

from typing import Annotated

from fastapi import Depends, Path, Request
from pydantic import AfterValidator

from app.assignments.service import AssignmentService
from app.core.text import refuse_control_characters

# A path converter, because a user id may hold slashes.
UserIdInPath = Annotated[
    str, Path(alias="user_id", min_length=1, max_length=256), AfterValidator(refuse_control_characters)
]


def _assignments(request: Request) -> AssignmentService:
    service = request.app.state.services.assignments
    assert isinstance(service, AssignmentService)  # noqa: S101  # Built once at startup.
    return service


Assignments = Annotated[AssignmentService, Depends(_assignments)]
