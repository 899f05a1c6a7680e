"""DDL for a cluster, rendered from the statements for one node. From text to text, no I/O.

A table with a column `user_id` is spread over the shards: its rows are in `<name>_local`, replicated within each
shard, and `<name>` is a Distributed table over all of them. A user's rows are all in one shard, copies of a
redelivered row among them, so FINAL in each shard is FINAL over all.

Any other table is whole on every node: one replicated table, whose replicas are all nodes of all shards. A table
that has a `user_id` and is to be whole all the same says so with `COMMENT 'whole on every node'`.

Whatever else is not understood is refused, because a statement that runs on one node alone goes unnoticed until
that node is asked.
"""

import re

WHOLE = "whole on every node"

# Each comes with its copies, so an answer computed shard by shard has all of a user's rows at hand.
_SHARDING_KEY = "cityHash64(user_id)"

# Keeper's paths hold names, not macros for them, so that tables can be exchanged. Two nodes may have the same
# {replica} in different shards, so it takes both to tell the nodes apart.
_SHARD_PATH = "'/clickhouse/tables/{database}/{table}/{{shard}}', '{{replica}}'"
_WHOLE_PATH = "'/clickhouse/tables/{database}/{table}/every_node', '{{shard}}-{{replica}}'"

_QUOTED = re.compile(r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.)*\"|`(?:[^`\\]|\\.)*`", re.DOTALL)
# What is hidden from the patterns below, one character for another, so that positions stay the same.
_HIDDEN = "\0"

_CREATE = re.compile(
    r"CREATE\s+TABLE\s+(?P<condition>IF\s+NOT\s+EXISTS\s+)?(?P<name>\w+)\s*\((?P<columns>\0*)\)"
    r"\s*ENGINE\s*=\s*(?P<engine>\w+)(?:\s*\((?P<arguments>\0*)\))?(?P<rest>(?!.*\sAS\s)(?:\s.*)?)",
    re.DOTALL | re.IGNORECASE,
)
_DROP = re.compile(r"DROP\s+TABLE\s+(?P<condition>IF\s+EXISTS\s+)?(?P<name>\w+)(?:\s+SYNC)?", re.IGNORECASE)
_ALTER = re.compile(r"ALTER\s+TABLE\s+(?P<name>\w+)\s+(?P<actions>.+)", re.DOTALL | re.IGNORECASE)
_EXCHANGE = re.compile(r"EXCHANGE\s+TABLES\s+(?P<name>\w+)\s+AND\s+(?P<other>\w+)", re.IGNORECASE)

_MERGE_TREE = re.compile(r"(?!Replicated|Shared)\w*MergeTree")
# The alterations that a Distributed table follows; of all others it has nothing to know.
_OF_COLUMNS = re.compile(r"(?:ADD|DROP|MODIFY|RENAME|COMMENT)\s+COLUMN\s", re.IGNORECASE)
_WHOLE_COMMENT = re.compile(rf"\bCOMMENT\s+'{WHOLE}'", re.IGNORECASE)
# The same window has another name where a table is replicated.
_WINDOW, _REPLICATED_WINDOW = re.compile(r"\bnon_replicated_deduplication_window\b"), "replicated_deduplication_window"


class NotUnderstood(Exception):
    """A statement that cannot be rendered for a cluster; the message says why."""


class ClusterDdl:
    """Renders statements in the order in which they are written, since later ones refer to earlier ones' tables."""

    def __init__(self, cluster: str, database: str) -> None:
        self._cluster = cluster
        self._database = database
        self._is_sharded: dict[str, bool] = {}

    def render(self, statement: str) -> list[str]:
        """Return the statements that do on a cluster what this one does on one node.

        Raises:
            NotUnderstood: there is no telling what they would be.
        """
        shown = _without_contents(statement)
        for pattern, render in (
            (_CREATE, self._create),
            (_DROP, self._drop),
            (_ALTER, self._alter),
            (_EXCHANGE, self._exchange),
        ):
            if match := pattern.fullmatch(shown):
                return render(statement, match)
        raise NotUnderstood(
            "only CREATE TABLE (columns) ENGINE = ...MergeTree, ALTER TABLE, DROP TABLE and EXCHANGE TABLES"
            " can be rendered for a cluster"
        )

    @property
    def _on_cluster(self) -> str:
        return f"ON CLUSTER '{self._cluster}'"

    def _create(self, statement: str, match: re.Match[str]) -> list[str]:
        name, engine = match["name"], match["engine"]
        columns, rest = _original(statement, match, "columns"), _original(statement, match, "rest")
        if not _MERGE_TREE.fullmatch(engine):
            raise NotUnderstood(f"{engine} has no replicated form")
        sharded = "user_id" in _columns(columns) and not _WHOLE_COMMENT.search(rest)
        self._is_sharded[name] = sharded
        stored = self._stored(name)
        path = (_SHARD_PATH if sharded else _WHOLE_PATH).format(database=self._database, table=stored)
        arguments = ", ".join(filter(None, [path, _original(statement, match, "arguments").strip()]))
        condition = "IF NOT EXISTS " if match["condition"] else ""
        replicated = (
            f"CREATE TABLE {condition}{stored} {self._on_cluster} ({columns})"
            f" ENGINE = Replicated{engine}({arguments}){_WINDOW.sub(_REPLICATED_WINDOW, rest)}"
        )
        distributed = (
            f"CREATE TABLE {condition}{name} {self._on_cluster} AS {stored}"
            f" ENGINE = Distributed('{self._cluster}', '{self._database}', '{stored}', {_SHARDING_KEY})"
        )
        return [replicated, distributed] if sharded else [replicated]

    def _drop(self, _statement: str, match: re.Match[str]) -> list[str]:
        # SYNC: otherwise Keeper's path stays taken for minutes, and the table cannot be made anew.
        condition = "IF EXISTS " if match["condition"] else ""
        # The Distributed table first: it must not be there without what it reads.
        names = dict.fromkeys((match["name"], self._stored(match["name"])))
        return [f"DROP TABLE {condition}{name} {self._on_cluster} SYNC" for name in names]

    def _alter(self, statement: str, match: re.Match[str]) -> list[str]:
        name, actions = match["name"], _original(statement, match, "actions")
        stored = self._stored(name)
        rendered = [f"ALTER TABLE {stored} {self._on_cluster} {_WINDOW.sub(_REPLICATED_WINDOW, actions)}"]
        of_columns = [bool(_OF_COLUMNS.match(action)) for action in _split(actions)]
        if stored == name or not any(of_columns):
            return rendered
        if not all(of_columns):
            raise NotUnderstood("alterations of columns and others need a statement each")
        return [*rendered, f"ALTER TABLE {name} {self._on_cluster} {actions}"]

    def _exchange(self, _statement: str, match: re.Match[str]) -> list[str]:
        names = match["name"], match["other"]
        if len({self._known(name) for name in names}) > 1:
            raise NotUnderstood("a table that is spread over the shards cannot become one that is not")
        # Distributed tables read by name, so they follow.
        return [f"EXCHANGE TABLES {' AND '.join(map(self._stored, names))} {self._on_cluster}"]

    def _stored(self, name: str) -> str:
        """Return the table that has the rows."""
        return f"{name}_local" if self._known(name) else name

    def _known(self, name: str) -> bool:
        if name not in self._is_sharded:
            raise NotUnderstood(f"no earlier statement makes a table {name}")
        return self._is_sharded[name]


def _without_contents(sql: str) -> str:
    """Hide what stands in quotes and in parentheses."""
    unquoted = _QUOTED.sub(lambda quoted: _HIDDEN * len(quoted[0]), sql)
    shown: list[str] = []
    depth = 0
    for character in unquoted:
        depth -= character == ")"
        shown.append(_HIDDEN if depth else character)
        depth += character == "("
    return "".join(shown)


def _original(statement: str, match: re.Match[str], group: str) -> str:
    start, end = match.span(group)
    return statement[start:end] if start >= 0 else ""


def _split(text: str) -> list[str]:
    """Split at the commas that stand in no parentheses."""
    shown = _without_contents(text)
    ends = [position for position, character in enumerate(shown) if character == ","]
    return [
        text[start:end].strip() for start, end in zip([0, *(end + 1 for end in ends)], [*ends, len(text)], strict=True)
    ]


def _columns(text: str) -> set[str]:
    return {part.split(maxsplit=1)[0].strip('`"') for part in _split(text)}
