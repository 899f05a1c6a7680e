"""Losing parts of the stream: slots, topics, offsets, all of Kafka."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID, uuid4

import asyncpg
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.protocol.admin import DeleteGroupsRequest

from app.core.clickhouse import ClickHouse
from app.core.settings import ClickHouseSettings, LoaderSettings
from app.pipeline.consumer import own_group
from app.pipeline.topics import topics
from app.workers.topic_admin import ensure_topics
from tests.pipeline.kafka.conftest import Stack
from tests.pipeline.kafka.installation import Installation
from tests.pipeline.payloads import event_message
from tests.service_process import wait_until

_WITHIN_S = 60.0

SLOT = "experiments_outbox"
_STATUS = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1"


def halt(stack: Stack) -> None:
    """Stop the connector; PostgreSQL then keeps the slot for nobody."""
    name = stack.connector.name
    stack.connect.stop(name)
    wait_until(lambda: stack.connect.status(name).states == ("STOPPED",), "the connector stops")


@contextmanager
def halted(stack: Stack) -> Iterator[None]:
    """Keep the connector from reading for the length of the block."""
    halt(stack)
    yield
    stack.connect.resume(stack.connector.name)


def drop_slot(stack: Stack) -> None:
    asyncio.run(_execute(stack, "SELECT pg_drop_replication_slot($1)", SLOT))


def have_slot_given_up(stack: Stack) -> None:
    """Write log until PostgreSQL does not keep it for the slot any more; nobody may be reading."""
    asyncio.run(_outgrow_slot(stack))


def delete_topics(stack: Stack, *names: str) -> None:
    asyncio.run(_delete_topics(stack.brokers, names))


def make_anew(stack: Stack, topic: str) -> None:
    """Delete a topic and make it again, empty."""
    delete_topics(stack, topic)
    make(stack, topic)


def make(stack: Stack, topic: str) -> None:
    """Make a topic as topics.json says."""
    wanted = [listed for listed in topics() if listed.name == topic]
    asyncio.run(ensure_topics(stack.brokers, wanted, say=print, give_up_at=time.monotonic() + _WITHIN_S))


def drop_records(stack: Stack, partition: TopicPartition) -> None:
    """Have Kafka drop all that a partition holds, as it does when its retention is over."""
    asyncio.run(_drop_records(stack.brokers, partition))


def delete_group(installation: Installation) -> None:
    """Delete what the loaders have committed; none may be running."""
    brokers, group = installation.stack.brokers, asyncio.run(_group_of(installation))
    # One that lost its connection belongs to the group for some seconds more.
    wait_until(lambda: asyncio.run(_delete_group(brokers, group)) == 0, "the group has no members")


def wipe_kafka(stack: Stack) -> None:
    """Have Kafka begin from nothing at the same address: its topics, offsets and groups are gone."""
    stack.pipeline.kafka.stop()
    shutil.rmtree(stack.folder / "kafka" / "log")
    assert stack.pipeline.kafka.start() == stack.brokers


def restart_connect(stack: Stack) -> None:
    assert stack.pipeline.connect is not None
    stack.pipeline.connect.stop()
    assert stack.pipeline.connect.start() == stack.addresses["CONNECT_URL"]


def recover(stack: Stack) -> None:
    """Run the documented command."""
    recovered = stack.run("recover_cdc")
    assert recovered.returncode == 0, recovered.stderr


async def produce_events(brokers: str, partition: TopicPartition, number: int) -> set[UUID]:
    """Write events as Debezium does; no outbox knows of them."""
    ids = [uuid4() for _ in range(number)]
    producer = AIOKafkaProducer(bootstrap_servers=brokers, acks="all")
    await producer.start()
    try:
        for id_ in ids:
            message = event_message(1, event_id=id_)
            headers = [("id", str(id_).encode()), ("eventType", message.type.encode())]
            await producer.send(partition.topic, message.payload, b"ann", partition.partition, headers=headers)
        await producer.flush()
    finally:
        await producer.stop()
    return set(ids)


async def _execute(stack: Stack, sql: str, *arguments: object) -> None:
    connection = await _connect(stack)
    try:
        await connection.execute(sql, *arguments)
    finally:
        await connection.close()


async def _outgrow_slot(stack: Stack) -> None:
    connection = await _connect(stack)
    try:
        while await connection.fetchval(_STATUS, SLOT) != "lost":
            await connection.execute("SELECT pg_logical_emit_message(true, 'test', 'x'), pg_switch_wal()")
            await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def _connect(stack: Stack) -> asyncpg.Connection:
    return await asyncpg.connect(stack.addresses["DATABASE_URL"].replace("+asyncpg", ""))


async def _delete_topics(brokers: str, names: tuple[str, ...]) -> None:
    async with _admin(brokers) as admin:
        answer = (await admin.delete_topics(list(names))).to_object()
    assert {topic["error_code"] for topic in answer["topic_error_codes"]} == {0}


async def _drop_records(brokers: str, partition: TopicPartition) -> None:
    async with _admin(brokers) as admin:
        await admin.delete_records({partition: RecordsToDelete(before_offset=-1)})


async def _delete_group(brokers: str, group: str) -> int:
    async with _admin(brokers) as admin:
        # The client has no method for it. The one node is controller and coordinator, too.
        answer = (await admin._send_to_controller(DeleteGroupsRequest([group]))).to_object()
    return int(answer["results"][0]["error_code"])


async def _group_of(installation: Installation) -> str:
    history = await ClickHouse.connect_server(ClickHouseSettings.model_validate(installation.clickhouse.variables))
    try:
        return await own_group(history, LoaderSettings(LOADER_GROUP_ID=installation.group_id))
    finally:
        await history.close()


@asynccontextmanager
async def _admin(brokers: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()
