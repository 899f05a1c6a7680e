"""SQL of the metrics that experiments have, and of sealed plans."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, and_, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.experiments.analysis_plan import PlannedMetric, Seal, SealedPlan
from app.experiments.models import experiment_metrics, experiments, sealed_plans
from app.metrics.builtin import built_in
from app.metrics.models import metric_versions, metrics
from app.metrics.repository import METRIC_COLUMNS, metric_of
from app.metrics.values import AttachedMetric, Metric, Role

_OF_EXPERIMENTS = "{table}.experiment_id = ANY(CAST(:ids AS bigint[]))"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A stored use of a metric: as results see it, and as it was planned."""

    used: AttachedMetric
    planned: PlannedMetric


@dataclass(frozen=True, slots=True)
class NewAttachment:
    """A use of a metric to store. `metric_id` `None`: one that needs no set-up."""

    planned: PlannedMetric
    metric_id: int | None
    exploratory: bool = False


class AttachmentRepository:
    """Reads and writes which metrics experiments have."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def of(self, experiment_ids: Collection[int]) -> dict[int, list[Attachment]]:
        """Return the metrics of each experiment in their order; one without a version is in its latest."""
        found: dict[int, list[Attachment]] = defaultdict(list)
        for row in await self._connection.execute(_ATTACHMENTS, {"ids": list(experiment_ids)}):
            found[row.experiment_id].append(_attachment(row))
        return found

    async def replace(self, experiment_id: int, attachments: Sequence[NewAttachment]) -> None:
        """Give an experiment these metrics and no others."""
        await self.delete(experiment_id)
        if attachments:
            rows = [_row(experiment_id, position, item) for position, item in enumerate(attachments)]
            await self._connection.execute(insert(experiment_metrics), rows)

    async def append(self, experiment_id: int, attachment: NewAttachment) -> None:
        last = select(func.coalesce(func.max(experiment_metrics.c.position), -1)).where(
            experiment_metrics.c.experiment_id == experiment_id
        )
        position = int((await self._connection.execute(last)).scalar_one()) + 1
        await self._connection.execute(insert(experiment_metrics).values(_row(experiment_id, position, attachment)))

    async def remove(self, experiment_id: int, position: int) -> None:
        await self._connection.execute(
            delete(experiment_metrics).where(
                experiment_metrics.c.experiment_id == experiment_id, experiment_metrics.c.position == position
            )
        )

    async def fix_versions(self, experiment_id: int) -> None:
        """Write down the latest version of each metric that named none."""
        await self._connection.execute(
            update(experiment_metrics)
            .where(
                experiment_metrics.c.experiment_id == experiment_id,
                experiment_metrics.c.metric_version.is_(None),
                metrics.c.id == experiment_metrics.c.metric_id,
            )
            .values(metric_version=metrics.c.latest_version)
        )

    async def delete(self, experiment_id: int) -> None:
        await self._connection.execute(
            delete(experiment_metrics).where(experiment_metrics.c.experiment_id == experiment_id)
        )

    async def insert_seal(self, experiment_id: int, sealed: SealedPlan) -> None:
        await self._connection.execute(
            insert(sealed_plans).values(
                experiment_id=experiment_id,
                document=sealed.document,
                hash=sealed.seal.hash,
                sealed_at=sealed.seal.sealed_at,
            )
        )

    async def seals_of(self, experiment_ids: Collection[int]) -> dict[int, Seal]:
        """Return the seals of those experiments that have one."""
        rows = await self._connection.execute(_SEALS, {"ids": list(experiment_ids)})
        return {row.experiment_id: Seal(row.sealed_at, row.hash) for row in rows}

    async def find_sealed(self, experiment_id: int) -> SealedPlan | None:
        statement = select(sealed_plans).where(sealed_plans.c.experiment_id == experiment_id)
        row = (await self._connection.execute(statement)).one_or_none()
        return None if row is None else SealedPlan(Seal(row.sealed_at, row.hash), row.document)


_ATTACHMENTS: Select[Any] = (
    select(
        experiment_metrics.c.experiment_id,
        experiment_metrics.c.position,
        experiment_metrics.c.built_in,
        experiment_metrics.c.metric_version,
        experiment_metrics.c.role,
        experiment_metrics.c.margin,
        experiment_metrics.c.exploratory,
        experiments.c.project_id.label("of_project"),
        *METRIC_COLUMNS,
    )
    .select_from(experiment_metrics)
    .join(experiments, experiments.c.id == experiment_metrics.c.experiment_id)
    .outerjoin(metrics, metrics.c.id == experiment_metrics.c.metric_id)
    .outerjoin(
        metric_versions,
        and_(
            metric_versions.c.metric_id == metrics.c.id,
            metric_versions.c.version == func.coalesce(experiment_metrics.c.metric_version, metrics.c.latest_version),
        ),
    )
    .where(text(_OF_EXPERIMENTS.format(table="experiment_metrics")))
    .order_by(experiment_metrics.c.experiment_id, experiment_metrics.c.position)
)
_SEALS = select(sealed_plans.c.experiment_id, sealed_plans.c.sealed_at, sealed_plans.c.hash).where(
    text(_OF_EXPERIMENTS.format(table="sealed_plans"))
)


def _row(experiment_id: int, position: int, attachment: NewAttachment) -> dict[str, Any]:
    planned = attachment.planned
    is_built_in = attachment.metric_id is None
    return {
        "experiment_id": experiment_id,
        "position": position,
        "metric_id": attachment.metric_id,
        "built_in": planned.metric if is_built_in else None,
        "metric_version": planned.version,
        "role": planned.role.value,
        "margin": planned.margin,
        "exploratory": attachment.exploratory,
    }


def _attachment(row: Row[Any]) -> Attachment:
    metric = _metric(row)
    role = Role(row.role)
    return Attachment(
        used=AttachedMetric(
            metric=metric, role=role, margin=row.margin, exploratory=row.exploratory, position=row.position
        ),
        planned=PlannedMetric(metric.key, role, row.margin, row.metric_version),
    )


def _metric(row: Row[Any]) -> Metric:
    if row.built_in is None:
        return metric_of(row)
    metric = built_in(row.built_in, row.of_project)
    assert metric is not None  # noqa: S101  # None but these are stored.
    return metric
