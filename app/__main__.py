"""`python -m app`: set up what is missing, migrate, and serve."""

import asyncio
import socket
import sys
from collections.abc import Callable

import asyncpg
import uvicorn
from clickhouse_connect.driver.client import Client
from sqlalchemy.exc import ArgumentError, DBAPIError

from app.access.projects import Projects
from app.access.service import AccessService
from app.core.changes import Changes
from app.core.db import Database
from app.core.http_protocol import ProblemProtocol
from app.core.listening import ListenFailed, listen
from app.core.logging import configure_logging
from app.core.migrations import migrate
from app.core.settings import Settings, SettingsError
from app.core.termination import Terminated, obey_termination
from app.embedded.errors import EmbeddedError
from app.embedded.stack import EmbeddedStack
from app.main import create_app

_KEEP_ALIVE_S = 75
_BACKLOG = 2048


class StartFailed(Exception):
    """The service cannot start; the message is one clear line."""


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Run until told to stop; returns the exit code."""
    obey_termination()
    try:
        settings = Settings.from_environment()
        configure_logging(settings.observability.log_level, readable=sys.stderr.isatty())
        listener = listen(settings.server.host, settings.server.port)
        with listener:
            stack = EmbeddedStack(settings, say=say)
            ready = stack.start()  # Leaves nothing behind if it fails.
            try:
                _prepare(ready)
                _serve(ready, listener, stack.connect_clickhouse)
            finally:
                say("stopping")
                stack.stop()
                say("stopped")
    except (SettingsError, EmbeddedError, ListenFailed, StartFailed) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except Terminated:
        return 0
    except KeyboardInterrupt:
        return 130
    return 0


def _prepare(settings: Settings) -> None:
    assert settings.database.url is not None  # noqa: S101  # The stack fills it in.
    say("migrating PostgreSQL")
    try:
        token = asyncio.run(_migrate(settings.database.url))
    except OSError as error:
        raise StartFailed(f"DATABASE_URL: PostgreSQL cannot be reached: {error}") from error
    except (ArgumentError, ValueError) as error:
        raise StartFailed(f"DATABASE_URL: is not a URL that can be used: {error}") from error
    except (DBAPIError, asyncpg.PostgresError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StartFailed(f"DATABASE_URL: PostgreSQL cannot be used: {reason}") from error
    if token is not None:
        say(f"first administrator's token (shown only now): {token}")


async def _migrate(database_url: str) -> str | None:
    """Migrate and, in a new installation, make the first token."""
    await migrate(database_url)
    database = Database.connect(database_url, pool_size=2)
    try:
        access = AccessService(database=database, changes=Changes(database), projects=Projects(database))
        return await access.create_first_token()
    finally:
        await database.close()


def _serve(settings: Settings, listener: socket.socket, connect_clickhouse: Callable[..., Client] | None) -> None:
    app = create_app(settings, connect_clickhouse=connect_clickhouse)
    config = uvicorn.Config(
        app,
        http=ProblemProtocol,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        backlog=_BACKLOG,
        lifespan="on",
        timeout_graceful_shutdown=10,
        server_header=False,
    )
    host, port = listener.getsockname()[:2]
    server = _AnnouncingServer(config, lambda: _announce(host, port))
    server.run(sockets=[listener])
    if not server.started:
        raise StartFailed("the service did not start; the log above says why")


class _AnnouncingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._announce()


def _announce(host: str, port: int) -> None:
    say(f"ready: http://{host}:{port}/api/v1/docs (API), /health, /ready, /metrics")


if __name__ == "__main__":
    sys.exit(main())
