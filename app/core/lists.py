"""Lists from outside in which nothing would be taken for everything."""

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _AtLeastOne:
    """Refuses an empty list in better words than the check of Pydantic, and shows in the schema as that one."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401  # Pydantic's.
        return core_schema.no_info_after_validator_function(_refuse_empty, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"minItems": 1}


def _refuse_empty(items: list[T]) -> list[T]:
    if not items:
        raise ValueError("must not be empty; name at least one, or leave the field out")
    return items


# For lists that have another meaning when they are left out than what an empty one says:
# `Annotated[list[Key], Field(max_length=20), AT_LEAST_ONE]`.
AT_LEAST_ONE = _AtLeastOne()
