"""`python -m app.workers.local_pipeline`: PostgreSQL, Valkey, Kafka, Connect and Debezium on this machine.

The same stack as the containers', with the same configuration files, without containers. It needs Java 17 and
Maven. It is always its own, whatever servers the settings name; the service is started beside it with the addresses
that it keeps in its data folder. ClickHouse is no program here but an engine within the service, so the service
consumes Kafka, too, and the whole way is there; with a ClickHouse server, `app.workers.loader` does that.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlalchemy import make_url

from app.core.logging import configure_logging
from app.core.migrations import migrate
from app.core.settings import Settings
from app.core.termination import obey_termination
from app.embedded.data_folder import DataFolder
from app.embedded.errors import EmbeddedError
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.stack import ADDRESSES_FILE
from app.embedded.valkey import EmbeddedValkey
from app.workers.cdc_role import set_up_role
from app.workers.command import exit_code_of, say
from app.workers.connect_worker import ConnectWorker
from app.workers.connector import ConnectorFailed
from app.workers.jars import JARS_FOLDER, Jars, build_jars
from app.workers.kafka_broker import KafkaBroker
from app.workers.register_connector import register
from app.workers.settings import CdcSettings
from app.workers.topic_admin import TopicsError

FOLDER = "pipeline"
ROLE = "experimentation_cdc"
ROLE_PASSWORD_FILE = "cdc.password"  # noqa: S105  # The name of the file, not the password.

_REGISTERED_WITHIN_S = 120.0

Say = Callable[[str], None]


class LocalPipeline:
    """The servers between the service and ClickHouse, in one data folder."""

    def __init__(
        self,
        folder: DataFolder,
        jars: Jars,
        *,
        say: Say,
        postgres_options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._folder = folder
        self._say = say
        self._jars = jars
        self.postgres = EmbeddedPostgres(folder, say=say, extra_options=postgres_options)
        self.valkey = EmbeddedValkey(folder, say=say)
        self.kafka = KafkaBroker(folder, jars, say=say)
        self.connect: ConnectWorker | None = None

    def start(self) -> dict[str, str]:
        """Start everything and return the addresses, by the names of the settings that take them.

        Raises:
            EmbeddedError: a server cannot be started.
            CommandFailed, TopicsError, ConnectorFailed: Debezium cannot be set up.
        """
        addresses = self._start_servers()
        settings = CdcSettings.model_validate({**addresses, **_source(addresses["DATABASE_URL"])})
        register(settings, say=self._say, give_up_at=time.monotonic() + _REGISTERED_WITHIN_S)
        self._folder.keep(ADDRESSES_FILE, "\n".join(f"{name}={value}" for name, value in addresses.items()))
        return addresses

    def stop(self) -> None:
        """Stop everything, readers before what they read; calling it again does nothing."""
        for part in (self.connect, self.kafka, self.valkey, self.postgres):
            if part is not None:
                part.stop()

    def _start_servers(self) -> dict[str, str]:
        # Start-up is mostly waiting, so that servers start side by side.
        with ThreadPoolExecutor(max_workers=3) as executor:
            self._say("starting PostgreSQL, Valkey and Kafka")
            database = executor.submit(self._start_database)
            redis = executor.submit(self.valkey.start)
            brokers = executor.submit(self.kafka.start).result()
            self._say("starting Connect")
            password = self._folder.secret(ROLE_PASSWORD_FILE)
            self.connect = ConnectWorker(
                self._folder, self._jars, bootstrap_servers=brokers, database_password=password, say=self._say
            )
            connect = executor.submit(self.connect.start)
            return {
                "DATABASE_URL": database.result(),
                "REDIS_URL": redis.result(),
                "KAFKA_BOOTSTRAP_SERVERS": brokers,
                "CONNECT_URL": connect.result(),
                "CDC_DATABASE_PASSWORD": password,
            }

    def _start_database(self) -> str:
        """Start PostgreSQL, and make the tables, the publication and the role in it."""
        url = self.postgres.start()
        asyncio.run(migrate(url))
        asyncio.run(set_up_role(url, ROLE, self._folder.secret(ROLE_PASSWORD_FILE)))
        return url


def _source(database_url: str) -> dict[str, Any]:
    """Say all about the database, so that nothing of it is taken from the environment, which may mean another one."""
    url = make_url(database_url)
    return {
        "CDC_DATABASE_HOST": url.host,
        "CDC_DATABASE_PORT": url.port,
        "CDC_DATABASE_NAME": url.database,
        "CDC_DATABASE_USER": ROLE,
    }


def main() -> int:
    """Run until told to stop; returns the exit code."""
    obey_termination()

    def work() -> None:
        settings = Settings.from_environment()
        configure_logging("WARNING", readable=sys.stderr.isatty())
        _run(settings.server.data_dir)

    return exit_code_of(work, EmbeddedError, TopicsError, ConnectorFailed)


def _run(data_dir: Path) -> None:
    say("looking for the jars of Kafka and Debezium (built once; that takes a minute)")
    jars = build_jars(JARS_FOLDER)
    data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    folder = DataFolder.open(data_dir / FOLDER)
    try:
        pipeline = LocalPipeline(folder, jars, say=say)
        try:
            _announce(pipeline.start(), folder)
            threading.Event().wait()
        finally:
            say("stopping")
            pipeline.stop()
            say("stopped")
    finally:
        folder.close()


def _announce(addresses: Mapping[str, str], folder: DataFolder) -> None:
    for name, value in addresses.items():
        say(f"{name}={_without_password(name, value)}")
    say(f"ready: the addresses with their passwords are in {folder.path / ADDRESSES_FILE}")
    say(f"for the rest of the way: set -a; . {folder.path / ADDRESSES_FILE}; set +a; make run")


def _without_password(name: str, value: str) -> str:
    if name == "CDC_DATABASE_PASSWORD":
        return "***"
    return make_url(value).render_as_string() if name.endswith("_URL") and "@" in value else value


if __name__ == "__main__":
    sys.exit(main())
