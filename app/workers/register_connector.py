"""`python -m app.workers.register_connector`: make the topics and the connector what the files say, and end."""

import asyncio
import sys
import time
from collections.abc import Sequence

from app.pipeline.topics import topics
from app.workers.command import exit_code_of, say, wait_s_of
from app.workers.connect_api import ConnectApi
from app.workers.connector import Connector, ConnectorFailed, Say, await_running, patiently, put
from app.workers.settings import CdcSettings
from app.workers.topic_admin import TopicsError, ensure_topics


def main(arguments: Sequence[str] | None = None) -> int:
    """Bring topics and connector in line; returns the exit code."""
    wait_s = wait_s_of(
        arguments,
        prog="python -m app.workers.register_connector",
        description="Create or update Kafka's topics and the Debezium connector, and wait until it runs."
        " Running it again does no harm.",
        servers="Kafka, Connect and the connector",
    )

    def work() -> None:
        register(CdcSettings.from_environment(), say=say, give_up_at=time.monotonic() + wait_s)

    return exit_code_of(work, TopicsError, ConnectorFailed)


def register(settings: CdcSettings, *, say: Say, give_up_at: float) -> None:
    """Make the topics first, because the connector stops at a row that has none.

    Raises:
        SettingsError: an address is missing.
        TopicsError: Kafka does not answer or refuses.
        ConnectorFailed: Connect does not answer or refuses, or the connector does not run.
    """
    connector, connect = Connector.for_source(settings.source()), ConnectApi(settings.connect_url)
    created = asyncio.run(ensure_topics(settings.brokers(), topics(), say=say, give_up_at=give_up_at))
    if lost := [topic.name for topic in created if topic.first_lane is not None]:
        _warn_of_lost_rows(lost, connect, connector, say=say, give_up_at=give_up_at)
    put(connect, connector, say=say, give_up_at=give_up_at)
    await_running(connect, connector, give_up_at=give_up_at)
    say(f"connector {connector.name}: running")


def _warn_of_lost_rows(
    lost: Sequence[str], connect: ConnectApi, connector: Connector, *, say: Say, give_up_at: float
) -> None:
    """Say what to do if these topics are not new but were deleted: the connector would go on behind their rows."""
    if patiently(lambda: connect.find_config(connector.name), give_up_at) is not None:
        say(f"If {', '.join(lost)} had been deleted, run python -m app.workers.recover_cdc to deliver the rows again.")


if __name__ == "__main__":
    sys.exit(main())
