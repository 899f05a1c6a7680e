"""Redis or Valkey: an aid. Every call may fail, and then the caller goes on without it."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from app.core.metrics import Metrics

log = structlog.get_logger()
T = TypeVar("T")

_TIMEOUT_S = 0.25
# After a failure Redis is left alone for a moment, so that an outage costs one time-out and not one a request.
_REST_AFTER_FAILURE_S = 1.0


class RedisAid:
    """A client whose failures are counted and answered with a default."""

    def __init__(self, client: "Redis", metrics: Metrics) -> None:
        self._client = client
        self._metrics = metrics
        self._resting_until = 0.0

    @classmethod
    def connect(cls, url: str, *, pool_size: int, metrics: Metrics) -> "RedisAid":
        """Prepare a client; no connection is opened before its first use."""
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=pool_size,
            timeout=_TIMEOUT_S,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        return cls(Redis(connection_pool=pool), metrics)

    @property
    def available(self) -> bool:
        """False while Redis rests after a failure."""
        return time.monotonic() >= self._resting_until

    async def attempt(self, call: "Callable[[Redis], Awaitable[T]]", default: T) -> T:
        """Return what `call` returns, or `default` when Redis does not answer."""
        if not self.available:
            return default
        try:
            return await call(self._client)
        except (RedisError, OSError, TimeoutError) as error:
            self._resting_until = time.monotonic() + _REST_AFTER_FAILURE_S
            self._metrics.cache_errors.inc()
            log.warning("redis.unavailable", error=str(error) or type(error).__name__)
            return default

    async def ping(self) -> bool:
        """Tell whether Redis answers now, without regard to any rest."""
        try:
            return bool(await self._client.ping())
        except (RedisError, OSError, TimeoutError):
            return False

    async def close(self) -> None:
        await self._client.aclose()
