"""Lists from outside in which nothing would be taken for everything."""

from typing import TypeVar

from pydantic import Field

T = TypeVar("T")
# For schemas; the validator says it in better words than the schema's own check.
AT_LEAST_ONE = Field(json_schema_extra={"minItems": 1})


def refuse_empty(items: list[T]) -> list[T]:
    """Return `items`, for lists that have another meaning when they are left out than what an empty one says.

    Raises:
        ValueError: there is none.
    """
    if not items:
        raise ValueError("must not be empty; name at least one, or leave the field out")
    return items
