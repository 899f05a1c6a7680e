"""A Parquet file that leaves as it is made: lines of CSV in, bytes of row groups out."""

import io
from collections.abc import Mapping, Sequence

import pyarrow as pa
from pyarrow import csv, parquet

from app.exports.values import Column, Holds

_TYPES: Mapping[Holds, pa.DataType] = {
    Holds.TEXT: pa.string(),
    Holds.LABEL: pa.string(),
    Holds.MOMENT: pa.timestamp("us", tz="UTC"),
    Holds.NUMBER: pa.float64(),
    Holds.WHOLE: pa.int64(),
    Holds.FLAG: pa.bool_(),
    Holds.DOCUMENT: pa.string(),
}


class _Outgoing(io.RawIOBase):
    """Keeps what is written until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, piece: object) -> int:
        taken = bytes(piece)  # type: ignore[call-overload]  # Bytes, or a buffer of Arrow's.
        self._pieces.append(taken)
        self._written += len(taken)
        return len(taken)

    def tell(self) -> int:
        return self._written

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


class ParquetFile:
    """Turns lines into row groups; to be used by one thread at a time."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._schema = pa.schema([(column.name, _TYPES[column.holds]) for column in columns])
        self._outgoing = _Outgoing()
        self._writer = parquet.ParquetWriter(
            pa.PythonFile(self._outgoing, mode="w"),
            self._schema,
            compression="zstd",
            use_dictionary=[column.name for column in columns if column.holds is Holds.LABEL],
        )
        self._parse = csv.ParseOptions(newlines_in_values=False)
        # An empty field is nothing, an empty field in quotes an empty text; no other word means nothing.
        self._convert = csv.ConvertOptions(
            column_types=self._schema,
            null_values=[""],
            true_values=["true"],
            false_values=["false"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )

    def add(self, lines: bytes) -> bytes:
        """Write the lines as one row group, and return what is to be sent."""
        # All of it is one block, so that no line is cut.
        read = csv.ReadOptions(column_names=self._schema.names, use_threads=False, block_size=len(lines) + 1)
        table = csv.read_csv(pa.BufferReader(lines), read, self._parse, self._convert)
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        return self._outgoing.take()

    def add_rows(self, rows: Sequence[Mapping[str, object]]) -> bytes:
        """Write the rows as one row group, and return what is to be sent."""
        self._writer.write_table(pa.Table.from_pylist(list(rows), schema=self._schema))
        return self._outgoing.take()

    def end(self) -> bytes:
        """Return the footer; without it nobody reads the file."""
        self._writer.close()
        return self._outgoing.take()
