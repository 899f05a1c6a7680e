"""Keys and names of what people make: projects, tokens, experiments, variants; and how paths name them."""

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from app.core.errors import ReferenceNotFound
from app.core.text import refuse_blank, refuse_control_characters

KEY_FORM = "[a-z][a-z0-9_-]{0,63}"
KEY_PATTERN = f"^{KEY_FORM}$"
Key = Annotated[str, StringConstraints(pattern=KEY_PATTERN)]
# An id or a key. Keys begin with a letter, so the two cannot be confused.
REFERENCE_PATTERN = rf"^([0-9]{{1,30}}|{KEY_FORM})$"
_REFERENCE = re.compile(REFERENCE_PATTERN)

Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(refuse_control_characters),
    AfterValidator(refuse_blank),
]


def possible_for(not_found: type[ReferenceNotFound]) -> Callable[[str], str]:
    """Return a check of references in paths, which raises `not_found` for what is neither an id nor a key.

    A path that leads nowhere leads nowhere, however it is written.
    """

    def possible(reference: str) -> str:
        if _REFERENCE.fullmatch(reference) is None:
            raise not_found(reference)
        return reference

    return possible
