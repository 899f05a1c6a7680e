"""SQL of experiments and variants."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.paging import PageRequest
from app.experiments.allocation import bucket_ranges
from app.experiments.analysis_plan import NO_PLAN, AnalysisPlan, Seal
from app.experiments.attachment_repository import Attachment, AttachmentRepository
from app.experiments.lifecycle import Status
from app.experiments.models import experiment_metrics, experiments, variants
from app.experiments.population import EVERYBODY, Population
from app.experiments.values import Experiment, ExperimentFilter, ExperimentPlan, Variant, VariantPlan
from app.metrics.models import metrics

_CLOCK = func.clock_timestamp()


class ExperimentRepository:
    """Reads and writes experiments together with their variants."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(
        self, project_id: int, plan: ExperimentPlan, status: Status, started_at: datetime | None, epoch: int
    ) -> int | None:
        """Return the new experiment's id, or `None` when its key is taken."""
        statement = (
            insert(experiments)
            .values(
                project_id=project_id,
                key=plan.key,
                name=plan.name,
                description=plan.description,
                status=status.value,
                seed=plan.seed,
                traffic_pct=plan.traffic_pct,
                config=dict(plan.config),
                population=population_column(plan.population),
                plan=plan_column(plan.analysis),
                starts_at=plan.starts_at,
                ends_at=plan.ends_at,
                started_at=started_at,
                change_epoch=epoch,
            )
            .on_conflict_do_nothing(index_elements=["project_id", "key"])
            .returning(experiments.c.id)
        )
        experiment_id = (await self._connection.execute(statement)).scalar_one_or_none()
        if experiment_id is None:
            return None
        await self._connection.execute(insert(variants), _variant_rows(experiment_id, plan.variants))
        return int(experiment_id)

    async def replace_variants(self, experiment_id: int, plans: Sequence[VariantPlan]) -> None:
        """Bring the stored variants in line with `plans`; those whose key stays keep their id."""
        await self._connection.execute(
            update(variants).where(variants.c.experiment_id == experiment_id).values(is_control=False)
        )
        await self._connection.execute(
            delete(variants).where(
                variants.c.experiment_id == experiment_id,
                variants.c.key.not_in([plan.key for plan in plans]),
            )
        )
        for row in _variant_rows(experiment_id, plans):
            changed = {name: value for name, value in row.items() if name not in {"experiment_id", "key"}}
            await self._connection.execute(
                insert(variants)
                .values(row)
                .on_conflict_do_update(index_elements=["experiment_id", "key"], set_=changed)
            )

    async def update(self, experiment_id: int, values: Mapping[str, Any], epoch: int) -> None:
        """Set columns, and with them the next version."""
        await self._connection.execute(
            update(experiments)
            .where(experiments.c.id == experiment_id)
            .values(**values, version=experiments.c.version + 1, updated_at=_CLOCK, change_epoch=epoch)
        )

    async def delete(self, experiment_id: int) -> None:
        await AttachmentRepository(self._connection).delete(experiment_id)
        await self._connection.execute(delete(variants).where(variants.c.experiment_id == experiment_id))
        await self._connection.execute(delete(experiments).where(experiments.c.id == experiment_id))

    async def get(self, experiment_id: int) -> Experiment:
        return (await self._complete(experiments.c.id == experiment_id))[0]

    async def find(self, experiment_id: int) -> Experiment | None:
        """Return the experiment unless it was deleted; others may change it meanwhile."""
        return next(iter(await self._complete(experiments.c.id == experiment_id)), None)

    async def find_locked(self, experiment_id: int) -> Experiment | None:
        """Return the experiment and keep others from changing it until the transaction ends."""
        return await self._find_once_locked(experiment_id, shared=False)

    async def find_unchanging(self, experiment_id: int) -> Experiment | None:
        """Return the experiment, which nobody changes until the transaction ends; many may hold it so at once."""
        return await self._find_once_locked(experiment_id, shared=True)

    async def _find_once_locked(self, experiment_id: int, *, shared: bool) -> Experiment | None:
        statement = select(experiments.c.id).where(experiments.c.id == experiment_id).with_for_update(read=shared)
        if (await self._connection.execute(statement)).first() is None:
            return None
        # A statement of its own: it sees what was committed while the first one waited.
        return await self.get(experiment_id)

    async def changed_since(self, epoch: int) -> list[Experiment]:
        """Return the experiments that look different since then, also because a metric that they follow does."""
        followers = (
            select(experiment_metrics.c.experiment_id)
            .join(metrics, metrics.c.id == experiment_metrics.c.metric_id)
            .where(experiment_metrics.c.metric_version.is_(None), metrics.c.change_epoch > epoch)
        )
        return await self._complete(or_(experiments.c.change_epoch > epoch, experiments.c.id.in_(followers)))

    async def all_ids(self) -> set[int]:
        return set((await self._connection.execute(select(experiments.c.id))).scalars())

    async def list_(self, project_id: int, wanted: ExperimentFilter, page: PageRequest) -> list[Experiment]:
        """Return up to `limit + 1` experiments, newest first."""
        conditions = [experiments.c.project_id == project_id]
        if wanted.status is not None:
            conditions.append(experiments.c.status == wanted.status.value)
        if wanted.key_prefix:
            conditions.append(experiments.c.key.startswith(wanted.key_prefix, autoescape=True))
        if wanted.q:
            conditions.append(
                or_(
                    experiments.c.name.icontains(wanted.q, autoescape=True),
                    experiments.c.key.icontains(wanted.q, autoescape=True),
                    experiments.c.description.icontains(wanted.q, autoescape=True),
                )
            )
        if (after := page.after_id()) is not None:
            conditions.append(experiments.c.id < after)
        ids = select(experiments.c.id).where(*conditions).order_by(experiments.c.id.desc()).limit(page.limit + 1)
        return await self._complete(experiments.c.id.in_(ids))

    async def _complete(self, condition: ColumnElement[bool]) -> list[Experiment]:
        rows = (
            await self._connection.execute(select(experiments).where(condition).order_by(experiments.c.id.desc()))
        ).all()
        by_experiment: dict[int, list[Variant]] = defaultdict(list)
        statement = (
            select(variants)
            .where(text("variants.experiment_id = ANY(CAST(:ids AS bigint[]))"))
            .order_by(variants.c.experiment_id, variants.c.position)
        )
        ids = [row.id for row in rows]
        for row in await self._connection.execute(statement, {"ids": ids}):
            by_experiment[row.experiment_id].append(_variant(row))
        repository = AttachmentRepository(self._connection)
        attached, seals = await repository.of(ids), await repository.seals_of(ids)
        return [_experiment(row, by_experiment[row.id], attached[row.id], seals.get(row.id)) for row in rows]


def population_column(population: Population) -> dict[str, Any] | None:
    """Return what is stored of a population: nothing for everybody."""
    return None if population == EVERYBODY else msgspec.to_builtins(population)


def plan_column(plan: AnalysisPlan) -> dict[str, Any] | None:
    """Return what is stored of a plan in the experiment's own row: all but its metrics, nothing for no plan."""
    own = replace(plan, metrics=())
    return None if own == NO_PLAN else msgspec.to_builtins(own)


def _variant_rows(experiment_id: int, plans: Sequence[VariantPlan]) -> list[dict[str, Any]]:
    ranges = bucket_ranges([plan.allocation_pct for plan in plans])
    return [
        {
            "experiment_id": experiment_id,
            "key": plan.key,
            "name": plan.name,
            "position": position,
            "allocation_pct": plan.allocation_pct,
            "is_control": plan.is_control,
            "config": dict(plan.config),
            "bucket_start": start,
            "bucket_end": end,
        }
        for position, (plan, (start, end)) in enumerate(zip(plans, ranges, strict=True))
    ]


def _variant(row: Row[Any]) -> Variant:
    return Variant(
        id=row.id,
        key=row.key,
        name=row.name,
        allocation_pct=row.allocation_pct,
        is_control=row.is_control,
        config=row.config,
        bucket_start=row.bucket_start,
        bucket_end=row.bucket_end,
    )


def _experiment(
    row: Row[Any], of_experiment: Sequence[Variant], attached: Sequence[Attachment], seal: Seal | None
) -> Experiment:
    own = NO_PLAN if row.plan is None else msgspec.convert(row.plan, AnalysisPlan)
    return Experiment(
        id=row.id,
        project_id=row.project_id,
        key=row.key,
        name=row.name,
        description=row.description,
        status=Status(row.status),
        seed=row.seed,
        traffic_pct=row.traffic_pct,
        config=row.config,
        version=row.version,
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
        variants=tuple(of_experiment),
        population=EVERYBODY if row.population is None else msgspec.convert(row.population, Population),
        plan=replace(own, metrics=tuple(item.planned for item in attached if not item.used.exploratory)),
        seal=seal,
        metrics=tuple(item.used for item in attached),
    )
