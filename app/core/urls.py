"""URLs of servers: whether they can be used at all, and what they mean to the driver of PostgreSQL."""

import inspect
import re
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from redis.asyncio.connection import parse_url
from sqlalchemy import URL, make_url
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.exc import ArgumentError

LAST_PORT = 65_535
_DATABASE_NUMBER = re.compile(r"/?[0-9]*")
# Parameters that SQLAlchemy keeps for itself.
_OF_THE_ENGINE = frozenset({"prepared_statement_cache_size", "prepared_statement_name_func", "async_fallback"})
_OF_THE_DRIVER = frozenset(inspect.signature(asyncpg.connect).parameters) - {"dsn", "loop"}
_OF_EACH_CALLER = frozenset({"timeout", "command_timeout", "server_settings"})
_LIBPQ_S_SSL = "sslmode"


def usable_database_url(url: str) -> str:
    """Return the URL if a connection can be tried with it.

    Raises:
        ValueError: it cannot, and why; nothing of it that may be secret is repeated.
    """
    if not url.startswith("postgresql+asyncpg://"):
        raise ValueError("must start with postgresql+asyncpg://")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ValueError("is not a URL as postgresql+asyncpg://user:password@host:5432/database") from error
    if parsed.port is not None and not 0 < parsed.port <= LAST_PORT:
        raise ValueError(f"the port must be 1 to {LAST_PORT}, not {parsed.port}")
    for name in parsed.query:
        if name == _LIBPQ_S_SSL:
            raise ValueError("sslmode is the name of other drivers; write ssl instead, as in ?ssl=require")
        if name not in _OF_THE_DRIVER | _OF_THE_ENGINE:
            raise ValueError(f"the driver asyncpg has no parameter {name[:40]!r}; remove it")
    return url


def usable_redis_url(url: str) -> str:
    """Return the URL if a connection can be tried with it.

    Raises:
        ValueError: it cannot, and why.
    """
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must start with redis://, rediss:// or unix://")
    try:
        parse_url(url)
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"is not a URL as redis://host:6379/0: {error}") from error
    if parts.scheme != "unix" and _DATABASE_NUMBER.fullmatch(parts.path) is None:
        raise ValueError("after the host there may be the number of a database, as in redis://host:6379/0")
    return url


def connect_arguments(url: str | URL) -> dict[str, Any]:
    """Return what asyncpg is called with for a connection as the engine would make it of this URL, but for time-outs.

    A DSN does not do: of `ssl=require` asyncpg would make a setting that the server refuses.
    """
    _, arguments = dialect().create_connect_args(make_url(url))  # type: ignore[no-untyped-call]  # Not typed.
    return {name: value for name, value in arguments.items() if name not in _OF_THE_ENGINE | _OF_EACH_CALLER}
