"""ClickHouse: one way to talk to a real server and to the engine inside this process.

Both are driven by the same synchronous client, which works in threads; the engine in the process releases the
GIL. Reading, writing, building, paging and the probe have threads and connections of their own, so that none waits for
another.

Rows that are not in ClickHouse travel along with a query as `tables`: each is an ordinary table under its
name, for this query alone (external data on a server, a temporary table in the engine). A String parameter
read by `format()` is no way to do that: a server refuses parameters above 128 KiB, and it is 20 times slower.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, OperationalError
from clickhouse_connect.driver.external import ExternalData

from app.core.errors import Unavailable
from app.core.settings import ClickHouseSettings

T = TypeVar("T")

_READERS = 4
_WRITERS = 2
_PAGERS = 2
_CONNECT_TIMEOUT_S = 3
_READ_TIMEOUT_S = 30
_WRITE_TIMEOUT_S = 60
_BUILD_TIMEOUT_S = 300
# The server gives up first, so that nothing goes on of which nobody knows the end.
_LONGER_THAN_THE_SERVER_S = 10
_PROBE_TIMEOUT_S = 5

# What makes a payload's JSON arrive exactly: objects as their text in String columns, ISO timestamps with any
# offset, floats to the last bit; keys that are no columns (`schema_version`) are left out.
_INPUT_SETTINGS: Mapping[str, Any] = {
    "date_time_input_format": "best_effort",
    "input_format_skip_unknown_fields": 1,
    "input_format_json_read_objects_as_strings": 1,
    "precise_float_parsing": 1,
    # A missing value must be an error, not a silent 0.
    "input_format_null_as_default": 0,
}
# The answer to an insert means that the rows are stored.
_INSERT_SETTINGS: Mapping[str, Any] = {**_INPUT_SETTINGS, "async_insert": 0}
# The server drops repeated inserts block by block, so that the same lines must be cut into blocks in the same way
# each time: read by one thread, and below the sizes at which it begins a new block (1 M rows, 256 MB).
_TOKEN_SETTINGS: Mapping[str, Any] = {**_INSERT_SETTINGS, "input_format_parallel_parsing": 0, "max_insert_threads": 1}

# What makes plain names right where they stand for tables that are spread over a cluster's shards.
_CLUSTER_SETTINGS: Mapping[str, Any] = {
    # The answer to an insert means that the rows are in their shards, and not in a queue on the way there.
    "distributed_foreground_insert": 1,
    # A subquery means all its rows, also where the query around it is sent to each shard.
    "distributed_product_mode": "global",
    # Below the time after which nobody waits any more.
    "insert_quorum_timeout": (_WRITE_TIMEOUT_S - 10) * 1000,
    "distributed_ddl_task_timeout": _WRITE_TIMEOUT_S - 10,
}
# An insert is acknowledged when every replica of its shard has the rows. Then what a heartbeat proves is true of
# whichever replica is asked; while one is away the outbox waits.
_REPLICAS = "SELECT max(replica_num) FROM system.clusters WHERE cluster = {cluster:String}"

# An exception in the middle of an answer would look like lines of it, so that the server answers when it has them all.
_WHOLE_ANSWERS: Mapping[str, Any] = {"wait_end_of_query": 1}

# Error codes that say "not now" rather than "not like this". Source: ClickHouse, src/Common/ErrorCodes.cpp.
_TIMED_OUT = frozenset({159, 160, 209})
_OVERLOADED_OR_READ_ONLY = frozenset({164, 202, 203, 241, 242, 243, 252})
_NETWORK_OR_KEEPER = frozenset({210, 225, 279, 285, 286, 319, 999})
_CANCELLED = frozenset({236, 394})
_NOT_LET_IN = frozenset({192, 193, 194, 516})
_NOT_NOW = _TIMED_OUT | _OVERLOADED_OR_READ_ONLY | _NETWORK_OR_KEEPER | _CANCELLED | _NOT_LET_IN

Connect = Callable[..., Client]


class ClickHouseUnavailable(Unavailable):
    """ClickHouse cannot be reached or cannot do the work now."""

    slug = "clickhouse-unavailable"
    title = "The history is not available"


class ClickHouseTooSlow(ClickHouseUnavailable):
    """The work was given up because it took too long; done again at once, it would most likely take as long."""


class ClickHouseRefused(Exception):
    """ClickHouse understood the connection but not the statement or the rows; `code` is its error code."""

    def __init__(self, message: str, *, code: int | None) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class SentRows:
    """Rows that travel with a query.

    `structure` is as in CREATE TABLE (`user_id String, value Nullable(Float64)`), each line a JSON object.
    """

    structure: str
    lines: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class _Query:
    """What is asked, with everything that the answer depends on; `tables` travel along."""

    sql: str
    parameters: dict[str, Any]
    settings: dict[str, Any]
    tables: Mapping[str, SentRows]


# Asks a client, with what is sent in the same request.
_Ask: TypeAlias = Callable[[Client, _Query, ExternalData | None], T]


class ClickHouse:
    """The history's database. Every method raises `ClickHouseUnavailable` when it cannot be reached."""

    def __init__(
        self,
        connect: Callable[[int], Client],
        database: str,
        *,
        embedded: bool,
        cluster: str | None = None,
        read_timeout_s: int = _READ_TIMEOUT_S,
        build_timeout_s: int = _BUILD_TIMEOUT_S,
    ) -> None:
        self.database = database
        self.cluster = cluster
        self._embedded = embedded
        self._read_timeout_s = read_timeout_s
        self._build_timeout_s = build_timeout_s
        self._reading = _Lane("clickhouse-read", connect, threads=_READERS, timeout_s=read_timeout_s)
        self._writing = _Lane("clickhouse-write", connect, threads=_WRITERS, timeout_s=_WRITE_TIMEOUT_S)
        self._building = _Lane(
            "clickhouse-build", connect, threads=1, timeout_s=build_timeout_s + _LONGER_THAN_THE_SERVER_S
        )
        self._paging = _Lane(
            "clickhouse-page", connect, threads=_PAGERS, timeout_s=build_timeout_s + _LONGER_THAN_THE_SERVER_S
        )
        self._probing = _Lane("clickhouse-probe", connect, threads=1, timeout_s=_PROBE_TIMEOUT_S)

    @classmethod
    async def connect_server(cls, settings: ClickHouseSettings) -> Self:
        """Prepare for a server; connections are opened by their first use, so that it may be away now."""
        # What it warns of is also raised.
        logging.getLogger("clickhouse_connect").setLevel(logging.ERROR)

        def connect(timeout_s: int) -> Client:
            client = clickhouse_connect.get_client(
                interface="https" if settings.secure else "http",
                host=settings.host,
                port=settings.port,
                username=settings.user,
                password=settings.password.get_secret_value(),
                ca_cert=None if settings.ca_file is None else str(settings.ca_file),
                connect_timeout=_CONNECT_TIMEOUT_S,
                send_receive_timeout=timeout_s,
                autogenerate_session_id=False,
                dedicated_pool=True,
                tz_mode="aware",
            )
            if settings.cluster is not None:
                _use_cluster(client, settings.cluster)
            # Not at the connection: the database is made by the first migration.
            client.database = settings.database
            return client

        return cls(
            connect,
            settings.database,
            embedded=False,
            cluster=settings.cluster,
            read_timeout_s=settings.read_timeout_s,
            build_timeout_s=settings.build_timeout_s,
        )

    @classmethod
    async def open_embedded(cls, folder: Path, database: str) -> Self:
        """Open the engine in this process on `folder`; a process can have one such folder at a time."""

        def connect(*, database: str) -> Client:
            return clickhouse_connect.get_client(interface="chdb", path=str(folder), database=database, tz_mode="aware")

        return await cls.over_engine(connect, database)

    @classmethod
    async def over_engine(cls, connect: Connect, database: str, *, build_timeout_s: int = _BUILD_TIMEOUT_S) -> Self:
        """Use an engine that is open in this process: `connect(database=...)` returns a new client of it."""

        def connect_to_own(_timeout_s: int) -> Client:
            client: Client = connect(database="default")
            _ensure_database(client, database)
            client.database = database
            return client

        clickhouse = cls(connect_to_own, database, embedded=True, build_timeout_s=build_timeout_s)
        try:
            await clickhouse.rows("SELECT 1")
        except BaseException:
            await clickhouse.close()
            raise
        return clickhouse

    async def rows(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        tables: Mapping[str, SentRows] | None = None,
    ) -> list[dict[str, Any]]:
        """Return a query's rows by column name; timestamps are aware and in UTC.

        Parameters are bound by the server where the query says `{name:Type}`. `tables` are the rows that
        travel along; choose names that no table of the database has.

        Raises:
            ClickHouseUnavailable: it cannot be reached, or took too long.
            ClickHouseRefused: the query is wrong.
        """
        limits = {"max_execution_time": self._read_timeout_s, **(settings or {})}
        return await self._asked(self._reading, _query(sql, parameters, limits, tables), _select)

    async def lines(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        form: str = "TabSeparated",
        settings: Mapping[str, Any] | None = None,
        tables: Mapping[str, SentRows] | None = None,
    ) -> bytes:
        """Return a query's rows as ClickHouse writes them out in one of its formats, for who passes them on.

        Such queries have threads of their own, and may take as long as building; ask for what memory can hold.

        Raises:
            ClickHouseUnavailable: it cannot be reached, or took too long.
            ClickHouseRefused: the query is wrong.
        """
        limits = {"max_execution_time": self._build_timeout_s, **_WHOLE_ANSWERS, **(settings or {})}
        return await self._asked(self._paging, _query(sql, parameters, limits, tables), partial(_write_out, form))

    async def _asked(self, lane: "_Lane", query: _Query, ask: _Ask[T]) -> T:
        with_tables = _with_temporary if self._embedded else _with_external
        return await lane.run(lambda client: with_tables(client, query, ask))

    async def command(self, sql: str) -> None:
        """Run a statement that answers nothing.

        Raises:
            ClickHouseUnavailable: it cannot be reached.
            ClickHouseRefused: the statement is wrong.
        """
        await self._writing.run(lambda client: client.command(sql))

    async def insert_selected(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Run INSERT ... SELECT with bound parameters, one at a time; the rows are stored when this returns.

        Raises:
            ClickHouseTooSlow: it took longer than it may; some of the rows may be stored.
            ClickHouseUnavailable: it cannot be reached; whether the rows are stored is not known.
            ClickHouseRefused: the statement is wrong.
        """
        limits = {"max_execution_time": self._build_timeout_s, **(settings or {})}
        query = _query(sql, parameters, limits)
        await self._building.run(
            lambda client: client.command(query.sql, parameters=query.parameters, settings=query.settings)
        )

    async def create_database(self) -> None:
        """Make the database of this object's name if there is none; the right to is needed only then."""
        await self._writing.run(lambda client: _ensure_database(client, self.database, self.cluster))

    async def insert_json(self, table: str, lines: Sequence[bytes], *, token: str | None = None) -> None:
        """Insert JSON objects as they are, in one insert; they are stored when this returns.

        A `token` names exactly these lines: the server drops an insert whose token it has seen of late.

        Raises:
            ClickHouseUnavailable: it cannot be reached; whether the rows are stored is not known.
            ClickHouseRefused: a row does not fit the table; none is stored.
        """
        settings = _INSERT_SETTINGS if token is None else {**_TOKEN_SETTINGS, "insert_deduplication_token": token}
        if lines:
            await self._writing.run(lambda client: _insert(client, table, lines, settings))

    async def ping(self) -> bool:
        """Tell whether it answers queries now."""
        try:
            await self._probing.run(lambda client: client.query("SELECT 1"))
        except (ClickHouseUnavailable, ClickHouseRefused):
            return False
        return True

    async def close(self) -> None:
        """Let running work end and close all connections."""
        for lane in (self._reading, self._writing, self._building, self._paging, self._probing):
            await asyncio.to_thread(lane.close)


class _Lane:
    """Threads for one kind of work, each with a connection of its own."""

    def __init__(self, name: str, connect: Callable[[int], Client], *, threads: int, timeout_s: int) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._own = threading.local()
        self._clients: list[Client] = []

    async def run(self, work: Callable[[Client], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            # The thread gives up by its own time-outs; this one also bounds the wait for a thread.
            async with asyncio.timeout(self._timeout_s + _CONNECT_TIMEOUT_S):
                return await loop.run_in_executor(self._threads, self._run, work)
        except TimeoutError as error:
            raise ClickHouseTooSlow("ClickHouse did not answer in time.") from error

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        for client in self._clients:
            client.close()

    def _run(self, work: Callable[[Client], T]) -> T:
        try:
            return work(self._client())
        except ClickHouseError as error:
            raise _translated(error) from error
        except OSError as error:
            raise ClickHouseUnavailable(f"ClickHouse cannot be reached: {error}.") from error

    def _client(self) -> Client:
        client: Client | None = getattr(self._own, "client", None)
        if client is None:
            client = self._own.client = self._connect(self._timeout_s)
            self._clients.append(client)
        return client


def _ensure_database(client: Client, name: str, cluster: str | None = None) -> None:
    # That it exists on this node says nothing about the others.
    if cluster is not None:
        client.command(f"CREATE DATABASE IF NOT EXISTS {name} ON CLUSTER '{cluster}'", use_database=False)
    elif not client.command(f"EXISTS DATABASE {name}", use_database=False):
        client.command(f"CREATE DATABASE IF NOT EXISTS {name}", use_database=False)


def _use_cluster(client: Client, cluster: str) -> None:
    ((replicas,),) = client.query(_REPLICAS, {"cluster": cluster}).result_rows
    if replicas == 0:
        raise ClickHouseRefused(f"CLICKHOUSE_CLUSTER: the server knows no cluster {cluster!r}", code=None)
    for name, value in {**_CLUSTER_SETTINGS, "insert_quorum": replicas}.items():
        client.set_client_setting(name, value)


def _query(
    sql: str,
    parameters: Mapping[str, Any] | None,
    settings: dict[str, Any],
    tables: Mapping[str, SentRows] | None = None,
) -> _Query:
    return _Query(sql, {name: _bindable(value) for name, value in (parameters or {}).items()}, settings, tables or {})


def _with_external(client: Client, query: _Query, ask: _Ask[T]) -> T:
    if not query.tables:
        return ask(client, query, None)
    sent = ExternalData()
    for name, table in query.tables.items():
        sent.add_file(file_name=name, data=b"\n".join(table.lines), fmt="JSONEachRow", structure=table.structure)
    return ask(client, replace(query, settings={**query.settings, **_INPUT_SETTINGS}), sent)


def _with_temporary(client: Client, query: _Query, ask: _Ask[T]) -> T:
    """Temporary tables belong to the connection, which this thread has for itself."""
    made: list[str] = []
    try:
        for name, table in query.tables.items():
            client.command(f"CREATE TEMPORARY TABLE {name} ({table.structure}) ENGINE = Memory")
            made.append(name)
            _insert(client, name, table.lines, _INPUT_SETTINGS)
        return ask(client, query, None)
    finally:
        for name in made:
            client.command(f"DROP TEMPORARY TABLE {name}")


def _select(client: Client, query: _Query, sent: ExternalData | None) -> list[dict[str, Any]]:
    result = client.query(query.sql, parameters=query.parameters, settings=query.settings, external_data=sent)
    return [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]


def _write_out(form: str, client: Client, query: _Query, sent: ExternalData | None) -> bytes:
    return client.raw_query(
        query.sql, parameters=query.parameters, settings=query.settings, fmt=form, external_data=sent
    )


def _insert(client: Client, table: str, lines: Sequence[bytes], settings: Mapping[str, Any]) -> None:
    client.raw_insert(table, insert_block=b"\n".join(lines), fmt="JSONEachRow", settings=dict(settings))


def _bindable(value: Any) -> Any:  # noqa: ANN401  # Parameters have any type that ClickHouse has.
    """Write timestamps out: the driver would cut them at the second."""
    match value:
        case datetime():
            if value.tzinfo is None:
                raise ValueError("a timestamp without a zone cannot be compared with the history")
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        case list() | tuple():
            return [_bindable(item) for item in value]
        case _:
            return value


def _translated(error: ClickHouseError) -> ClickHouseUnavailable | ClickHouseRefused:
    code = error.code if isinstance(error, DatabaseError) else None
    # Without a code it was no answer of ClickHouse's: the transport failed, or a proxy in between.
    no_answer = code is None and (isinstance(error, OperationalError) or type(error) is DatabaseError)
    if code in _TIMED_OUT:
        return ClickHouseTooSlow("ClickHouse did not answer in time.")
    if no_answer or code in _NOT_NOW:
        return ClickHouseUnavailable("ClickHouse cannot be reached or is too busy now. Try again later.")
    return ClickHouseRefused(str(error), code=code)
