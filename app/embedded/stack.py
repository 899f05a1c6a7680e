"""Starts whatever the settings do not name a real server for, and hands out where to find it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from clickhouse_connect.driver.client import Client

from app.core.settings import Settings
from app.embedded.clickhouse import EmbeddedClickHouse
from app.embedded.data_folder import DataFolder
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.valkey import EmbeddedValkey

ADDRESSES_FILE = "urls.env"


class EmbeddedStack:
    """The embedded parts of one service."""

    def __init__(self, settings: Settings, *, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._folder: DataFolder | None = None
        self._postgres: EmbeddedPostgres | None = None
        self._valkey: EmbeddedValkey | None = None
        self._clickhouse: EmbeddedClickHouse | None = None
        # A new client of the engine in this process; `None` when a real server is set.
        self.connect_clickhouse: Callable[..., Client] | None = None

    def start(self) -> Settings:
        """Start the missing parts and return the settings with their addresses.

        Raises:
            EmbeddedError: a part cannot be started; those that had started are stopped again.
        """
        settings = self._settings
        if settings.database.url and settings.redis.url and settings.clickhouse.host:
            return settings
        self._folder = DataFolder.open(settings.server.data_dir)
        self._say(f"data folder: {self._folder.path}")
        try:
            return self._start_parts(self._folder)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop every part, the last started first; calling it again does nothing."""
        for part in (self._clickhouse, self._valkey, self._postgres):
            if part is not None:
                part.stop()
        if self._folder is not None:
            self._folder.close()
        self._clickhouse = self._valkey = self._postgres = self._folder = None

    def _start_parts(self, folder: DataFolder) -> Settings:
        settings = self._settings
        # The servers' start-up is mostly waiting, so that they start side by side.
        with ThreadPoolExecutor(max_workers=2) as executor:
            postgres = valkey = None
            if settings.database.url is None:
                self._say("starting PostgreSQL (embedded)")
                self._postgres = EmbeddedPostgres(folder, say=self._say)
                postgres = executor.submit(self._postgres.start)
            if settings.redis.url is None:
                self._say("starting Valkey (embedded)")
                self._valkey = EmbeddedValkey(folder, say=self._say)
                valkey = executor.submit(self._valkey.start)
            if settings.clickhouse.host is None:
                self._say("opening ClickHouse's engine (embedded)")
                self._clickhouse = EmbeddedClickHouse(folder, say=self._say)
                self.connect_clickhouse = self._clickhouse.start()
            database_url = postgres.result() if postgres else settings.database.url
            redis_url = valkey.result() if valkey else settings.redis.url
        # For a second process or a person with psql; it holds passwords, so only its owner can read it.
        folder.keep(ADDRESSES_FILE, f"DATABASE_URL={database_url}\nREDIS_URL={redis_url}\n")
        return replace(
            settings,
            database=settings.database.model_copy(update={"url": database_url}),
            redis=settings.redis.model_copy(update={"url": redis_url}),
        )
