"""Batches whose rows are judged one by one: good rows are stored, bad ones are named."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from app.core.errors import field_problem

Row = TypeVar("Row", bound=BaseModel)


class RowCode(StrEnum):
    """Why a row was rejected."""

    INVALID_FIELD = "INVALID_FIELD"
    UNKNOWN_EXPERIMENT = "UNKNOWN_EXPERIMENT"
    FUTURE_TIMESTAMP = "FUTURE_TIMESTAMP"
    TOO_LARGE = "TOO_LARGE"
    UNKNOWN_VARIANT = "UNKNOWN_VARIANT"
    ALREADY_ASSIGNED = "ALREADY_ASSIGNED"


class RowError(BaseModel):
    """A rejected row: its place in the batch, the code, and the detail for a person."""

    index: int
    code: RowCode
    detail: str


class BatchOut(BaseModel):
    """What became of a batch."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "accepted": 2,
                    "duplicates": 0,
                    "rejected": 1,
                    "errors": [{"index": 1, "code": "INVALID_FIELD", "detail": "value: must be a number"}],
                }
            ]
        }
    )

    accepted: int
    duplicates: int
    rejected: int
    errors: list[RowError]


class TooLarge(ValueError):
    """A field of a row exceeds its size; the row's code says so."""


class InFuture(ValueError):
    """A moment lies too far ahead; the row's code says so."""


def valid_rows(model: type[Row], raw: Iterable[object]) -> tuple[list[tuple[int, Row]], list[RowError]]:
    """Return the rows that are of `model`, each with its place in the batch, and the errors of the others."""
    rows: list[tuple[int, Row]] = []
    errors: list[RowError] = []
    for index, item in enumerate(raw):
        try:
            rows.append((index, model.model_validate(item)))
        except ValidationError as error:
            errors.append(_row_error(index, error))
    return rows, errors


def _row_error(index: int, error: ValidationError) -> RowError:
    """Describe a row that failed validation."""
    problems = [field_problem(item) for item in error.errors(include_url=False, include_input=False)]
    detail = "; ".join(f"{problem['field']}: {problem['detail']}" for problem in problems)
    return RowError(index=index, code=_code_of(error), detail=detail)


def _code_of(error: ValidationError) -> RowCode:
    causes: list[Any] = [item.get("ctx", {}).get("error") for item in error.errors(include_url=False)]
    if any(isinstance(cause, TooLarge) for cause in causes):
        return RowCode.TOO_LARGE
    if any(isinstance(cause, InFuture) for cause in causes):
        return RowCode.FUTURE_TIMESTAMP
    return RowCode.INVALID_FIELD
