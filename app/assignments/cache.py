"""Stored assignments in memory and in Redis. They never change, so entries are never invalidated."""

import random
from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec
from redis.asyncio import Redis

from app.assignments.values import Key, Stored
from app.core.batching import Batcher
from app.core.metrics import Metrics
from app.core.redis import RedisAid

_MOST_KEYS_PER_CALL = 500
_TTL_JITTER = 0.1  # Entries made together should not all be gone at the same moment.

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Stored).decode


class MemoryCache:
    """Two generations: when the young one is full it becomes the old one, and what is still asked for returns."""

    def __init__(self, max_entries: int) -> None:
        self._half = max_entries // 2
        self._young: dict[Key, Stored] = {}
        self._old: dict[Key, Stored] = {}

    def get(self, key: Key) -> Stored | None:
        if (found := self._young.get(key)) is not None:
            return found
        if (found := self._old.get(key)) is not None:
            self.put(key, found)
        return found

    def put(self, key: Key, stored: Stored) -> None:
        if self._half == 0:
            return
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[key] = stored


class RedisCache:
    """Looks up and stores many keys per call, coalesced over requests."""

    def __init__(self, redis: RedisAid, *, installation: UUID, ttl_s: int, metrics: Metrics) -> None:
        self._redis = redis
        # The installation is part of the key: ids begin at 1 again in another database.
        self._prefix = f"exp:{installation}:assignment"
        self._ttl_s = ttl_s
        self._metrics = metrics
        self._lookups = Batcher(self._look_up, max_items=_MOST_KEYS_PER_CALL)
        self._stores = Batcher(self._store, max_items=_MOST_KEYS_PER_CALL)

    async def find_many(self, keys: Sequence[Key]) -> Sequence[Stored | None]:
        """Return what Redis holds of `keys`, in their order; nothing at all while it is away."""
        if not self._redis.available:
            return [None] * len(keys)
        return await self._lookups.submit(keys)

    async def put_many(self, entries: Mapping[Key, Stored]) -> None:
        if entries and self._redis.available:
            await self._stores.submit(list(entries.items()))

    async def _look_up(self, keys: Sequence[Key]) -> Sequence[Stored | None]:
        names = [self._name(key) for key in keys]
        nothing: list[bytes | str | None] = [None] * len(names)
        raw = await self._redis.attempt(lambda redis: redis.mget(names), nothing)
        found = [_stored_or_none(value) for value in raw]
        hits = sum(item is not None for item in found)
        self._metrics.cache.labels("assignment", "hit").inc(hits)
        self._metrics.cache.labels("assignment", "miss").inc(len(found) - hits)
        return found

    async def _store(self, entries: Sequence[tuple[Key, Stored]]) -> Sequence[None]:
        async def write(redis: "Redis") -> None:
            pipeline = redis.pipeline(transaction=False)
            for key, stored in entries:
                ttl_s = int(self._ttl_s * (1 - _TTL_JITTER * random.random()))
                pipeline.set(self._name(key), _encode(stored), ex=max(1, ttl_s))
            await pipeline.execute()

        await self._redis.attempt(write, None)
        return [None] * len(entries)

    def _name(self, key: Key) -> str:
        return f"{self._prefix}:{key[0]}:{key[1]}"


def _stored_or_none(raw: bytes | str | None) -> Stored | None:
    if raw is None:
        return None
    try:
        return _decode(raw)
    except msgspec.DecodeError:
        return None
