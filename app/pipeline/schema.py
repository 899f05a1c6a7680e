"""Running the numbered DDL files of ClickHouse, each once."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from app.core.clickhouse import ClickHouse
from app.core.clock import Clock, utc_now

log = structlog.get_logger()

DDL_FOLDER = Path(__file__).resolve().parents[2] / "clickhouse"

# DDL has no transactions: a run that is cut short is repeated from the file's start, so every statement of a
# file says IF [NOT] EXISTS. Two processes that migrate at once are harmless for the same reason.
_RECORDS = """
CREATE TABLE IF NOT EXISTS schema_migrations
(
    name String,
    checksum String,
    applied_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(applied_at)
ORDER BY name
"""

# A semicolon within quotes, a comment or a heredoc ends no statement.
_PIECES = re.compile(
    r"""
      (?P<quoted> '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.)*" | `(?:[^`\\]|\\.)*` | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
    | (?P<comment> --[^\n]* | /\*.*?\*/ )
    | (?P<end> ; )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    sql: str
    checksum: str


class SchemaError(Exception):
    """The files and what ran do not fit together; the message names the file."""


async def migrate(clickhouse: ClickHouse, folder: Path = DDL_FOLDER, *, clock: Clock = utc_now) -> list[str]:
    """Run the files that have not run, in the order of their names, and return those names.

    Raises:
        SchemaError: a file was changed after it ran.
        ClickHouseUnavailable: it cannot be reached.
        ClickHouseRefused: a statement is wrong; what ran before it stays.
    """
    await clickhouse.create_database()
    await clickhouse.command(_RECORDS)
    rows = await clickhouse.rows("SELECT name, checksum FROM schema_migrations FINAL")
    applied = {row["name"]: row["checksum"] for row in rows}
    files = _files(folder)
    _refuse_changed(files, applied)
    pending = [file for file in files if file.name not in applied]
    for file in pending:
        await _run(clickhouse, file, clock)
    return [file.name for file in pending]


def statements(sql: str) -> Iterator[str]:
    """Split a file at its semicolons, leaving out comments and empty statements."""
    pieces: list[str] = []
    for match in _PIECES.finditer(f"{sql};"):
        if match["end"] is None:
            pieces.append(" " if match["comment"] is not None else match[0])
        else:
            statement = "".join(pieces).strip()
            pieces.clear()
            if statement:
                yield statement


def _files(folder: Path) -> list[_File]:
    # Line ends may change with a checkout; they mean nothing, and reading as text evens them out.
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("[0-9]*.sql"))}
    return [_File(name, sql, hashlib.sha256(sql.encode()).hexdigest()) for name, sql in texts.items()]


def _refuse_changed(files: list[_File], applied: dict[str, str]) -> None:
    for file in files:
        if applied.get(file.name, file.checksum) != file.checksum:
            raise SchemaError(f"{file.name} was changed after it ran. Restore it, and make the change in a new file.")


async def _run(clickhouse: ClickHouse, file: _File, clock: Clock) -> None:
    for statement in statements(file.sql):
        await clickhouse.command(statement)
    record = {"name": file.name, "checksum": file.checksum, "applied_at": clock()}
    await clickhouse.insert_json("schema_migrations", [msgspec.json.encode(record)])
    log.info("clickhouse.migrated", name=file.name)
