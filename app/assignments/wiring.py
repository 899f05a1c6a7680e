"""How endpoints reach the assignment service."""

from typing import Annotated

from fastapi import Depends, Path, Request
from pydantic import AfterValidator
from starlette.convertors import PathConvertor, register_url_convertor

from app.assignments.service import AssignmentService
from app.core.text import refuse_control_characters


class _UserIdConvertor(PathConvertor):
    """Takes the whole rest of a path: slashes, and line breaks too, so that they are refused and not cut off."""

    regex = r"[\s\S]+"


register_url_convertor("user_id", _UserIdConvertor())

UserIdInPath = Annotated[
    str, Path(alias="user_id", min_length=1, max_length=256), AfterValidator(refuse_control_characters)
]


def _assignments(request: Request) -> AssignmentService:
    service = request.app.state.services.assignments
    assert isinstance(service, AssignmentService)  # noqa: S101  # Built once at startup.
    return service


Assignments = Annotated[AssignmentService, Depends(_assignments)]
