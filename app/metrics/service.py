"""Use cases of metrics: create, list, read any version, change, archive, delete."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from app.access.caller import Caller
from app.access.repository import AuditRepository
from app.core.changes import Changes
from app.core.db import Database
from app.core.paging import Page, PageRequest, page_of
from app.metrics.errors import MetricArchived, MetricKeyTaken, MetricNotFound, MetricVersionNotFound
from app.metrics.repository import MetricRepository
from app.metrics.values import Metric, MetricSpec, StoredMetric

# Processes hold metrics as parts of experiments, so a change of a metric is one of those. It also queues up with
# them: nobody plans with a metric while it is deleted.
_TOPIC = "experiments"
_MAX_ID = 2**63 - 1


class MetricService:
    """Owns the transactions that change metrics; each change is audited and makes a version."""

    def __init__(self, *, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def create(self, caller: Caller, spec: MetricSpec) -> StoredMetric:
        """Store a metric.

        Raises:
            MetricKeyTaken: the project has one with this key.
        """
        async with self._database.begin() as connection:
            epoch = await self._changes.bump(connection, _TOPIC)
            repository = MetricRepository(connection)
            metric_id = await repository.insert(caller.project_id, spec, epoch)
            if metric_id is None:
                raise MetricKeyTaken(spec.key)
            stored = await _get(repository, caller, str(metric_id))
            await _record(connection, caller, "metric.created", stored.metric, {"metric": _plain(spec)})
        await self._changes.settle(_TOPIC, epoch)
        return stored

    async def get(self, caller: Caller, reference: str, version: int | None = None) -> StoredMetric:
        """Return the version asked for, or the latest one.

        Raises:
            MetricNotFound: the project has none with this id or key.
            MetricVersionNotFound: it has no such version.
        """
        async with self._database.read() as connection:
            return await _get(MetricRepository(connection), caller, reference, version)

    async def list_(
        self, caller: Caller, key_prefix: str | None, q: str | None, page: PageRequest, *, include_archived: bool
    ) -> Page[StoredMetric]:
        async with self._database.read() as connection:
            repository = MetricRepository(connection)
            rows = await repository.list_(caller.project_id, key_prefix, q, page, include_archived=include_archived)
        return page_of(rows, page, lambda stored: stored.metric.id)

    async def versions(self, caller: Caller, reference: str, page: PageRequest) -> Page[StoredMetric]:
        """Return the versions of a metric, newest first.

        Raises:
            MetricNotFound: the project has none with this id or key.
        """
        async with self._database.read() as connection:
            repository = MetricRepository(connection)
            latest = await _get(repository, caller, reference)
            rows = await repository.versions(latest.metric.id, page)
        return page_of(rows, page, lambda stored: stored.metric.version)

    async def change(
        self, caller: Caller, reference: str, apply: Callable[[Metric], MetricSpec], *, archived: bool | None = None
    ) -> StoredMetric:
        """Add the version that `apply` makes of the latest one; the same again is no change and makes no version.

        archived: whether the metric is to be archived afterwards; `None`: as it is.

        Raises:
            MetricNotFound: the project has none with this id or key.
            MetricArchived: it is archived, and is to stay so.
            Invalid: `apply` refuses.
        """
        async with self._database.begin() as connection:
            # Changes queue up here, so that what is read next is the latest version.
            epoch = await self._changes.bump(connection, _TOPIC)
            repository = MetricRepository(connection)
            current = await _get(repository, caller, reference)
            after = apply(current.metric)
            changed = _changed(_spec_of(current.metric), after)
            was_archived = current.archived_at is not None
            moves = archived is not None and archived is not was_archived
            if not changed and not moves:
                return current
            if was_archived and not moves:
                raise MetricArchived(current.metric.key)
            if moves:
                await _set_archived(connection, caller, current.metric, archived=not was_archived, epoch=epoch)
            if changed:
                await repository.insert_version(current.metric.id, current.latest_version + 1, after, epoch)
            stored = await _get(repository, caller, str(current.metric.id))
            if changed:
                await _record(connection, caller, "metric.changed", stored.metric, changed)
        await self._changes.settle(_TOPIC, epoch)
        return stored

    async def remove(self, caller: Caller, reference: str) -> None:
        """Delete a metric with all its versions; archive it if an experiment uses it, whose results need it.

        Raises:
            MetricNotFound: the project has none with this id or key.
        """
        async with self._database.begin() as connection:
            epoch = await self._changes.bump(connection, _TOPIC)
            repository = MetricRepository(connection)
            stored = await _get(repository, caller, reference)
            found = stored.metric
            if not await repository.is_used(found.id):
                await repository.delete(found.id)
                await _record(connection, caller, "metric.deleted", found, {"metric": _plain(_spec_of(found))})
            elif stored.archived_at is None:
                await _set_archived(connection, caller, found, archived=True, epoch=epoch)
        await self._changes.settle(_TOPIC, epoch)


async def _set_archived(
    connection: AsyncConnection, caller: Caller, metric: Metric, *, archived: bool, epoch: int
) -> None:
    await MetricRepository(connection).set_archived(metric.id, archived=archived, epoch=epoch)
    await _record(connection, caller, "metric.archived" if archived else "metric.restored", metric, {})


async def _get(
    repository: MetricRepository, caller: Caller, reference: str, version: int | None = None
) -> StoredMetric:
    # A metric has one number: 01 is not another way to write 1, and what no id can be is nobody's.
    is_id = reference.isdecimal()
    if is_id and (reference[0] == "0" or len(reference) >= len(str(_MAX_ID))):
        raise MetricNotFound(reference)
    if (found := await repository.find(caller.project_id, reference, version)) is not None:
        return found
    if version is not None and (latest := await repository.find(caller.project_id, reference)) is not None:
        raise MetricVersionNotFound(latest.metric.key, version, latest.latest_version)
    raise MetricNotFound(reference)


async def _record(
    connection: AsyncConnection, caller: Caller, action: str, metric: Metric, details: Mapping[str, Any]
) -> None:
    await AuditRepository(connection).append(
        project_id=metric.project_id,
        actor=caller.actor,
        request_id=caller.request_id,
        action=action,
        subject=f"metric:{metric.id}",
        details={"key": metric.key, "version": metric.version, **details},
    )


def _spec_of(metric: Metric) -> MetricSpec:
    return MetricSpec(
        key=metric.key,
        name=metric.name,
        description=metric.description,
        recipe=metric.recipe,
        direction=metric.direction,
        unit=metric.unit,
    )


def _changed(before: MetricSpec, after: MetricSpec) -> dict[str, Any]:
    """Return the fields that differ, compared as JSON does, where true is not 1."""
    stood = _plain(before)
    return {
        name: value
        for name, value in _plain(after).items()
        if msgspec.json.encode(value) != msgspec.json.encode(stood[name])
    }


def _plain(spec: MetricSpec) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(spec)
    return plain
