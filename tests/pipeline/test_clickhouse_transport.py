"""The way to a ClickHouse server: compression, TLS, time-outs, and answers that go wrong in every way there is.

Whatever happens on the way, an answer is whole or there is none.
"""

import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import clickhouse_connect
import pytest
import trustme
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from app.core.clickhouse import ClickHouse, ClickHouseRefused, ClickHouseUnavailable
from app.core.settings import ClickHouseSettings
from tests.pipeline import clickhouse_http
from tests.pipeline.clickhouse_http import Fault
from tests.pipeline.outbox_run import column

ENCODINGS = [None, "lz4", "zstd", "gzip", "deflate"]
# Several blocks of the native format, of types whose lengths differ.
ROWS = (
    "SELECT number AS id, repeat('text ', number % 9) AS text, if(number % 3, NULL, number / 7) AS value"
    " FROM numbers({})"
)
QUERY = ROWS.format(200_000)
SHORT_QUERY = ROWS.format(30) + " SETTINGS max_block_size = 7"
# Below it nobody waits for an answer.
SOON_S = 10.0


class Server:
    """A stand-in for a server that goes wrong at the queries that contain a text, and counts them."""

    def __init__(self, connect_engine: Callable[..., Client], database: str) -> None:
        self.database = database
        self.asked = 0
        self._connect_engine = connect_engine

    @contextmanager
    def going_wrong(self, *faults: Fault | None, at: str, **options: Any) -> Iterator[int]:
        """Serve; the first query that contains `at` has the first fault, and so on; the last one stays."""

        def misbehave(sql: bytes) -> Fault | None:
            if at.encode() not in sql:
                return None
            self.asked += 1
            return faults[min(self.asked, len(faults)) - 1]

        with clickhouse_http.serving(self._connect_engine, misbehave=misbehave, **options) as port:
            yield port


@pytest.fixture
async def stored(connect_engine: Callable[..., Client]) -> AsyncIterator[ClickHouse]:
    """The engine itself, with a table `t`: what is stored is asked here."""
    clickhouse = await ClickHouse.over_engine(connect_engine, f"transport_{uuid4().hex}")
    await clickhouse.command(
        "CREATE TABLE t (id Int64) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100"
    )
    yield clickhouse
    await clickhouse.command(f"DROP DATABASE {clickhouse.database} SYNC")
    await clickhouse.close()


@pytest.fixture
def server(connect_engine: Callable[..., Client], stored: ClickHouse) -> Server:
    return Server(connect_engine, stored.database)


@pytest.fixture
async def connect(stored: ClickHouse) -> AsyncIterator[Callable[..., Any]]:
    """A function that connects to a port as the service does."""
    opened: list[ClickHouse] = []

    async def to(port: int, **variables: object) -> ClickHouse:
        settings: dict[str, Any] = {
            "CLICKHOUSE_HOST": "127.0.0.1",
            "CLICKHOUSE_PORT": port,
            "CLICKHOUSE_DATABASE": stored.database,
            "CLICKHOUSE_USER": clickhouse_http.USER,
            "CLICKHOUSE_PASSWORD": clickhouse_http.PASSWORD,
            **variables,
        }
        opened.append(await ClickHouse.connect_server(ClickHouseSettings(**settings)))
        return opened[-1]

    yield to
    for clickhouse in opened:
        await clickhouse.close()


# --- Compression ---


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_rows__answer_compressed_in_any_way__is_the_same(
    server: Server, stored: ClickHouse, connect: Callable[..., Any], encoding: str | None
) -> None:
    used: list[str | None] = []
    with server.going_wrong(None, at="numbers", encoding=encoding, used_encodings=used) as port:
        clickhouse = await connect(port)

        assert await clickhouse.rows(QUERY) == await stored.rows(QUERY)

    assert used[-1] == encoding


# The driver deflates no inserts.
@pytest.mark.parametrize("encoding", ENCODINGS[:-1])
async def test_driver__threads_or_event_loop__answers_and_inserts_are_the_same(
    server: Server, stored: ClickHouse, encoding: str | None
) -> None:
    """The service uses the synchronous client in threads, because it also drives the engine in the process."""
    with server.going_wrong(None, at="numbers", encoding=encoding) as port:
        options = _driver_options(port, server.database, encoding)
        with clickhouse_connect.get_client(**options) as client:
            client.insert("t", [[number] for number in range(1000)], column_names=["id"])
            answer = client.query(QUERY).result_rows
        async with await clickhouse_connect.get_async_client(**options) as async_client:
            await async_client.insert("t", [[number] for number in range(1000, 2000)], column_names=["id"])
            async_answer = (await async_client.query(QUERY)).result_rows

    assert answer == async_answer == [tuple(row.values()) for row in await stored.rows(QUERY)]
    assert await column(stored, "SELECT count() || ' ' || sum(id) FROM t") == [f"2000 {sum(range(2000))}"]


# --- TLS ---


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other-ca.pem")
    return authority


async def test_tls__certificate_of_a_known_authority__is_trusted(
    server: Server, connect: Callable[..., Any], authority: trustme.CA, tmp_path: Path
) -> None:
    with server.going_wrong(None, at="numbers", tls=_tls(authority, "127.0.0.1")) as port:
        clickhouse = await connect(port, CLICKHOUSE_SECURE=True, CLICKHOUSE_CA_FILE=tmp_path / "ca.pem")

        assert len(await clickhouse.rows(SHORT_QUERY)) == 30
        await clickhouse.insert_json("t", [b'{"id": 1}'])
        assert await column(clickhouse, "SELECT id FROM t") == [1]


@pytest.mark.parametrize(
    ("named", "ca_file"),
    [("127.0.0.1", "other-ca.pem"), ("127.0.0.1", None), ("elsewhere.example", "ca.pem")],
    ids=["another authority", "an authority that the system does not know", "another host"],
)
async def test_tls__certificate_of_somebody_else__is_refused(
    server: Server,
    connect: Callable[..., Any],
    authority: trustme.CA,
    tmp_path: Path,
    named: str,
    ca_file: str | None,
) -> None:
    with server.going_wrong(None, at="", tls=_tls(authority, named)) as port:
        variables = {} if ca_file is None else {"CLICKHOUSE_CA_FILE": tmp_path / ca_file}
        clickhouse = await connect(port, CLICKHOUSE_SECURE=True, **variables)

        with pytest.raises(ClickHouseUnavailable) as refusal:
            await clickhouse.rows("SELECT 1")

    assert "certificate verify failed" in str(refusal.value.__cause__)
    assert server.asked == 0, "neither query nor password may have left"


@pytest.mark.parametrize("secure", [True, False])
async def test_tls__on_one_side_alone__is_unavailable(
    server: Server, connect: Callable[..., Any], authority: trustme.CA, tmp_path: Path, *, secure: bool
) -> None:
    tls = None if secure else _tls(authority, "127.0.0.1")
    with server.going_wrong(None, at="", tls=tls) as port:
        clickhouse = await connect(port, CLICKHOUSE_SECURE=secure, CLICKHOUSE_CA_FILE=tmp_path / "ca.pem")

        with pytest.raises(ClickHouseUnavailable):
            await clickhouse.rows("SELECT 1")

    assert server.asked == 0


# --- Time-outs ---


@pytest.mark.parametrize("fault", [Fault.SILENCE, Fault.STALL])
async def test_rows__server_that_does_not_go_on__is_given_up_in_time(
    server: Server, connect: Callable[..., Any], fault: Fault
) -> None:
    with server.going_wrong(fault, at="numbers") as port:
        clickhouse = await connect(port, CLICKHOUSE_READ_TIMEOUT_SECONDS=1)
        began = time.monotonic()

        with pytest.raises(ClickHouseUnavailable):
            await clickhouse.rows(SHORT_QUERY)

        assert time.monotonic() - began < SOON_S
        assert await clickhouse.rows("SELECT 1 AS one") == [{"one": 1}]


async def test_rows__listener_that_accepts_nobody__is_given_up_in_time(connect: Callable[..., Any]) -> None:
    with ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        # Whoever fills the queue keeps all others from being connected.
        for _ in range(3):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        clickhouse = await connect(listener.getsockname()[1], CLICKHOUSE_READ_TIMEOUT_SECONDS=1)
        began = time.monotonic()

        with pytest.raises(ClickHouseUnavailable):
            await clickhouse.rows("SELECT 1")

        assert time.monotonic() - began < SOON_S


# --- Answers that go wrong ---


@pytest.mark.parametrize("encoding", [None, "lz4", "zstd", "gzip"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.5, 0.77, 0.99])
@pytest.mark.parametrize("fault", [Fault.CUT, Fault.CUT_CHUNKS, Fault.EXCEPTION, Fault.TAGGED_EXCEPTION])
async def test_rows__answer_that_breaks_off_anywhere__is_none(
    server: Server, connect: Callable[..., Any], fault: Fault, part: float, encoding: str | None
) -> None:
    with server.going_wrong(fault, at="numbers", encoding=encoding, part=part) as port:
        clickhouse = await connect(port)

        with pytest.raises(ClickHouseUnavailable):
            await clickhouse.rows(SHORT_QUERY)


@pytest.mark.parametrize("fault", [Fault.EXCEPTION, Fault.TAGGED_EXCEPTION])
async def test_rows__exception_after_the_last_row__is_no_answer(
    server: Server, connect: Callable[..., Any], fault: Fault
) -> None:
    with server.going_wrong(fault, at="numbers", part=1.0) as port:
        clickhouse = await connect(port)

        with pytest.raises(ClickHouseUnavailable):
            await clickhouse.rows(SHORT_QUERY)


@pytest.mark.parametrize("fault", [Fault.EXCEPTION_IN_HEADER, Fault.BUSY, Fault.PROXY, Fault.RESET])
async def test_rows__no_answer_at_all__is_unavailable(
    server: Server, connect: Callable[..., Any], fault: Fault
) -> None:
    with server.going_wrong(fault, at="numbers") as port:
        clickhouse = await connect(port)

        with pytest.raises(ClickHouseUnavailable):
            await clickhouse.rows(SHORT_QUERY)


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.CUT_CHUNKS, Fault.EXCEPTION, Fault.TAGGED_EXCEPTION, Fault.RESET])
async def test_driver__event_loop_and_an_answer_that_goes_wrong__raises_as_well(server: Server, fault: Fault) -> None:
    with server.going_wrong(fault, at="numbers", encoding="zstd") as port:
        options = _driver_options(port, server.database, "zstd")
        async with await clickhouse_connect.get_async_client(**options) as client:
            with pytest.raises((ClickHouseError, aiohttp.ClientError)):
                await client.query(SHORT_QUERY)


# --- Repetitions ---


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.RESET_AFTERWARDS, Fault.BUSY])
async def test_rows__first_answer_lost__is_asked_again(
    server: Server, connect: Callable[..., Any], fault: Fault
) -> None:
    with server.going_wrong(fault, None, at="numbers") as port:
        clickhouse = await connect(port)

        assert len(await clickhouse.rows(SHORT_QUERY)) == 30

    assert server.asked == 2


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.RESET_AFTERWARDS])
async def test_insert__connection_lost__is_repeated_once_under_its_token_and_stored_once(
    server: Server, stored: ClickHouse, connect: Callable[..., Any], fault: Fault
) -> None:
    with server.going_wrong(fault, None, at="INSERT") as port:
        clickhouse = await connect(port)

        await clickhouse.insert_json("t", [b'{"id": 1}'], token="line 1")

    assert server.asked == 2
    assert await column(stored, "SELECT id FROM t") == [1]


@pytest.mark.parametrize(
    ("fault", "asked"), [(Fault.RESET, 2), (Fault.RESET_AFTERWARDS, 2), (Fault.BUSY, 1), (Fault.PROXY, 1)]
)
async def test_insert__no_answer__says_so_and_can_be_repeated_under_its_token(
    server: Server, stored: ClickHouse, connect: Callable[..., Any], fault: Fault, asked: int
) -> None:
    with server.going_wrong(*[fault] * asked, None, at="INSERT") as port:
        clickhouse = await connect(port)
        with pytest.raises(ClickHouseUnavailable):
            await clickhouse.insert_json("t", [b'{"id": 1}'], token="line 1")
        assert server.asked == asked

        await clickhouse.insert_json("t", [b'{"id": 1}'], token="line 1")
        await clickhouse.insert_json("t", [b'{"id": 2}'], token="line 2")

    assert await column(stored, "SELECT id FROM t ORDER BY id") == [1, 2]


async def test_command__answer_lost__is_not_repeated_unasked(
    server: Server, stored: ClickHouse, connect: Callable[..., Any]
) -> None:
    with server.going_wrong(Fault.RESET_AFTERWARDS, None, at="ALTER") as port:
        clickhouse = await connect(port)

        with pytest.raises(ClickHouseUnavailable):
            await clickhouse.command("ALTER TABLE t ADD COLUMN more Int64")

    assert server.asked == 1
    assert await column(stored, "SELECT count(more) FROM t") == [0]


# --- Clusters ---


async def test_connect__cluster_that_the_server_does_not_know__is_refused_by_name(
    server: Server, connect: Callable[..., Any]
) -> None:
    with server.going_wrong(None, at="system.clusters") as port:
        clickhouse = await connect(port, CLICKHOUSE_CLUSTER="blue-1")

        with pytest.raises(ClickHouseRefused, match=r"CLICKHOUSE_CLUSTER.*'blue-1'"):
            await clickhouse.rows("SELECT 1")


def _driver_options(port: int, database: str, encoding: str | None) -> dict[str, Any]:
    return {
        "host": "127.0.0.1",
        "port": port,
        "username": clickhouse_http.USER,
        "password": clickhouse_http.PASSWORD,
        "database": database,
        "compress": encoding or False,
        "autogenerate_session_id": False,
    }


def _tls(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context
