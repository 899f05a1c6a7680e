"""Lines become files, however they are cut into pieces."""

import csv
import io
import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from app.exports import encoding
from app.exports.encoding import CsvEncoder, Encoder, JsonEncoder, ParquetEncoder, encoder_for
from app.exports.parquet import ParquetFile
from app.exports.values import Column, ExportFormat, Holds

_COLUMNS = (
    Column("name", Holds.TEXT),
    Column("kind", Holds.LABEL),
    Column("at", Holds.MOMENT),
    Column("value", Holds.NUMBER),
    Column("count", Holds.WHOLE),
    Column("flag", Holds.FLAG),
    Column("document", Holds.DOCUMENT),
)
_AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
# As COPY writes them: NULL is an empty field, an empty text one in quotes.
_LINES = (
    b'"a,""b"",\xc3\xa9",x,2026-01-02T03:04:05.678901Z,0.30000000000000004,9007199254740993,true,"{""a"": [1]}"\n',
    b'"",x,2026-01-02T03:04:05.678901Z,5e-324,-1,false,\n',
    b"null,NA,,,,,\n",
)
_ROWS = [
    dict(zip([column.name for column in _COLUMNS], values, strict=True))
    for values in (
        ('a,"b",é', "x", _AT, 0.1 + 0.2, 9007199254740993, True, '{"a": [1]}'),
        ("", "x", _AT, 5e-324, -1, False, None),
        ("null", "NA", None, None, None, None, None),
    )
]


async def _file(encoder: Encoder, pieces: Sequence[bytes]) -> bytes:
    return b"".join([*[await encoder.add(piece) for piece in pieces], await encoder.end()])


def _pieces(lines: Sequence[bytes], cuts: frozenset[int]) -> list[bytes]:
    """Cut between lines."""
    starts = [0, *sorted(cut for cut in cuts if 0 < cut < len(lines)), len(lines)]
    return [b"".join(lines[start:end]) for start, end in itertools.pairwise(starts) if start < end]


_cuts = st.frozensets(st.integers(1, 2))


@given(_cuts)
async def test_csv__any_pieces__ends_each_line_with_crlf_and_alters_nothing_else(cuts: frozenset[int]) -> None:
    content = await _file(CsvEncoder(), _pieces(_LINES, cuts))
    assert content == b"".join(_LINES).replace(b"\n", b"\r\n")
    assert [row[0] for row in csv.reader(io.StringIO(content.decode(), newline=""))] == ['a,"b",é', "", "null"]


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2), max_size=4), _cuts)
async def test_json__any_rows_in_any_pieces__are_one_array(rows: list[dict[str, str]], cuts: frozenset[int]) -> None:
    lines = [f",{json.dumps(row)}\n".encode() for row in rows]
    assert json.loads(await _file(JsonEncoder(), _pieces(lines, cuts))) == rows


async def test_json__without_its_end__is_no_json() -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(await JsonEncoder().add(b',{"a": 1}\n'))


@given(_cuts)
async def test_parquet__any_pieces__reads_back_typed_and_exact(cuts: frozenset[int]) -> None:
    table = parquet.read_table(pa.BufferReader(await _file(ParquetEncoder(_COLUMNS), _pieces(_LINES, cuts))))
    assert table.to_pylist() == _ROWS
    assert table.schema.field("at").type == pa.timestamp("us", tz="UTC")


async def test_parquet__more_than_a_group__leaves_while_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding.ParquetEncoder, "_GROUP_BYTES", len(_LINES[0]) + 1)
    encoder = ParquetEncoder(_COLUMNS)
    first, second = await encoder.add(_LINES[0]), await encoder.add(_LINES[1])
    content = first + second + await encoder.add(_LINES[2]) + await encoder.end()
    assert (first, len(second) > 100) == (b"", True)
    metadata = parquet.read_metadata(pa.BufferReader(content))
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [2, 1]
    with pytest.raises(pa.ArrowInvalid):
        parquet.read_table(pa.BufferReader(content[:-1]))


@pytest.mark.parametrize("line", [b"a,x,not a moment,,,,\n", b"a,x\n", b"a,x,,,1.5,,\n"])
def test_parquet__line_that_does_not_fit__is_an_error(line: bytes) -> None:
    with pytest.raises(pa.ArrowInvalid):
        ParquetFile(_COLUMNS).add(line)


@pytest.mark.parametrize("form", list(ExportFormat))
async def test_encoder__without_any_line__makes_a_whole_file(form: ExportFormat) -> None:
    content = await _file(encoder_for(form, _COLUMNS), [])
    match form:
        case ExportFormat.CSV:
            assert content == b""  # The header is a line of PostgreSQL's.
        case ExportFormat.JSON:
            assert json.loads(content) == []
        case ExportFormat.PARQUET:
            assert parquet.read_table(pa.BufferReader(content)).num_rows == 0
