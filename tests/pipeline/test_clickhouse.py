"""One interface over two transports: a server, and the engine in this process."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest
from clickhouse_connect.driver.client import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.clickhouse import ClickHouse, ClickHouseRefused, ClickHouseTooSlow, ClickHouseUnavailable, SentRows
from app.core.settings import ClickHouseSettings
from app.pipeline.schema import migrate
from tests.pipeline import clickhouse_http
from tests.pipeline.outbox_run import column
from tests.pipeline.payloads import FLOATS, MOMENTS, TEXT

SLOW_QUERY = "SELECT count() FROM numbers(1000000000000) WHERE number % 7 = 3"
ANY_EXAMPLE = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["engine", "server"])
async def either(request: pytest.FixtureRequest, connect_engine: Callable[..., Client]) -> AsyncIterator[ClickHouse]:
    """A ClickHouse with one table, `t`, over each of the transports."""
    name = f"either_{uuid4().hex}"
    with clickhouse_http.serving(connect_engine) as port:
        clickhouse = (
            await ClickHouse.over_engine(connect_engine, name)
            if request.param == "engine"
            else await ClickHouse.connect_server(_settings(port, name))
        )
        await clickhouse.create_database()
        await clickhouse.command(
            "CREATE TABLE t (id Int64, at DateTime64(6, 'UTC'), text String, value Nullable(Float64))"
            " ENGINE = MergeTree ORDER BY id"
        )
        yield clickhouse
        await clickhouse.command(f"DROP DATABASE {name} SYNC")
        await clickhouse.close()


async def test_rows__inserted_json__comes_back_by_name(either: ClickHouse) -> None:
    at = datetime(2026, 3, 4, 5, 6, 7, 891_011, tzinfo=UTC)
    elsewhere = at.astimezone(timezone(timedelta(hours=5, minutes=45)))

    await either.insert_json(
        "t",
        [
            f'{{"id": 1, "at": "{at.isoformat()}", "text": "é\\u00e9", "value": 0.30000000000000004}}'.encode(),
            f'{{"id": 2, "at": "{elsewhere.isoformat()}", "value": null, "more": 1,'
            f' "text": {{"a": [1, "x"]}}}}'.encode(),
        ],
    )

    assert await either.rows("SELECT * FROM t ORDER BY id") == [
        {"id": 1, "at": at, "text": "éé", "value": 0.1 + 0.2},
        {"id": 2, "at": at, "text": '{"a": [1, "x"]}', "value": None},
    ]


async def test_rows__nothing_found__is_empty(either: ClickHouse) -> None:
    assert await either.rows("SELECT * FROM t") == []


@ANY_EXAMPLE
@given(
    text=TEXT | st.sampled_from(["\\N", "NULL", "'", "{text:String}", "%s", "\0\t\r\n\\"]), number=FLOATS, at=MOMENTS
)
async def test_rows__any_parameter__arrives_exactly(either: ClickHouse, text: str, number: float, at: datetime) -> None:
    (row,) = await either.rows(
        "SELECT {text:String} AS text, {texts:Array(String)} AS texts, {number:Float64} AS number,"
        " {at:DateTime64(6, 'UTC')} AS at, {none:Nullable(Int64)} AS none",
        {"text": text, "texts": [text, "b"], "number": number, "at": at, "none": None},
        settings={"precise_float_parsing": 1},
    )

    assert row == {"text": text, "texts": [text, "b"], "number": number, "at": at, "none": None}


async def test_rows__naive_timestamp__is_refused(either: ClickHouse) -> None:
    with pytest.raises(ValueError, match="without a zone"):
        await either.rows("SELECT {at:DateTime64(6)}", {"at": datetime(2026, 1, 1)})  # noqa: DTZ001


async def test_rows__tables_sent_along__are_joined_with_stored_ones(either: ClickHouse) -> None:
    await either.insert_json("t", [b'{"id": 1, "at": "2026-01-01T00:00:00Z", "text": "stored", "value": 1}'])
    sent = SentRows(
        "id Int64, at DateTime64(6, 'UTC'), value Nullable(Float64)",
        [
            b'{"id": 1, "at": "2026-01-02T03:04:05.678901+02:00", "value": 0.1}',
            b'{"id": 2, "at": "2026-01-01T00:00:00Z", "value": null}',
        ],
    )

    rows = await either.rows(
        "SELECT text, hot.at AS at, hot.value AS value FROM hot LEFT JOIN t USING (id)"
        " WHERE id < {limit:Int64} ORDER BY id",
        {"limit": 2},
        tables={"hot": sent, "nobody": SentRows("id Int64", [])},
    )

    assert rows == [{"text": "stored", "at": datetime(2026, 1, 2, 1, 4, 5, 678_901, tzinfo=UTC), "value": 0.1}]


async def test_rows__hundred_thousand_rows_sent_along__arrive(either: ClickHouse) -> None:
    lines = [b'{"user_id": "user-%d", "value": %d}' % (number, number) for number in range(100_000)]

    (row,) = await either.rows(
        "SELECT uniqExact(user_id) AS users, sum(value) AS total FROM hot",
        tables={"hot": SentRows("user_id String, value Float64", lines)},
    )

    assert row == {"users": 100_000, "total": sum(range(100_000))}


async def test_rows__tables_of_one_query__are_unknown_to_the_next(either: ClickHouse) -> None:
    sent = {"hot": SentRows("id Int64", [b'{"id": 1}'])}
    with pytest.raises(ClickHouseRefused):
        await either.rows("SELECT nonsense FROM hot", tables=sent)
    assert await either.rows("SELECT id FROM hot", tables=sent) == [{"id": 1}]

    with pytest.raises(ClickHouseRefused, match="hot"):
        await either.rows("SELECT id FROM hot")


async def test_rows__parallel_queries_with_tables_of_one_name__do_not_mix(either: ClickHouse) -> None:
    async def ask(number: int) -> Any:
        lines = [b'{"id": %d}' % number] * 50
        (row,) = await either.rows(
            "SELECT groupUniqArray(id) AS ids FROM hot", tables={"hot": SentRows("id Int64", lines)}
        )
        return row["ids"]

    assert await asyncio.gather(*map(ask, range(20))) == [[number] for number in range(20)]


async def test_rows__wrong_sql__is_refused_with_its_code(either: ClickHouse) -> None:
    with pytest.raises(ClickHouseRefused) as refusal:
        await either.rows("SELECT * FROM nowhere")

    assert refusal.value.code == 60


async def test_rows__query_beyond_its_time__is_given_up(either: ClickHouse) -> None:
    with pytest.raises(ClickHouseUnavailable, match="in time"):
        await either.rows(SLOW_QUERY, settings={"max_execution_time": 1})


async def test_insert_selected__beyond_its_time__ends_in_the_server_as_well(either: ClickHouse) -> None:
    with pytest.raises(ClickHouseTooSlow):
        await either.insert_selected(
            f"INSERT INTO t (id) {SLOW_QUERY}", settings={"max_threads": 1, "max_execution_time": 1}
        )

    running = "SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO t (id)%'"
    assert await column(either, running) == [0]
    assert await column(either, "SELECT count() FROM t") == [0]


async def test_insert_selected__no_limit_given__has_that_of_the_settings(connect_engine: Callable[..., Client]) -> None:
    clickhouse = await ClickHouse.over_engine(connect_engine, f"limited_{uuid4().hex}", build_timeout_s=1)
    await clickhouse.command("CREATE TABLE t (id UInt64) ENGINE = Memory")
    began_s = time.monotonic()

    with pytest.raises(ClickHouseTooSlow):
        await clickhouse.insert_selected(f"INSERT INTO t {SLOW_QUERY}", settings={"max_threads": 1})

    assert time.monotonic() - began_s < 5
    await clickhouse.command(f"DROP DATABASE {clickhouse.database} SYNC")
    await clickhouse.close()


async def test_insert_json__one_row_that_does_not_fit__stores_none(either: ClickHouse) -> None:
    good = b'{"id": 1, "at": "2026-01-01T00:00:00Z", "text": "", "value": 1}'

    for bad in (
        b'{"id": "x"}',
        b"no json",
        good.replace(b"2026", b"soon"),
        good.replace(b'"text": ""', b'"text": null'),
    ):
        with pytest.raises(ClickHouseRefused):
            await either.insert_json("t", [good, bad])

    assert await column(either, "SELECT count() FROM t") == [0]


async def test_insert_json__nothing__does_nothing(either: ClickHouse) -> None:
    await either.insert_json("t", [])

    assert await column(either, "SELECT count() FROM t") == [0]


async def test_migrate__over_either_transport__makes_the_tables(either: ClickHouse) -> None:
    await migrate(either)

    assert await column(either, "SELECT count() FROM events FINAL") == [0]
    assert await migrate(either) == []


async def test_ping__answering__is_true(either: ClickHouse) -> None:
    assert await either.ping()


async def test_clickhouse__all_readers_busy__inserts_and_probe_go_on(clickhouse: ClickHouse) -> None:
    busy = [
        asyncio.create_task(clickhouse.rows(SLOW_QUERY, settings={"max_execution_time": 2, "max_threads": 1}))
        for _ in range(6)
    ]
    await asyncio.sleep(0.2)
    began = time.monotonic()

    await clickhouse.insert_json(
        "relay_positions", [b'{"relay": "r", "xid": 1, "seq": 1, "moved_at": "2026-01-01T00:00:00Z"}']
    )
    assert await clickhouse.ping()

    assert time.monotonic() - began < 1
    assert all(isinstance(done, ClickHouseUnavailable) for done in await asyncio.gather(*busy, return_exceptions=True))


async def test_clickhouse__long_inserts_of_selected_rows__other_inserts_go_on(clickhouse: ClickHouse) -> None:
    slow = "INSERT INTO heartbeats (lane) SELECT toInt32(number) FROM numbers(1000000000000) WHERE number % 7 = 8"
    building = [
        asyncio.create_task(clickhouse.insert_selected(slow, settings={"max_execution_time": 2, "max_threads": 1}))
        for _ in range(3)
    ]
    await asyncio.sleep(0.2)
    began = time.monotonic()

    await clickhouse.insert_json(
        "relay_positions", [b'{"relay": "r", "xid": 1, "seq": 1, "moved_at": "2026-01-01T00:00:00Z"}']
    )

    assert time.monotonic() - began < 1
    outcomes = await asyncio.gather(*building, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ClickHouseTooSlow] * 3


async def test_clickhouse__waiting_for_it__leaves_the_event_loop_free(clickhouse: ClickHouse) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    counting = asyncio.create_task(count_turns())
    with pytest.raises(ClickHouseUnavailable):
        await clickhouse.rows(SLOW_QUERY, settings={"max_execution_time": 1, "max_threads": 1})
    counting.cancel()

    assert turns > 10


async def test_server__away__says_so_and_works_when_it_is_back(connect_engine: Callable[..., Client]) -> None:
    with clickhouse_http.serving(connect_engine) as port:
        clickhouse = await ClickHouse.connect_server(_settings(port, "default"))
        assert await clickhouse.ping()

    assert not await clickhouse.ping()
    with pytest.raises(ClickHouseUnavailable):
        await clickhouse.rows("SELECT 1")
    with pytest.raises(ClickHouseUnavailable):
        await clickhouse.insert_json("t", [b"{}"])

    with clickhouse_http.serving(connect_engine, port=port):
        assert await clickhouse.rows("SELECT 1 AS one") == [{"one": 1}]
        await clickhouse.close()


async def test_server__does_not_let_us_in__is_unavailable(connect_engine: Callable[..., Client]) -> None:
    with clickhouse_http.serving(connect_engine) as port:
        settings_ = ClickHouseSettings(
            CLICKHOUSE_HOST="127.0.0.1", CLICKHOUSE_PORT=port, CLICKHOUSE_USER="u", CLICKHOUSE_PASSWORD="wrong"
        )
        clickhouse = await ClickHouse.connect_server(settings_)

        with pytest.raises(ClickHouseUnavailable):
            await clickhouse.rows("SELECT 1")
        await clickhouse.close()


def _settings(port: int, database: str) -> ClickHouseSettings:
    return ClickHouseSettings(
        CLICKHOUSE_HOST="127.0.0.1",
        CLICKHOUSE_PORT=port,
        CLICKHOUSE_DATABASE=database,
        CLICKHOUSE_USER=clickhouse_http.USER,
        CLICKHOUSE_PASSWORD=clickhouse_http.PASSWORD,
    )
