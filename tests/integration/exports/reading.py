"""Reads exports back with public libraries, each form into the same rows."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from app.exports.values import Column, Holds

Row = dict[str, Any]


def read(form: str, content: bytes, columns: Sequence[Column]) -> list[Row]:
    """Return the rows: moments as such, documents decoded, `None` where there is nothing."""
    match form:
        case "csv":
            return _typed(_csv_rows(content), columns)
        case "json":
            return _typed(json.loads(content), columns)
        case _:
            return _typed(parquet.read_table(pa.BufferReader(content)).to_pylist(), columns)


def _csv_rows(content: bytes) -> list[Row]:
    """Read CSV; Python's reader does not tell an empty field in quotes from one without, and no test needs it to."""
    text = content.decode("utf-8")
    assert text.endswith("\r\n")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    return [{name: value or None for name, value in row.items()} for row in reader]


def _typed(rows: Iterable[Row], columns: Sequence[Column]) -> list[Row]:
    typed = []
    for row in rows:
        assert list(row) == [column.name for column in columns]
        typed.append({column.name: _value(row[column.name], column.holds) for column in columns})
    return typed


def _value(value: Any, holds: Holds) -> Any:
    return None if value is None else _READ.get(holds, str)(value)


def _moment(value: Any) -> datetime:
    return value.astimezone(UTC) if isinstance(value, datetime) else datetime.fromisoformat(value)


def _flag(value: Any) -> bool:
    return value if isinstance(value, bool) else {"true": True, "false": False}[value]


def _document(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


_READ: dict[Holds, Callable[[Any], Any]] = {
    Holds.MOMENT: _moment,
    Holds.FLAG: _flag,
    Holds.DOCUMENT: _document,
    Holds.NUMBER: float,
    Holds.WHOLE: int,
}
