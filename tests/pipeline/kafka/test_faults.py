"""Programs killed in the middle of the stream, and slots that are gone: nothing is lost."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from app.core.kafka import GroupConsumer
from app.pipeline.lanes import kafka_lanes
from tests.pipeline.kafka.conftest import Stack
from tests.pipeline.kafka.losing import drop_slot, halt, have_slot_given_up
from tests.pipeline.kafka.reading import Reader
from tests.pipeline.payloads import record_events

pytestmark = [pytest.mark.xdist_group("kafka"), pytest.mark.timeout(180)]

USERS = 20
ROWS_PER_COMMIT = 50
CALM_S = 1.0
BACK_WITHIN_S = 90.0
# A broker that is back goes on loading its groups for a moment.
ASKED_AFTERWARDS = 1000

SLOT = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'experiments_outbox'"
OLD_BEAT = 7
BEAT_TO_EVERY_LANE = """
INSERT INTO outbox_events (aggregatetype, aggregateid, type, payload)
SELECT aggregatetype, aggregateid, 'heartbeat.beat', jsonb_build_object('schema_version', 1, 'lane', lane,
    'beat', $4::bigint, 'watermark', clock_timestamp(), 'ingested_at', ingestion_time())
FROM unnest($1::int[], $2::text[], $3::text[]) AS lanes (lane, aggregatetype, aggregateid)
"""


class Writer:
    """Writes events all the time, each user's in a known order."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._write())
        self.written: dict[str, list[UUID]] = defaultdict(list)
        self.newest = UUID(int=0)

    async def stop(self) -> None:
        self._stopping.set()
        await self._task

    async def _write(self) -> None:
        number = 0
        while not self._stopping.is_set():
            user = f"steady-{number % USERS}"
            ids = [uuid4() for _ in range(ROWS_PER_COMMIT)]
            await record_events(self._connection, ids, user_id=user)
            self.written[user] += ids
            self.newest = ids[-1]
            number += 1
            await asyncio.sleep(0.02)


async def test_stream__connect_and_broker_killed__nothing_is_lost_doubled_or_out_of_order(
    stack: Stack, reader: Reader, connect_stack: Callable[..., Any]
) -> None:
    assert stack.pipeline.connect is not None
    writer = Writer(await connect_stack())

    for server in (stack.pipeline.connect, stack.pipeline.kafka):
        await asyncio.sleep(CALM_S)
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(CALM_S)
        await reader.until(partial(reader.has, writer.newest), "the stream goes on", within_s=BACK_WITHIN_S)
    await writer.stop()

    await reader.until_has(id_ for ids in writer.written.values() for id_ in ids)
    assert {id_: count for id_, count in Counter(record.id for record in reader.facts).items() if count > 1} == {}
    arrived: dict[str, list[UUID]] = defaultdict(list)
    for record in reader.facts:
        arrived[record.key].append(record.id)
    assert arrived == writer.written


async def test_group__broker_killed__is_never_told_that_it_committed_nothing(stack: Stack) -> None:
    place = TopicPartition("experiments.event", 0)
    consumer = GroupConsumer(bootstrap_servers=stack.brokers, group_id=f"group-{uuid4().hex[:8]}", retry_backoff_ms=5)
    await consumer.start()
    try:
        consumer.assign([place])
        await consumer.commit({place: 1})

        await asyncio.to_thread(stack.pipeline.kafka.kill)

        told: Counter[int | None] = Counter()
        async with asyncio.timeout(BACK_WITHIN_S):
            while told.total() < ASKED_AFTERWARDS:
                with suppress(KafkaError):
                    told[await consumer.committed(place)] += 1
        assert told.keys() == {1}
    finally:
        await consumer.stop()


async def test_stream__slot_dropped_and_offsets_kept__delivers_what_the_outbox_holds_by_itself(
    stack: Stack, reader: Reader, outbox: asyncpg.Connection
) -> None:
    await asyncio.to_thread(halt, stack)
    await asyncio.to_thread(drop_slot, stack)
    ids = await _write_rows_and_a_beat(outbox)

    await asyncio.to_thread(stack.connect.resume, stack.connector.name)

    await reader.until_has(ids)
    assert not [record for record in reader.records if record.is_beat and record.field("beat") == OLD_BEAT]


async def test_recover__slot_given_up_by_postgresql__delivers_what_the_outbox_holds(
    stack: Stack, reader: Reader, outbox: asyncpg.Connection
) -> None:
    await asyncio.to_thread(halt, stack)
    ids = await _write_rows_and_a_beat(outbox)
    await asyncio.to_thread(have_slot_given_up, stack)
    await asyncio.to_thread(stack.connect.resume, stack.connector.name)
    late = await asyncio.to_thread(stack.run, "register_connector", "--wait", "4")
    assert late.returncode == 1
    assert "does not run" in late.stderr

    recovered = await asyncio.to_thread(stack.run, "recover_cdc")

    assert recovered.returncode == 0, recovered.stderr
    more = [uuid4() for _ in range(50)]
    await record_events(outbox, more)
    await reader.until_has([*ids, *more])
    assert not [record for record in reader.records if record.is_beat and record.field("beat") == OLD_BEAT]
    assert await outbox.fetchval(SLOT) in {"reserved", "extended"}


async def _write_rows_and_a_beat(outbox: asyncpg.Connection) -> list[UUID]:
    """Write what nobody reads now. Read out of its order later, the beat would claim rows that come behind it."""
    await outbox.execute(BEAT_TO_EVERY_LANE, *[list(column) for column in zip(*kafka_lanes(), strict=True)], OLD_BEAT)
    ids = [uuid4() for _ in range(50)]
    await record_events(outbox, ids)
    return ids
