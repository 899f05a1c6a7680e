"""Token buckets: in Redis for all processes together, in memory while Redis is away."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis

from app.core.errors import RateLimited
from app.core.redis import RedisAid

# KEYS[1] bucket; ARGV capacity, refill per second, tokens wanted. Redis's own clock counts, so that processes
# with different clocks share one bucket. Answers {granted, milliseconds until one token is there}.
_TAKE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local capacity, refill, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(bucket[1]) or capacity
local at = tonumber(bucket[2]) or now
tokens = math.min(capacity, tokens + math.max(0, now - at) * refill)
local granted = math.min(wanted, math.floor(tokens))
tokens = tokens - granted
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(capacity / refill * 1000) + 1000)
return {granted, math.ceil(math.max(0, 1 - tokens) / refill * 1000)}
"""

# A process takes this share of a large bucket at once and spends it in memory: one call to Redis for many requests.
_SHARE_TAKEN_AT_ONCE = 1000
_MOST_CLIENTS_IN_MEMORY = 10_000


@dataclass(frozen=True, slots=True)
class Limit:
    """`capacity` requests at once, refilled at `capacity / period_s` a second."""

    name: str
    capacity: int
    period_s: float

    @property
    def refill_per_s(self) -> float:
        return self.capacity / self.period_s

    @property
    def taken_at_once(self) -> int:
        return max(1, self.capacity // _SHARE_TAKEN_AT_ONCE)


@dataclass(slots=True)
class _LocalBucket:
    tokens: float
    at: float
    in_hand: int = 0


class RateLimiter:
    """Admits requests of a client under a limit."""

    def __init__(
        self,
        redis: RedisAid,
        *,
        namespace: str,
        enabled: bool,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._monotonic = monotonic
        self._namespace = namespace
        self._enabled = enabled
        self._buckets: OrderedDict[tuple[str, str], _LocalBucket] = OrderedDict()

    async def admit(self, limit: Limit, client: str) -> None:
        """Take one token.

        Raises:
            RateLimited: the bucket is empty.
        """
        if not self._enabled:
            return
        bucket = self._bucket(limit, client)
        if bucket.in_hand > 0:
            bucket.in_hand -= 1
            return
        granted, wait_s = await self._take_from_redis(limit, client) or _take(bucket, limit, self._monotonic())
        if granted == 0:
            raise _too_many(limit, wait_s)
        bucket.in_hand += granted - 1

    async def _take_from_redis(self, limit: Limit, client: str) -> tuple[int, float] | None:
        key = f"{self._namespace}:rate:{limit.name}:{client}"

        async def take(redis: "Redis") -> tuple[int, float]:
            granted, wait_ms = cast(
                "list[int]",
                await redis.eval(
                    _TAKE, 1, key, str(limit.capacity), repr(limit.refill_per_s), str(limit.taken_at_once)
                ),
            )
            return int(granted), wait_ms / 1000

        return await self._redis.attempt(take, None)

    def _bucket(self, limit: Limit, client: str) -> _LocalBucket:
        key = (limit.name, client)
        if (bucket := self._buckets.get(key)) is None:
            bucket = self._buckets[key] = _LocalBucket(float(limit.capacity), self._monotonic())
            if len(self._buckets) > _MOST_CLIENTS_IN_MEMORY:
                self._buckets.popitem(last=False)
        return bucket


def _too_many(limit: Limit, wait_s: float) -> RateLimited:
    return RateLimited(
        f"More than {limit.capacity} requests per {limit.period_s:g} s. Wait and send it again.",
        retry_after_s=max(1, math.ceil(wait_s)),
    )


def _take(bucket: _LocalBucket, limit: Limit, now: float) -> tuple[int, float]:
    """Take from the bucket in memory; returns granted tokens and the seconds until one is there."""
    bucket.tokens = min(float(limit.capacity), bucket.tokens + (now - bucket.at) * limit.refill_per_s)
    bucket.at = now
    granted = min(limit.taken_at_once, math.floor(bucket.tokens))
    bucket.tokens -= granted
    return granted, max(0.0, 1 - bucket.tokens) / limit.refill_per_s
