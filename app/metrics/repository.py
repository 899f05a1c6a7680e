"""SQL of metrics and their versions."""

from collections.abc import Collection
from typing import Any

import msgspec
from sqlalchemy import Row, Select, column, delete, func, null, or_, select, table, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.paging import PageRequest
from app.metrics.models import metric_versions, metrics
from app.metrics.values import Direction, Metric, MetricSpec, Recipe, StoredMetric

# A table of the context above, by name: what is used there is not deleted.
_EXPERIMENT_METRICS = table("experiment_metrics", column("metric_id"))


class MetricRepository:
    """Reads and writes metrics; a version that was written stays as it is."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(self, project_id: int, spec: MetricSpec, epoch: int) -> int | None:
        """Return the new metric's id, or `None` when its key is taken."""
        statement = (
            insert(metrics)
            .values(project_id=project_id, key=spec.key, change_epoch=epoch)
            .on_conflict_do_nothing(index_elements=["project_id", "key"])
            .returning(metrics.c.id)
        )
        metric_id = (await self._connection.execute(statement)).scalar_one_or_none()
        if metric_id is None:
            return None
        await self._insert_version(int(metric_id), 1, spec)
        return int(metric_id)

    async def insert_version(self, metric_id: int, version: int, spec: MetricSpec, epoch: int) -> None:
        """Add a version, which is the latest one from now on."""
        await self._insert_version(metric_id, version, spec)
        await self._connection.execute(
            update(metrics).where(metrics.c.id == metric_id).values(latest_version=version, change_epoch=epoch)
        )

    async def _insert_version(self, metric_id: int, version: int, spec: MetricSpec) -> None:
        await self._connection.execute(
            insert(metric_versions).values(
                metric_id=metric_id,
                version=version,
                name=spec.name,
                description=spec.description,
                recipe=msgspec.to_builtins(spec.recipe),
                direction=spec.direction.value,
                unit=spec.unit,
            )
        )

    async def set_archived(self, metric_id: int, *, archived: bool, epoch: int) -> None:
        """Archive a metric with all its versions, or restore it."""
        at = func.clock_timestamp() if archived else null()
        await self._connection.execute(
            update(metrics).where(metrics.c.id == metric_id).values(archived_at=at, change_epoch=epoch)
        )

    async def delete(self, metric_id: int) -> None:
        await self._connection.execute(delete(metric_versions).where(metric_versions.c.metric_id == metric_id))
        await self._connection.execute(delete(metrics).where(metrics.c.id == metric_id))

    async def find(self, project_id: int, reference: str, version: int | None = None) -> StoredMetric | None:
        """Return the project's metric with this id or key: the version asked for, or the latest one."""
        named = metrics.c.id == int(reference) if reference.isdecimal() else metrics.c.key == reference
        wanted = metrics.c.latest_version if version is None else version
        statement = _METRICS.where(metrics.c.project_id == project_id, named, metric_versions.c.version == wanted)
        row = (await self._connection.execute(statement)).one_or_none()
        return None if row is None else _stored(row)

    async def latest_by_key(self, project_id: int, keys: Collection[str]) -> dict[str, StoredMetric]:
        """Return those of the project's metrics that have one of the keys."""
        statement = _LATEST.where(metrics.c.project_id == project_id, metrics.c.key.in_(keys))
        return {row.key: _stored(row) for row in await self._connection.execute(statement)}

    async def list_(
        self, project_id: int, key_prefix: str | None, q: str | None, page: PageRequest, *, include_archived: bool
    ) -> list[StoredMetric]:
        """Return up to `limit + 1` metrics in their latest versions, newest first."""
        statement = _LATEST.where(metrics.c.project_id == project_id)
        if not include_archived:
            statement = statement.where(metrics.c.archived_at.is_(None))
        if key_prefix:
            statement = statement.where(metrics.c.key.startswith(key_prefix, autoescape=True))
        if q:
            statement = statement.where(
                or_(
                    metrics.c.key.icontains(q, autoescape=True),
                    metric_versions.c.name.icontains(q, autoescape=True),
                    metric_versions.c.description.icontains(q, autoescape=True),
                )
            )
        if (after := page.after_id()) is not None:
            statement = statement.where(metrics.c.id < after)
        statement = statement.order_by(metrics.c.id.desc()).limit(page.limit + 1)
        return [_stored(row) for row in await self._connection.execute(statement)]

    async def versions(self, metric_id: int, page: PageRequest) -> list[StoredMetric]:
        """Return up to `limit + 1` versions of a metric, newest first."""
        statement = _METRICS.where(metrics.c.id == metric_id)
        if (after := page.after_id()) is not None:
            statement = statement.where(metric_versions.c.version < after)
        statement = statement.order_by(metric_versions.c.version.desc()).limit(page.limit + 1)
        return [_stored(row) for row in await self._connection.execute(statement)]

    async def is_used(self, metric_id: int) -> bool:
        """Tell whether an experiment uses any version of the metric."""
        statement = select(_EXPERIMENT_METRICS.c.metric_id).where(_EXPERIMENT_METRICS.c.metric_id == metric_id).limit(1)
        return (await self._connection.execute(statement)).first() is not None


METRIC_COLUMNS = (
    metrics.c.id,
    metrics.c.project_id,
    metrics.c.key,
    metric_versions.c.version,
    metric_versions.c.name,
    metric_versions.c.description,
    metric_versions.c.recipe,
    metric_versions.c.direction,
    metric_versions.c.unit,
)
_METRICS: Select[Any] = select(
    *METRIC_COLUMNS,
    metrics.c.latest_version,
    metrics.c.created_at,
    metrics.c.archived_at,
    metric_versions.c.created_at.label("changed_at"),
).join_from(metrics, metric_versions, metric_versions.c.metric_id == metrics.c.id)
_LATEST = _METRICS.where(metric_versions.c.version == metrics.c.latest_version)


def metric_of(row: Row[Any]) -> Metric:
    """Return the version that a row with `METRIC_COLUMNS` holds."""
    return Metric(
        id=row.id,
        project_id=row.project_id,
        key=row.key,
        version=row.version,
        name=row.name,
        description=row.description,
        recipe=msgspec.convert(row.recipe, Recipe),
        direction=Direction(row.direction),
        unit=row.unit,
    )


def _stored(row: Row[Any]) -> StoredMetric:
    return StoredMetric(
        metric=metric_of(row),
        latest_version=row.latest_version,
        created_at=row.created_at,
        changed_at=row.changed_at,
        archived_at=row.archived_at,
    )
