"""A results service on real stores, with a watermark, a clock and a cache that a test holds in its hands."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from app.core.changes import Changes
from app.core.clickhouse import ClickHouse, ClickHouseUnavailable
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.redis import RedisAid
from app.experiments.registry import ExperimentRegistry
from app.results.service import ResultsService
from tests.integration.results.world import World


class FakeRedis:
    """The two commands that the cache uses, in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.lifetimes_s: dict[str, int] = {}

    async def get(self, key: str) -> bytes | None:
        return self.kept.get(key)

    async def set(self, key: str, value: bytes, *, ex: int) -> None:
        self.kept[key] = value
        self.lifetimes_s[key] = ex


class FakeAid(RedisAid):
    """A Redis that answers from memory."""

    def __init__(self) -> None:
        self.redis = FakeRedis()

    async def attempt(self, call: Callable[[Any], Awaitable[Any]], default: Any) -> Any:  # noqa: ARG002
        return await call(self.redis)


@dataclass
class Bench:
    """What a test turns."""

    watermark: datetime | Exception | None = None
    now: datetime = field(default_factory=lambda: datetime(2026, 4, 1, tzinfo=UTC))
    cache: FakeAid = field(default_factory=FakeAid)

    async def read_watermark(self) -> datetime | None:
        if isinstance(self.watermark, Exception):
            raise self.watermark
        return self.watermark

    def clock(self) -> datetime:
        return self.now


class BrokenClickHouse(ClickHouse):
    """A ClickHouse that has gone away."""

    def __init__(self) -> None:
        """Open nothing."""

    async def rows(self, *_args: Any, **_options: Any) -> list[dict[str, Any]]:
        raise ClickHouseUnavailable("gone")


@asynccontextmanager
async def running_service(
    world: World, bench: Bench, *, clickhouse: ClickHouse | None, database: Database | None = None
) -> AsyncIterator[ResultsService]:
    """Run a service. `database` is its PostgreSQL, if it is another than the one in which it learns of experiments."""
    changes = Changes(world.database)
    registry = ExperimentRegistry(world.database, changes)
    await changes.start()
    world.followers.append(changes)
    yield ResultsService(
        database=database or world.database,
        clickhouse=clickhouse,
        registry=registry,
        watermark=bench.read_watermark,
        redis=bench.cache,
        metrics=Metrics(),
        clock=bench.clock,
        namespace="test",
    )
    world.followers.remove(changes)
    await changes.stop()
