"""The services as a process has them, without Redis, and a caller who may do everything."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from sqlalchemy import text

from app.access.caller import Caller, Identity
from app.access.projects import Projects
from app.access.scopes import Scope, granted_by
from app.access.service import AccessService
from app.assignments.cache import MemoryCache, RedisCache
from app.assignments.override_service import OverrideService
from app.assignments.overrides import OverrideRegistry
from app.assignments.service import AssignmentService
from app.assignments.values import ImportRow
from app.core.changes import Changes
from app.core.clock import utc_now
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.redis import RedisAid
from app.experiments.registry import ExperimentRegistry
from app.experiments.service import ExperimentService
from app.experiments.values import Experiment, ExperimentPlan, VariantPlan
from tests.factories import unique

PAST = datetime(2026, 1, 1, tzinfo=UTC)


class Bench:
    """Everything that acts on one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.metrics = Metrics()
        self.redis = RedisAid.connect("redis://127.0.0.1:1/0", pool_size=1, metrics=self.metrics)
        self.changes = Changes(database)
        self.registry = ExperimentRegistry(database, self.changes)
        self.projects = Projects(database)
        self.access = AccessService(database=database, changes=self.changes, projects=self.projects)
        self.experiments = ExperimentService(
            database=database, changes=self.changes, registry=self.registry, clock=utc_now
        )
        self.overrides = OverrideService(database=database, changes=self.changes)
        self.assignments = AssignmentService(
            database=database,
            registry=self.registry,
            overrides=OverrideRegistry(database, self.changes),
            changes=self.changes,
            memory=MemoryCache(1000),
            cache=RedisCache(self.redis, installation=uuid4(), ttl_s=60, metrics=self.metrics),
            clock=utc_now,
            metrics=self.metrics,
        )

    async def close(self) -> None:
        await self.assignments.stop()
        await self.changes.stop()
        await self.redis.close()

    async def caller(self) -> Caller:
        await self.projects.load()
        return Caller(Identity(None, "tests", granted_by(Scope), None, "tests"), self.projects.default_id, "request")

    async def experiment(self, *keys: str, running: bool = True) -> Experiment:
        """Store an experiment with the variants `keys` in equal shares; the first is the control."""
        return await self.experiments.create(
            await self.caller(), _plan(keys or ("control", "treatment")), running=running
        )

    async def rows(self, sql: str, **values: object) -> list[dict[str, Any]]:
        async with self.database.begin() as connection:
            result = await connection.execute(text(sql), values)
            return [dict(row) for row in result.mappings()] if result.returns_rows else []


def variants(keys: Sequence[str]) -> tuple[VariantPlan, ...]:
    share = Decimal(100) / len(keys)
    return tuple(VariantPlan(key, key.title(), share, key == keys[0], {}) for key in keys)


def import_rows(*rows: tuple[str, str]) -> list[ImportRow]:
    """Make rows of (user id, variant key) pairs."""
    return [ImportRow(index, user_id, variant, PAST) for index, (user_id, variant) in enumerate(rows)]


def _plan(keys: Sequence[str]) -> ExperimentPlan:
    return ExperimentPlan(
        key=unique("exp"),
        name="An experiment",
        description=None,
        seed="seed",
        traffic_pct=Decimal(100),
        config={},
        starts_at=None,
        ends_at=None,
        variants=variants(keys),
    )
