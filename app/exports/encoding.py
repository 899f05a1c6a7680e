"""From the lines that PostgreSQL writes to the bytes of a file, piece by piece and with nothing kept that grows.

A file that ends too early never looks whole: JSON lacks its last bracket, Parquet its footer, and of CSV, which has no
end of its own, the answer's last chunk is missing.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from app.exports.copying import LineForm
from app.exports.statements import Rows, as_lines, as_objects
from app.exports.values import Column, ExportFormat


class Encoder(Protocol):
    """Makes a file of lines. What each method returns may be empty."""

    @property
    def form(self) -> LineForm:
        """How the lines are to be written."""
        ...

    def statement(self, rows: Rows) -> str:
        """Return the query whose lines this makes a file of."""
        ...

    async def add(self, lines: bytes) -> bytes:
        """Take whole lines."""
        ...

    async def end(self) -> bytes:
        """Return what makes the file whole."""
        ...


def encoder_for(form: ExportFormat, columns: Sequence[Column]) -> Encoder:
    match form:
        case ExportFormat.CSV:
            return CsvEncoder()
        case ExportFormat.JSON:
            return JsonEncoder()
        case ExportFormat.PARQUET:
            return ParquetEncoder(columns)


class CsvEncoder:
    """RFC 4180: a header, fields in quotes where they need them, CRLF at the end of each line.

    Values stand exactly as they are stored, also those that a spreadsheet would take for a formula: an export that
    alters data would not be one. Nothing is written as an empty field, an empty text as an empty one in quotes.
    """

    form = LineForm(header=True)

    def statement(self, rows: Rows) -> str:
        return as_lines(rows)

    async def add(self, lines: bytes) -> bytes:
        # No field holds a line feed: texts of callers have no control characters, and JSON writes them as \n.
        return lines.replace(b"\n", b"\r\n")

    async def end(self) -> bytes:
        return b""


class JsonEncoder:
    """One array with an object on each line."""

    # JSON holds no raw control characters, so that with these no line is ever put in quotes.
    form = LineForm(delimiter="\x02", quote="\x01")

    def __init__(self) -> None:
        self._begun = False

    def statement(self, rows: Rows) -> str:
        return as_objects(rows)

    async def add(self, lines: bytes) -> bytes:
        """Put the bracket in the place of the comma before the first object."""
        if self._begun:
            return lines
        self._begun = True
        return b"[" + lines[1:]

    async def end(self) -> bytes:
        return b"]\n" if self._begun else b"[]\n"


class ParquetEncoder:
    """Row groups of bounded size, made in a thread."""

    form = LineForm()

    # A row group's lines: some ten thousand rows, and what is held in memory for one of them.
    _GROUP_BYTES = 8 * 1024 * 1024

    def __init__(self, columns: Sequence[Column]) -> None:
        # Only who asks for Parquet pays for loading it: 0.2 s and 30 MB.
        from app.exports.parquet import ParquetFile  # noqa: PLC0415

        self._file = ParquetFile(columns)
        self._waiting: list[bytes] = []
        self._size = 0

    def statement(self, rows: Rows) -> str:
        return as_lines(rows)

    async def add(self, lines: bytes) -> bytes:
        self._waiting.append(lines)
        self._size += len(lines)
        return await self._write_group() if self._size >= self._GROUP_BYTES else b""

    async def end(self) -> bytes:
        group = await self._write_group() if self._size else b""
        return group + await asyncio.to_thread(self._file.end)

    async def _write_group(self) -> bytes:
        lines = b"".join(self._waiting)
        self._waiting.clear()
        self._size = 0
        return await asyncio.to_thread(self._file.add, lines)
