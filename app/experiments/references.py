"""How callers name an experiment: by its numeric id or its key."""

from typing import Annotated

from pydantic import BeforeValidator, StringConstraints, WithJsonSchema

from app.core.names import REFERENCE_PATTERN


def id_as_text(value: object) -> object:
    """Take the number that an id is in JSON for its digits."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Reference = Annotated[
    str,
    BeforeValidator(id_as_text),
    StringConstraints(pattern=REFERENCE_PATTERN),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": REFERENCE_PATTERN}]}),
]
