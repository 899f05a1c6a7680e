"""Running the numbered DDL files of ClickHouse, each once, on one node or on all of a cluster."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from app.core.clickhouse import ClickHouse
from app.core.clock import Clock, utc_now
from app.pipeline.cluster_ddl import ClusterDdl, NotUnderstood

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


# The first table of all is one that is spread over the shards.
_FORM = """
SELECT countIf(name = 'exposures_local') > 0 AS of_cluster,
    countIf(name = 'exposures') > 0 AND NOT of_cluster AS of_node
FROM system.tables WHERE database = currentDatabase()
"""
_RECORDS_FILE = "the table of what ran"
_LONGEST_QUOTE = 100

_Render = Callable[[str], Sequence[str]]


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
        SchemaError: a file was changed after it ran, or has a statement that cannot be rendered for the cluster; or
            the tables were made for one node and a cluster is asked for, or the other way round.
        ClickHouseUnavailable: it cannot be reached.
        ClickHouseRefused: a statement is wrong; what ran before it stays.
    """
    render = _renderer(clickhouse)
    records = _rendered(_RECORDS_FILE, _RECORDS, render)
    files = _files(folder)
    # All of them, also those that ran: they say what the tables are that later ones alter.
    rendered = {file.name: _rendered(file.name, file.sql, render) for file in files}
    await clickhouse.create_database()
    await _refuse_another_form(clickhouse)
    await _run(clickhouse, records)
    rows = await clickhouse.rows("SELECT name, checksum FROM schema_migrations FINAL")
    applied = {row["name"]: row["checksum"] for row in rows}
    _refuse_changed(files, applied)
    pending = [file for file in files if file.name not in applied]
    for file in pending:
        await _run(clickhouse, rendered[file.name])
        await _record(clickhouse, file, clock)
    return [file.name for file in pending]


async def alter(clickhouse: ClickHouse, sql: str, folder: Path = DDL_FOLDER) -> None:
    """Run DDL on tables that the files make, wherever their rows are.

    Raises:
        SchemaError: a statement cannot be rendered for the cluster.
        ClickHouseUnavailable: it cannot be reached.
        ClickHouseRefused: a statement is wrong; what ran before it stays.
    """
    render = _renderer(clickhouse)
    for file in _files(folder):
        _rendered(file.name, file.sql, render)
    await _run(clickhouse, _rendered("asked for", sql, render))


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


async def _refuse_another_form(clickhouse: ClickHouse) -> None:
    (made,) = await clickhouse.rows(_FORM)
    if made["of_cluster"] and clickhouse.cluster is None:
        raise SchemaError("the tables are those of a cluster. Set CLICKHOUSE_CLUSTER to its name.")
    if made["of_node"] and clickhouse.cluster is not None:
        raise SchemaError(
            "the tables were made for one node. Unset CLICKHOUSE_CLUSTER, or name another CLICKHOUSE_DATABASE, which"
            " is then filled from the start."
        )


def _renderer(clickhouse: ClickHouse) -> _Render:
    if clickhouse.cluster is None:
        return lambda statement: [statement]
    return ClusterDdl(clickhouse.cluster, clickhouse.database).render


def _rendered(name: str, sql: str, render: _Render) -> list[str]:
    rendered: list[str] = []
    for statement in statements(sql):
        try:
            rendered += render(statement)
        except NotUnderstood as reason:
            raise SchemaError(f"{name}: {reason}: {_shortened(statement)}") from reason
    return rendered


def _shortened(statement: str) -> str:
    line = " ".join(statement.split())
    return line if len(line) <= _LONGEST_QUOTE else f"{line[:_LONGEST_QUOTE]}..."


async def _run(clickhouse: ClickHouse, rendered: Sequence[str]) -> None:
    for statement in rendered:
        await clickhouse.command(statement)


async def _record(clickhouse: ClickHouse, file: _File, clock: Clock) -> None:
    record = {"name": file.name, "checksum": file.checksum, "applied_at": clock()}
    await clickhouse.insert_json("schema_migrations", [msgspec.json.encode(record)])
    log.info("clickhouse.migrated", name=file.name)
