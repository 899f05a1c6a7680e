"""`python -m app.workers.recover_cdc`: begin again with all that the outbox still holds, and end.

For the day when the stream has a gap that Debezium cannot close by itself: see `debezium/README.md`. Rows are
delivered again that were delivered before; every consumer knows them by their ids.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import URL, make_url

from app.core.settings import SettingsError
from app.core.urls import connect_arguments
from app.pipeline.topics import topics
from app.workers.command import CommandFailed, exit_code_of, one_line, say, wait_s_of
from app.workers.connect_api import ConnectApi
from app.workers.connector import Connector, ConnectorFailed, Say, await_running, patiently
from app.workers.settings import CdcSettings
from app.workers.topic_admin import TopicsError, ensure_topics

_DEFAULT_WAIT_S = 300.0
_CONNECT_TIMEOUT_S = 10
_LOOK_EVERY_S = 0.2

_DROP_IDLE = """
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active
"""
_EXISTS = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Begin again; returns the exit code."""
    wait_s = wait_s_of(
        arguments,
        prog="python -m app.workers.recover_cdc",
        description="Drop Debezium's replication slot, so that it begins again with all that the outbox still holds."
        " Rows are delivered again; consumers know them by their ids.",
        servers="Kafka, Connect and the connector",
    )

    def work() -> None:
        recover(CdcSettings.from_environment(), say=say, give_up_at=time.monotonic() + wait_s)

    return exit_code_of(work, TopicsError, ConnectorFailed)


def recover(settings: CdcSettings, *, say: Say, give_up_at: float) -> None:
    """Begin again; being cut short anywhere, it can be run again.

    A connector that finds no slot, whatever its offsets say, makes one and sends what the outbox holds at that very
    point of the log before it goes on from there. Its offsets stay: Connect cannot delete those that it keeps in a
    topic of the connector's own.

    Raises:
        SettingsError: an address is missing.
        TopicsError: Kafka does not answer or refuses.
        ConnectorFailed: Connect does not answer or refuses, or the connector does not run.
        CommandFailed: the slot cannot be dropped.
    """
    connector, connect = Connector.for_source(settings.source()), ConnectApi(settings.connect_url)
    asyncio.run(ensure_topics(settings.brokers(), topics(), say=say, give_up_at=give_up_at))
    _halt(connect, connector, give_up_at)
    say(f"connector {connector.name}: stopped")
    asyncio.run(_drop_slot(_account(settings), connector.slot, give_up_at))
    say(f"slot {connector.slot}: dropped")
    patiently(lambda: connect.resume(connector.name), give_up_at)
    await_running(connect, connector, give_up_at=give_up_at)
    say(f"connector {connector.name}: running; it delivers all that the outbox holds again")


def _halt(connect: ConnectApi, connector: Connector, give_up_at: float) -> None:
    """Have the connector there, configured as it should be and stopped."""
    if patiently(lambda: connect.find_config(connector.name), give_up_at) is None:
        patiently(lambda: connect.create_stopped(connector.name, connector.config), give_up_at)
    else:
        patiently(lambda: connect.stop(connector.name), give_up_at)
        patiently(lambda: connect.put_config(connector.name, connector.config), give_up_at)
    while patiently(lambda: connect.status(connector.name), give_up_at).states != ("STOPPED",):
        if time.monotonic() >= give_up_at:
            raise ConnectorFailed(f"connector {connector.name} does not stop")
        time.sleep(_LOOK_EVERY_S)


def _account(settings: CdcSettings) -> URL:
    """Return where the slot can be dropped: with Debezium's own account if its password is known here."""
    if settings.password is None:
        if settings.database_url is None:
            raise SettingsError("CDC_DATABASE_PASSWORD or DATABASE_URL: must be set, to drop the replication slot")
        return make_url(settings.database_url)
    source, password = settings.source(), settings.password.get_secret_value()
    return URL.create("postgresql", source.user, password, source.host, source.port, source.name)


async def _drop_slot(account: URL, slot: str, give_up_at: float) -> None:
    """Drop the slot as soon as its reader has gone; one that does not exist is as good as dropped."""
    try:
        async with _connection(account) as connection:
            while await connection.fetchval(_EXISTS, slot):
                await connection.execute(_DROP_IDLE, slot)
                if time.monotonic() >= give_up_at:
                    raise CommandFailed(f"slot {slot} is still in use")
                await asyncio.sleep(_LOOK_EVERY_S)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandFailed(f"slot {slot} cannot be dropped: {one_line(error)}") from error


@asynccontextmanager
async def _connection(account: URL) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(**connect_arguments(account), timeout=_CONNECT_TIMEOUT_S)
    try:
        yield connection
    finally:
        await connection.close()


if __name__ == "__main__":
    sys.exit(main())
