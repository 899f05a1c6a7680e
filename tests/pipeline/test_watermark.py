"""The watermark never passes a row that is not in ClickHouse, and it always comes."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.clickhouse import ClickHouse, ClickHouseUnavailable
from app.core.db import Database
from app.core.settings import PipelineSettings
from app.pipeline.lanes import kafka_lanes
from app.pipeline.loader import Loader
from app.pipeline.watermark import Heartbeat, watermark
from tests.pipeline.outbox_run import column, drain
from tests.pipeline.payloads import event_message, record_events

HEARTBEATS_IN_OUTBOX = "SELECT count(*) FROM outbox_events WHERE aggregatetype = 'heartbeat'"
BEATS_IN_OUTBOX = "SELECT count(*) FROM outbox_events WHERE type = 'heartbeat.beat'"


@pytest.fixture
def heartbeat(database: Database, clickhouse: ClickHouse, pipeline_settings: PipelineSettings) -> Heartbeat:
    return Heartbeat(database, clickhouse, pipeline_settings)


async def test_watermark__no_heartbeat_yet__is_unknown(clickhouse: ClickHouse) -> None:
    assert await watermark(clickhouse) is None


async def test_watermark__heartbeat_relayed__is_its_time(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection, heartbeat: Heartbeat
) -> None:
    moment = await heartbeat.beat(postgres)
    assert await watermark(clickhouse) is None

    await drain(database, clickhouse)

    assert await watermark(clickhouse) == moment


async def test_watermark__transaction_running__heartbeat_waits_for_its_end(
    database: Database, clickhouse: ClickHouse, connect: Callable[..., Any], heartbeat: Heartbeat
) -> None:
    writer, beater, observer = await connect(), await connect(), await connect()
    transaction = writer.transaction()
    await transaction.start()
    ids = [uuid4()]
    await record_events(writer, ids)
    # Another that began later and has ended: the snapshot's xmax is now above the one that runs.
    await record_events(await connect(), [uuid4()])

    beating = asyncio.create_task(heartbeat.beat(beater))
    await asyncio.sleep(0.2)
    assert await observer.fetchval(HEARTBEATS_IN_OUTBOX) == 0
    await transaction.commit()
    moment = await beating

    await drain(database, clickhouse)
    assert await watermark(clickhouse) == moment
    assert ids[0] in await column(clickhouse, "SELECT event_id FROM events FINAL")


async def test_watermark__two_transactions_running_and_none_ended_since__heartbeat_waits_for_both(
    connect: Callable[..., Any], heartbeat: Heartbeat
) -> None:
    observer = await connect()
    transactions = []
    for _ in range(2):
        writer = await connect()
        transactions.append(writer.transaction())
        await transactions[-1].start()
        await record_events(writer, [uuid4()])

    beating = asyncio.create_task(heartbeat.beat(await connect()))
    await asyncio.sleep(0.1)
    await transactions[0].commit()
    await asyncio.sleep(0.3)
    assert await observer.fetchval(HEARTBEATS_IN_OUTBOX) == 0

    await transactions[1].commit()
    await beating
    assert await observer.fetchval(HEARTBEATS_IN_OUTBOX) == 1


async def test_watermark__rows_and_heartbeat_in_one_batch_and_rows_fail__does_not_move(
    database: Database,
    postgres: asyncpg.Connection,
    make_clickhouse: Callable[..., Any],
    pipeline_settings: PipelineSettings,
) -> None:
    class EventsFail(ClickHouse):
        async def insert_json(self, table: str, lines: Any, *, token: str | None = None) -> None:
            if table == "events":
                raise ClickHouseUnavailable("gone")
            await super().insert_json(table, lines, token=token)

    clickhouse = await make_clickhouse(EventsFail)
    await record_events(postgres, [uuid4()])
    await Heartbeat(database, clickhouse, pipeline_settings).beat(postgres)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await drain(database, clickhouse)

    assert await watermark(clickhouse) is None


async def test_watermark__clock_stepped_back__follows_the_last_heartbeat(
    clickhouse: ClickHouse, loader: Loader
) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    beats = [(10, noon), (11, noon - timedelta(minutes=5)), (12, noon - timedelta(minutes=4))]

    for beat, moment in [*beats, beats[0]]:  # The first is delivered again.
        await loader.load([_heartbeat(0, beat, moment)])

    assert await watermark(clickhouse) == beats[-1][1]


async def test_watermark__several_lanes__is_that_of_the_slowest(clickhouse: ClickHouse, loader: Loader) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    slow, *others = kafka_lanes()

    await loader.load([_heartbeat(lane.number, 5, noon) for lane in others])
    await loader.load([_heartbeat(slow.number, 3, noon - timedelta(seconds=9))])

    assert await watermark(clickhouse, kafka_lanes()) == noon - timedelta(seconds=9)


async def test_watermark__one_lane_silent__is_unknown(clickhouse: ClickHouse, loader: Loader) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    _silent, *others = kafka_lanes()

    await loader.load([_heartbeat(lane.number, 5, noon) for lane in others])

    assert await watermark(clickhouse, kafka_lanes()) is None


async def test_watermark__lanes_of_another_time__do_not_count(clickhouse: ClickHouse, loader: Loader) -> None:
    """Neither the relay's lane after a move to Kafka, nor a partition that is gone."""
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    hour = timedelta(hours=1)

    await loader.load([_heartbeat(0, 1, noon - hour), _heartbeat(10_999, 1, noon - hour)])
    await loader.load([_heartbeat(lane.number, 5, noon) for lane in kafka_lanes()])

    assert await watermark(clickhouse, kafka_lanes()) == noon
    assert await watermark(clickhouse) == noon - hour


async def test_heartbeat__kafka_s_lanes__writes_one_row_for_each_that_the_relay_can_bring_as_well(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection, pipeline_settings: PipelineSettings
) -> None:
    heartbeat = Heartbeat(database, clickhouse, pipeline_settings, lanes=kafka_lanes())
    await heartbeat.beat_if_needed(postgres)
    await record_events(postgres, [uuid4()])
    moment = await heartbeat.beat(postgres)
    await heartbeat.beat_if_needed(postgres)

    rows = await postgres.fetch(
        "SELECT (payload->>'lane')::int AS lane, aggregatetype, aggregateid FROM outbox_events"
        " WHERE type = 'heartbeat.beat' AND (payload->>'watermark')::timestamptz = $1",
        moment,
    )
    assert sorted(tuple(row) for row in rows) == sorted(kafka_lanes())
    assert await postgres.fetchval(BEATS_IN_OUTBOX) == 2 * len(kafka_lanes())
    await drain(database, clickhouse)
    assert await watermark(clickhouse, kafka_lanes()) == moment


async def test_heartbeat__nothing_new__is_not_written(postgres: asyncpg.Connection, heartbeat: Heartbeat) -> None:
    await heartbeat.beat_if_needed(postgres)

    for _ in range(5):
        await heartbeat.beat_if_needed(postgres)

    assert await postgres.fetchval(HEARTBEATS_IN_OUTBOX) == 1


async def test_heartbeat__something_new__is_written_once(postgres: asyncpg.Connection, heartbeat: Heartbeat) -> None:
    await heartbeat.beat_if_needed(postgres)
    await record_events(postgres, [uuid4()])

    for _ in range(5):
        await heartbeat.beat_if_needed(postgres)

    assert await postgres.fetchval(HEARTBEATS_IN_OUTBOX) == 2


async def test_heartbeat__row_ingested_before_it_was_written__gets_another(
    connect: Callable[..., Any], heartbeat: Heartbeat
) -> None:
    """A row dated after the heartbeat's time may come before it in the outbox; the next one must still come."""
    blocker, beater, writer = await connect(), await connect(), await connect()
    blocking = blocker.transaction()
    await blocking.start()
    await blocker.fetchval("SELECT pg_current_xact_id()::text")
    beating = asyncio.create_task(heartbeat.beat(beater))
    await asyncio.sleep(0.1)
    await record_events(writer, [uuid4()])
    await blocking.commit()
    first = await beating

    await heartbeat.beat_if_needed(beater)

    newest = await writer.fetchval("SELECT max(ingested_at) FROM events")
    last = await writer.fetchval(
        "SELECT max((payload->>'watermark')::timestamptz) FROM outbox_events WHERE aggregatetype = 'heartbeat'"
    )
    assert first < newest < last


async def test_heartbeat__row_ingested_after_its_time_by_an_older_transaction__gets_another(
    connect: Callable[..., Any], heartbeat: Heartbeat
) -> None:
    beater, writer = await connect(), await connect()
    async with writer.transaction():
        await record_events(writer, [uuid4()])
        beating = asyncio.create_task(heartbeat.beat(beater))
        await asyncio.sleep(0.1)
        await record_events(writer, [uuid4()])
    await beating

    await heartbeat.beat_if_needed(beater)
    await heartbeat.beat_if_needed(beater)

    assert await writer.fetchval(HEARTBEATS_IN_OUTBOX) == 2
    newest = await writer.fetchval("SELECT max(ingested_at) FROM events")
    assert newest < await writer.fetchval(
        "SELECT max((payload->>'watermark')::timestamptz) FROM outbox_events WHERE aggregatetype = 'heartbeat'"
    )


STEPS = st.lists(
    st.tuples(st.sampled_from(["begin", "write", "commit", "roll back", "beat", "drain"]), st.integers(0, 2)),
    max_size=25,
)


@dataclass
class _World:
    """Three writers whose transactions overlap, and what was seen of the watermark."""

    database: Database
    clickhouse: ClickHouse
    postgres: asyncpg.Connection
    heartbeat: Heartbeat
    writers: list[asyncpg.Connection]
    beaters: list[asyncpg.Connection]
    open: dict[int, Any] = field(default_factory=dict)
    beats: list[asyncio.Task[datetime]] = field(default_factory=list)
    seen: list[tuple[datetime, set[UUID]]] = field(default_factory=list)

    async def take(self, step: str, who: int) -> None:
        match step:
            case "begin" if who not in self.open:
                self.open[who] = self.writers[who].transaction()
                await self.open[who].start()
            case "write":
                await record_events(self.writers[who], [uuid4(), uuid4()])
            case "commit" if who in self.open:
                await self.open.pop(who).commit()
            case "roll back" if who in self.open:
                await self.open.pop(who).rollback()
            case "beat" if self.beaters:
                self.beats.append(asyncio.create_task(self.heartbeat.beat(self.beaters.pop())))
                await asyncio.sleep(0.01)
            case "drain":
                await drain(self.database, self.clickhouse, batch_rows=3)
                await self.look()
            case _:
                pass

    async def look(self) -> None:
        if (moment := await watermark(self.clickhouse)) is not None:
            there = await column(self.clickhouse, "SELECT event_id FROM events FINAL")
            self.seen.append((moment, set(there)))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_watermark__transactions_in_any_order__all_rows_before_it_are_there(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    connect: Callable[..., Any],
    heartbeat: Heartbeat,
    steps: list[tuple[str, int]],
) -> None:
    writers = [await connect() for _ in range(3)]
    beaters = [await connect() for _ in range(3)]
    world = _World(database, clickhouse, postgres, heartbeat, writers, beaters)

    for step, who in steps:
        await world.take(step, who)
    for who in list(world.open):
        await world.take("commit", who)
    await asyncio.gather(*world.beats)
    await world.take("drain", 0)

    rows = await postgres.fetch("SELECT event_id, ingested_at FROM events")
    for moment, there in world.seen:
        assert {row["event_id"] for row in rows if row["ingested_at"] < moment} <= there
    assert {row["event_id"] for row in rows} == set(await column(clickhouse, "SELECT event_id FROM events FINAL"))
    for connection in [*writers, *beaters]:
        connection.terminate()


def _heartbeat(lane: int, beat: int, moment: datetime) -> Any:
    text = moment.isoformat()
    payload = f'{{"schema_version": 1, "lane": {lane}, "beat": {beat}, "watermark": "{text}", "ingested_at": "{text}"}}'
    return event_message(beat)._replace(aggregatetype="heartbeat", type="heartbeat.beat", payload=payload.encode())
