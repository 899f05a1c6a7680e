"""What can be exported, in which form, and what a column holds."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

Write = Callable[[bytes], Awaitable[None]]
# Writes a whole file, piece by piece.
Produce = Callable[[Write], Awaitable[None]]


class ExportOf(StrEnum):
    """What an export holds."""

    RESULTS = "results"
    ASSIGNMENTS = "assignments"
    EVENTS = "events"


class ExportFormat(StrEnum):
    """The form of the file; its name is the file's extension."""

    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"

    @property
    def media_type(self) -> str:
        return _MEDIA_TYPES[self]


_MEDIA_TYPES = {
    ExportFormat.CSV: "text/csv; charset=utf-8",
    ExportFormat.JSON: "application/json",
    ExportFormat.PARQUET: "application/vnd.apache.parquet",
}


class Holds(StrEnum):
    """What a column holds."""

    TEXT = "text"
    LABEL = "label"  # Text of which there are few different ones.
    MOMENT = "moment"
    NUMBER = "number"
    WHOLE = "whole"
    FLAG = "flag"
    DOCUMENT = "document"  # JSON; its text where a form has no nesting.


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an export."""

    name: str
    holds: Holds


@dataclass(frozen=True, slots=True)
class Export:
    """A file to be made: what it is called, what it is, and how it is written."""

    filename: str
    media_type: str
    produce: Produce
