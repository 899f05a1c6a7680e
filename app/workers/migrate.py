"""`python -m app.workers.migrate`: bring PostgreSQL and ClickHouse up to date, and end."""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

import asyncpg
from alembic.util import CommandError
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from app.core.clickhouse import ClickHouse, ClickHouseRefused, ClickHouseUnavailable
from app.core.db import is_unavailability
from app.core.logging import configure_logging
from app.core.migrations import migrate as migrate_postgres
from app.core.settings import ClickHouseSettings, Settings
from app.pipeline import schema
from app.workers.command import CommandFailed, exit_code_of, one_line, say, wait_s_of

_RETRY_AFTER_S = 1.0
# What PostgreSQL says while it starts or stops, and while it has no connection to spare.
_NOT_NOW = (asyncpg.CannotConnectNowError, asyncpg.AdminShutdownError, asyncpg.TooManyConnectionsError)


class _Away(Exception):
    """The server does not answer now; the message is its last word."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Migrate both servers; returns the exit code."""
    wait_s = wait_s_of(
        arguments,
        prog="python -m app.workers.migrate",
        description="Bring the PostgreSQL of DATABASE_URL and the ClickHouse of CLICKHOUSE_HOST up to date."
        " Running it again, or twice at once, does no harm.",
        servers="servers that do not answer yet",
    )

    def work() -> None:
        settings = Settings.from_environment()
        configure_logging(settings.observability.log_level, readable=sys.stderr.isatty())
        # It reports each attempt; we do once.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        asyncio.run(_migrate(settings, wait_s))

    return exit_code_of(work)


async def _migrate(settings: Settings, wait_s: float) -> None:
    url = _required("DATABASE_URL", settings.database.url)
    host = _required("CLICKHOUSE_HOST", settings.clickhouse.host)
    give_up_at = time.monotonic() + wait_s
    await _until_it_answers(lambda: _postgres(url), f"PostgreSQL at {_address(url)}", give_up_at)
    say("PostgreSQL is up to date")
    clickhouse = f"ClickHouse at {host}:{settings.clickhouse.port}"
    await _until_it_answers(lambda: _clickhouse(settings.clickhouse), clickhouse, give_up_at)
    say("ClickHouse is up to date")


async def _until_it_answers(attempt: Callable[[], Awaitable[None]], server: str, give_up_at: float) -> None:
    """Try until it works, since a server that goes away in the middle may come back as well.

    Raises:
        CommandFailed: the server did not answer in time, or refused.
    """
    waiting = False
    while True:
        try:
            return await attempt()
        except _Away as away:
            if time.monotonic() + _RETRY_AFTER_S >= give_up_at:
                raise CommandFailed(f"{server} does not answer: {away}") from away
        except (DBAPIError, asyncpg.PostgresError, CommandError, ClickHouseRefused, schema.SchemaError) as refusal:
            raise CommandFailed(f"{server} cannot be migrated: {one_line(refusal)}") from refusal
        if not waiting:
            say(f"waiting for {server}")
            waiting = True
        await asyncio.sleep(_RETRY_AFTER_S)


async def _postgres(url: str) -> None:
    try:
        await migrate_postgres(url)
    except (OSError, TimeoutError, *_NOT_NOW) as error:
        raise _Away(one_line(error)) from error
    except DBAPIError as error:
        if is_unavailability(error):
            raise _Away(one_line(error)) from error
        raise


async def _clickhouse(settings: ClickHouseSettings) -> None:
    client = await ClickHouse.connect_server(settings)
    try:
        await schema.migrate(client)
    except ClickHouseUnavailable as error:
        raise _Away(one_line(_root(error))) from error
    finally:
        await client.close()


def _required(name: str, value: str | None) -> str:
    if value is None:
        raise CommandFailed(f"{name}: must be set; an embedded server is migrated by the service that starts it")
    return value


def _address(url: str) -> str:
    parsed = make_url(url)
    return f"{parsed.host}:{parsed.port or 5432}/{parsed.database}"


def _root(error: BaseException) -> BaseException:
    """Return the error that all others wrap: it says what is wrong in the fewest words."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


if __name__ == "__main__":
    sys.exit(main())
