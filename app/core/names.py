"""Keys and names of what people make: projects, tokens, experiments, variants."""

from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from app.core.text import refuse_blank, refuse_control_characters

KEY_FORM = "[a-z][a-z0-9_-]{0,63}"
KEY_PATTERN = f"^{KEY_FORM}$"
Key = Annotated[str, StringConstraints(pattern=KEY_PATTERN)]


Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(refuse_control_characters),
    AfterValidator(refuse_blank),
]
