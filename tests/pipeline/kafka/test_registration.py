"""Setting Debezium up: repeatable, and clear about what is wrong."""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import asyncpg
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer

from app.pipeline.topics import Topic, topics
from app.workers.cdc_role import set_up_role
from app.workers.connector import Connector, ConnectorFailed, await_running, put
from app.workers.topic_admin import TopicsError, ensure_topics
from tests.pipeline.kafka.conftest import Stack
from tests.pipeline.kafka.reading import Reader
from tests.pipeline.payloads import record_events

pytestmark = pytest.mark.xdist_group("kafka")

WITHIN_S = 60.0
READER_OF_THE_SLOT = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'experiments_outbox'"
RIGHTS = """
SELECT relname AS name,
    array(SELECT privilege FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS privilege
          WHERE has_table_privilege('experimentation_cdc', oid, privilege)) AS privileges
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
"""


async def test_register__again__changes_nothing_and_does_not_interrupt_the_stream(
    stack: Stack, outbox: asyncpg.Connection
) -> None:
    reading = await outbox.fetchval(READER_OF_THE_SLOT)

    again = await asyncio.to_thread(stack.run, "register_connector")

    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == "connector experiments-outbox: unchanged\nconnector experiments-outbox: running\n"
    assert await outbox.fetchval(READER_OF_THE_SLOT) == reading is not None


async def test_register__connector_was_changed__applies_what_the_file_says(stack: Stack) -> None:
    config = {**stack.connector.config, "poll.interval.ms": "33", "custom.metric.tags": "a=b"}
    await asyncio.to_thread(_put, stack, Connector(stack.connector.name, config))
    assert stack.connect.find_config("experiments-outbox") == config

    registered = await asyncio.to_thread(stack.run, "register_connector")

    assert registered.returncode == 0, registered.stderr
    assert "changed custom.metric.tags, poll.interval.ms\n" in registered.stdout
    assert stack.connect.find_config("experiments-outbox") == stack.connector.config


async def test_register__wrong_password__says_so_and_leaves_the_running_connector_alone(
    stack: Stack, outbox: asyncpg.Connection, reader: Reader
) -> None:
    url, password = stack.addresses["DATABASE_URL"], stack.addresses["CDC_DATABASE_PASSWORD"]
    await set_up_role(url, "experimentation_cdc", "another password")
    try:
        # Connect looks only at a configuration that is new to it.
        refused = await asyncio.to_thread(stack.run, "register_connector", CDC_DATABASE_HOST="localhost")
    finally:
        await set_up_role(url, "experimentation_cdc", password)

    assert refused.returncode == 1
    assert re.fullmatch(r"error: Connect refuses: .*password authentication failed .*\n", refused.stderr)
    ids = [uuid4()]
    await record_events(outbox, ids)
    await reader.until_has(ids)


async def test_register__task_fails__says_why(stack: Stack) -> None:
    broken = Connector(stack.connector.name, {**stack.connector.config, "publication.name": "nobody_made_this"})
    try:
        with pytest.raises(ConnectorFailed, match=r"experiments-outbox failed: .*Publication .* please create one"):
            await asyncio.to_thread(_put, stack, broken)
    finally:
        mended = await asyncio.to_thread(stack.run, "register_connector")
    assert mended.returncode == 0, mended.stderr


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"KAFKA_BOOTSTRAP_SERVERS": ""}, "error: KAFKA_BOOTSTRAP_SERVERS: must be set"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}, "error: Kafka at 127.0.0.1:9: "),
        ({"CONNECT_URL": "http://127.0.0.1:9"}, "error: Connect at http://127.0.0.1:9 does not answer: "),
        ({"CONNECT_URL": "file:///etc/passwd"}, "error: CONNECT_URL: "),
        ({"DATABASE_URL": ""}, "error: CDC_DATABASE_HOST: must be set"),
        ({"DATABASE_URL": "postgresql+asyncpg://u@h/db?sslmode=require"}, "error: DATABASE_URL: sslmode is the name"),
    ],
)
async def test_register__wrong_or_missing_address__says_which(
    stack: Stack, environment: dict[str, str], complaint: str
) -> None:
    refused = await asyncio.to_thread(stack.run, "register_connector", "--wait", "1", **environment)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(complaint)
    assert refused.stderr.count("\n") == 1


async def test_topics__differ_from_the_file__are_created_grown_and_set_but_never_shrunk(stack: Stack) -> None:
    topic = Topic(f"scratch-{uuid4().hex}", 2, {"retention.ms": "100000"}, "scratch", 90_000)
    larger = msgspec.structs.replace(topic, partitions=5, config={"retention.ms": "200000"})
    said: list[str] = []

    assert await _ensure(stack, [topic], said.append) == [topic]
    assert await _ensure(stack, [topic], said.append) == []
    assert await _ensure(stack, [larger], said.append) == []
    with pytest.raises(TopicsError, match=r"has 5 partitions and topics\.json says 2"):
        await _ensure(stack, [topic], said.append)

    assert [line.removeprefix(f"topic {topic.name}: ") for line in said] == [
        "created, partitions: 2",
        "partitions: 2 -> 5",
        "retention.ms=200000",
    ]
    assert await _ensure(stack, [larger], said.append) == []
    assert await _partitions(stack, topic.name) == 5
    assert len(said) == 3


async def test_topics__as_set_up__are_what_the_file_says(stack: Stack) -> None:
    for topic in topics():
        assert await _partitions(stack, topic.name) == topic.partitions


async def test_role__set_up__may_read_the_outbox_and_nothing_else(stack: Stack, outbox: asyncpg.Connection) -> None:
    rights = {row["name"]: row["privileges"] for row in await outbox.fetch(RIGHTS) if row["privileges"]}

    assert rights == {"outbox_events": ["SELECT"], "cdc_heartbeat": ["SELECT", "INSERT", "UPDATE"]}
    assert await outbox.fetchrow(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication FROM pg_roles WHERE rolname = $1",
        stack.settings.user,
    ) == (False, False, False, False, True)


async def test_cdc_role__command__sets_the_password(stack: Stack) -> None:
    done = await asyncio.to_thread(stack.run, "cdc_role")

    assert (done.returncode, done.stderr) == (0, "")
    source = stack.settings.source()
    session = await asyncpg.connect(
        host=source.host,
        port=source.port,
        database=source.name,
        user=source.user,
        password=stack.addresses["CDC_DATABASE_PASSWORD"],
    )
    assert await session.fetchval("SELECT count(*) FROM outbox_events") >= 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await session.fetchval("SELECT count(*) FROM events")
    await session.close()


async def test_cdc_role__user_who_may_not__says_what_to_do(stack: Stack, outbox: asyncpg.Connection) -> None:
    source = replace(stack.settings.source(), user="weak")
    await outbox.execute("CREATE ROLE weak LOGIN PASSWORD 'weak'")
    url = f"postgresql+asyncpg://weak:weak@{source.host}:{source.port}/{source.name}"

    refused = await asyncio.to_thread(stack.run, "cdc_role", DATABASE_URL=url)

    await outbox.execute("DROP ROLE weak")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: role experimentation_cdc cannot be set up: permission denied")
    assert "debezium/README.md" in refused.stderr


def _put(stack: Stack, connector: Connector) -> None:
    give_up_at = time.monotonic() + WITHIN_S
    put(stack.connect, connector, say=print, give_up_at=give_up_at)
    await_running(stack.connect, connector, give_up_at=give_up_at)


async def _ensure(stack: Stack, wanted: list[Topic], say: Callable[[str], None]) -> list[Topic]:
    return await ensure_topics(stack.brokers, wanted, say=say, give_up_at=time.monotonic() + WITHIN_S)


async def _partitions(stack: Stack, topic: str) -> int:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=stack.brokers)
    await consumer.start()
    count = len(consumer.partitions_for_topic(topic))
    await consumer.stop()
    return count
