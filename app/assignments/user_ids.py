"""User ids: any text of the contract's length without control characters."""

from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from app.core.text import refuse_control_characters

MAX_USER_ID = 256
UserId = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_USER_ID), AfterValidator(refuse_control_characters)
]
