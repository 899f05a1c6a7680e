"""From the outbox to ClickHouse: in order, at least once, nothing stepped over."""

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.clickhouse import ClickHouse, ClickHouseUnavailable
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import PipelineSettings
from app.pipeline.loader import Loader
from app.pipeline.positions import START
from app.pipeline.relay import Relay
from tests.pipeline.outbox_run import column, drain, eventually, positions_of, rewind
from tests.pipeline.payloads import FLOATS, record_events

# PostgreSQL has no NUL in text.
PG_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)
PG_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | PG_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PG_TEXT, inner, max_size=3),
    max_leaves=8,
)


async def test_relay__rows_in_the_outbox__arrive_once(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection
) -> None:
    ids = [uuid4() for _ in range(250)]
    await record_events(postgres, ids)

    await drain(database, clickhouse, batch_rows=100)

    assert set(await _events(clickhouse)) == set(ids)
    assert await column(clickhouse, "SELECT count() FROM events") == [len(ids)]


async def test_relay__run_again__relays_only_what_is_new(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection, metrics: Metrics
) -> None:
    await record_events(postgres, [uuid4() for _ in range(20)])
    await drain(database, clickhouse)
    await record_events(postgres, [uuid4()])

    await drain(database, clickhouse, metrics=metrics)

    assert metrics.registry.get_sample_value("relayed_rows_total", {"table": "events"}) == 1


async def test_relay__died_before_storing_its_position__repeats_and_loses_nothing(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection
) -> None:
    ids = [uuid4() for _ in range(50)]
    await record_events(postgres, ids)
    await drain(database, clickhouse)
    await rewind(postgres, clickhouse, START)
    later = [uuid4() for _ in range(50)]
    await record_events(postgres, later)

    await drain(database, clickhouse)

    assert sorted(await _events(clickhouse)) == sorted(ids + later)
    # All copies of a row may have been merged by now, but the last fifty came once.
    assert await column(clickhouse, "SELECT count() >= 100 FROM events") == [1]


async def test_relay__another_clickhouse__is_filled_from_the_start(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection, make_clickhouse: Callable[..., Any]
) -> None:
    ids = [uuid4() for _ in range(10)]
    await record_events(postgres, ids)
    await drain(database, clickhouse)

    other = await make_clickhouse()
    await drain(database, other)

    assert set(await _events(other)) == set(ids)


async def test_relay__transaction_that_began_first_commits_last__its_rows_are_not_stepped_over(
    database: Database, clickhouse: ClickHouse, connect: Callable[..., Any]
) -> None:
    early, late = await connect(), await connect()
    transaction = early.transaction()
    await transaction.start()
    first, second, third = [uuid4()], [uuid4()], [uuid4()]
    await record_events(early, first)
    await record_events(late, second)

    await drain(database, clickhouse)
    assert await _events(clickhouse) == []

    await transaction.commit()
    await record_events(late, third)
    await drain(database, clickhouse)
    assert set(await _events(clickhouse)) == {*first, *second, *third}


async def test_relay__sessions_that_number_rows_in_blocks__none_is_stepped_over(
    database: Database, clickhouse: ClickHouse, connect: Callable[..., Any]
) -> None:
    """Each session takes its numbers in blocks of 100, so a later transaction may have the lower numbers."""
    sessions = [await connect() for _ in range(3)]
    for session in [*sessions, *reversed(sessions)] * 2:
        await record_events(session, [uuid4() for _ in range(3)])

    await drain(database, clickhouse, batch_rows=4)

    assert await column(clickhouse, "SELECT uniqExact(event_id) FROM events FINAL") == [36]


async def test_relay__transaction_rolled_back__the_others_go_on(
    database: Database, clickhouse: ClickHouse, connect: Callable[..., Any]
) -> None:
    early, late = await connect(), await connect()
    transaction = early.transaction()
    await transaction.start()
    second = [uuid4()]
    await record_events(early, [uuid4()])
    await record_events(late, second)
    await transaction.rollback()

    await drain(database, clickhouse)

    assert await _events(clickhouse) == second


async def test_relay__one_transaction_wider_than_a_batch__arrives_whole(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection
) -> None:
    ids = [uuid4() for _ in range(1_000)]
    await record_events(postgres, ids)

    await drain(database, clickhouse, batch_rows=7)

    assert await column(clickhouse, "SELECT uniqExact(event_id) FROM events FINAL") == [1_000]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    user_id=PG_TEXT,
    value=st.none() | FLOATS,
    properties=st.dictionaries(PG_TEXT, PG_JSON, max_size=4),
)
async def test_relay__any_row__is_the_same_on_both_sides(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    user_id: str,
    value: float | None,
    properties: dict[str, Any],
) -> None:
    event_id = uuid4()
    await record_events(postgres, [event_id], user_id=user_id, value=value, properties=json.dumps(properties))

    await drain(database, clickhouse)

    stored = await postgres.fetchrow(
        "SELECT user_id, ts, value, properties, ingested_at FROM events WHERE event_id = $1", event_id
    )
    (row,) = await clickhouse.rows(
        "SELECT user_id, ts, value, properties, ingested_at FROM events FINAL WHERE event_id = {id:UUID}",
        {"id": event_id},
    )
    assert row["properties"] == stored["properties"]
    assert _without(row, "properties") == _without(dict(stored), "properties")


@pytest.mark.parametrize("value", [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -123456.789e-7, 2**53 - 1.0])
async def test_relay__float__keeps_its_last_bit(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection, value: float
) -> None:
    await record_events(postgres, [uuid4()], value=value)

    await drain(database, clickhouse)

    assert await column(clickhouse, "SELECT value FROM events FINAL") == [value]


@pytest.mark.parametrize(
    ("moment", "zone"),
    [
        ("1900-01-01 00:00:00+00", "UTC"),
        ("1969-12-31 23:59:59.999999+00", "Asia/Kathmandu"),
        ("2026-03-29 02:30:00.000001+02", "Europe/Berlin"),
        ("2106-02-07 06:28:16.5+00", "America/St_Johns"),
        ("2299-12-31 23:59:59.999999+00", "UTC"),
        ("2299-12-31 23:59:59.999999+00", "Pacific/Kiritimati"),
    ],
)
async def test_relay__timestamp_written_in_any_zone__keeps_its_microsecond(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection, moment: str, zone: str
) -> None:
    await postgres.execute(f"SET timezone = '{zone}'")
    await postgres.execute(
        "INSERT INTO outbox_events (aggregatetype, aggregateid, type, payload) VALUES ('heartbeat', '0',"
        " 'heartbeat.beat', jsonb_build_object('schema_version', 1, 'lane', 0, 'beat', 1,"
        " 'watermark', $1::text::timestamptz, 'ingested_at', ingestion_time()))",
        moment,
    )

    await drain(database, clickhouse)

    assert await column(clickhouse, "SELECT watermark FROM heartbeats FINAL") == [datetime.fromisoformat(moment)]


async def test_relay__poison_in_the_stream__is_put_aside_and_the_stream_goes_on(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection, metrics: Metrics
) -> None:
    before, after, poison = [uuid4()], [uuid4()], uuid4()
    await record_events(postgres, before)
    await postgres.execute(
        "INSERT INTO outbox_events (id, aggregatetype, aggregateid, type, payload)"
        " VALUES ($1, 'event', 'u', 'event.recorded', '{\"schema_version\": 2}')",
        poison,
    )
    await record_events(postgres, after)

    await drain(database, clickhouse, metrics=metrics)

    assert set(await _events(clickhouse)) == {*before, *after}
    (letter,) = await clickhouse.rows("SELECT * FROM dead_letters FINAL")
    assert letter["message_id"] == poison
    assert letter["payload"] == '{"schema_version": 2}'
    assert letter["reason"] == "unknown-version: schema version 2 is not known here, only 1 is"
    assert metrics.registry.get_sample_value("dead_letters_total", {"reason": "unknown-version"}) == 1


async def test_relay__nudged__does_not_wait(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection, loader: Loader
) -> None:
    relay = Relay(database, clickhouse, loader, PipelineSettings(RELAY_IDLE_SECONDS=60))
    running = asyncio.create_task(relay.run())
    await eventually(lambda: _is_working(relay))
    await asyncio.sleep(0.3)  # Now it is waiting.
    await record_events(postgres, [uuid4()])

    relay.nudge()

    await eventually(lambda: _has_events(clickhouse, 1))
    relay.stop()
    await running


async def test_relay__second_one_for_the_same_clickhouse__waits_for_its_turn(
    database: Database, clickhouse: ClickHouse, loader: Loader, pipeline_settings: PipelineSettings
) -> None:
    first = Relay(database, clickhouse, loader, pipeline_settings)
    second = Relay(database, clickhouse, loader, pipeline_settings)
    tasks = [asyncio.create_task(first.run())]
    await eventually(lambda: _is_working(first))
    tasks.append(asyncio.create_task(second.run()))
    await asyncio.sleep(0.3)
    assert not second.working

    first.stop()

    await eventually(lambda: _is_working(second))
    second.stop()
    await asyncio.gather(*tasks)


async def test_relay__second_one_for_another_clickhouse__works_beside_it(
    database: Database,
    clickhouse: ClickHouse,
    loader: Loader,
    pipeline_settings: PipelineSettings,
    make_clickhouse: Callable[..., Any],
) -> None:
    other = await make_clickhouse()
    first = Relay(database, clickhouse, loader, pipeline_settings)
    second = Relay(database, other, Loader(other, Metrics()), pipeline_settings)

    tasks = [asyncio.create_task(relay.run()) for relay in (first, second)]

    await eventually(lambda: _is_working(first))
    await eventually(lambda: _is_working(second))
    for relay in (first, second):
        relay.stop()
    await asyncio.gather(*tasks)


async def test_relay__postgresql_drops_the_connection__goes_on(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    loader: Loader,
    pipeline_settings: PipelineSettings,
) -> None:
    relay = Relay(database, clickhouse, loader, pipeline_settings)
    running = asyncio.create_task(relay.run())
    await eventually(lambda: _is_working(relay))

    await postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'experimentation-pipeline'"
        " AND datname = current_database()"
    )
    await record_events(postgres, [uuid4()])

    await eventually(lambda: _has_events(clickhouse, 1))
    relay.stop()
    await running


class _AwayNowAndThen(ClickHouse):
    """A ClickHouse whose inserts fail while it is `away`, some of them after the rows were stored."""

    away = True
    refusals = 0

    async def insert_json(self, table: str, lines: Any, *, token: str | None = None) -> None:
        if self.away and table in {"events", "relay_positions"}:
            self.refusals += 1
            if self.refusals % 2:
                await super().insert_json(table, lines, token=token)
            raise ClickHouseUnavailable("gone")
        await super().insert_json(table, lines, token=token)


async def test_relay__clickhouse_away_for_a_while__loses_nothing(
    database: Database,
    postgres: asyncpg.Connection,
    pipeline_settings: PipelineSettings,
    make_clickhouse: Callable[..., Any],
) -> None:
    clickhouse: _AwayNowAndThen = await make_clickhouse(_AwayNowAndThen)
    relay = Relay(database, clickhouse, Loader(clickhouse, Metrics()), pipeline_settings)
    ids = [uuid4() for _ in range(30)]
    await record_events(postgres, ids)
    running = asyncio.create_task(relay.run())
    await eventually(lambda: _refused(clickhouse, 3))
    assert (await (await positions_of(postgres, clickhouse)).get()) == START

    clickhouse.away = False

    await eventually(lambda: _has_events(clickhouse, 30))
    relay.stop()
    await running
    assert (await (await positions_of(postgres, clickhouse)).get()) > START


async def _events(clickhouse: ClickHouse) -> list[UUID]:
    return await column(clickhouse, "SELECT event_id FROM events FINAL")


async def _has_events(clickhouse: ClickHouse, number: int) -> bool:
    return await column(clickhouse, "SELECT uniqExact(event_id) FROM events") == [number]


async def _is_working(relay: Relay) -> bool:
    return relay.working


async def _refused(clickhouse: _AwayNowAndThen, number: int) -> bool:
    return clickhouse.refusals >= number


def _without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}
