"""Use cases of plans: the metrics of an experiment, one by one, and what was sealed at its start."""

from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from app.access.caller import Caller
from app.access.repository import AuditRepository
from app.core.changes import Changes
from app.core.db import Database
from app.experiments.analysis_plan import MAX_METRICS, PlannedMetric
from app.experiments.attachment_repository import AttachmentRepository
from app.experiments.errors import (
    ChangeNotAllowed,
    ExperimentNotFound,
    MetricAttached,
    MetricNotAttached,
    PlannedMetricStays,
    PrimaryTaken,
    TooManyMetrics,
)
from app.experiments.lifecycle import Refusal, Status
from app.experiments.planning import looked_up
from app.experiments.recording import noted_start, record_change
from app.experiments.registry import TOPIC, ExperimentRegistry
from app.experiments.repository import ExperimentRepository
from app.experiments.sealing import PlanAccount, account_of
from app.experiments.values import Experiment
from app.metrics.values import AttachedMetric, Role


class PlanService:
    """Owns the transactions that attach and detach metrics; each is audited, announced and sent to the outbox."""

    def __init__(self, *, database: Database, changes: Changes, registry: ExperimentRegistry) -> None:
        self._database = database
        self._changes = changes
        self._registry = registry

    async def attached(self, caller: Caller, reference: str) -> tuple[AttachedMetric, ...]:
        """Return the metrics of an experiment: the planned ones, then those attached after the start.

        Raises:
            ExperimentNotFound: the project has none with this id or key.
        """
        await self._registry.ensure_fresh()
        return self._registry.get(caller.project_id, reference).metrics

    async def attach(self, caller: Caller, reference: str, wanted: PlannedMetric) -> AttachedMetric:
        """Add a metric: to the plan of a draft, and afterwards as exploratory for ever.

        Raises:
            ExperimentNotFound: the project has none with this id or key.
            MetricAttached: the experiment has it.
            PrimaryTaken: another metric is primary.
            TooManyMetrics: it has as many as it can have.
            ChangeNotAllowed: the experiment is archived, or the role is one that is promised before the start.
            Invalid: there is no such metric or version.
        """
        found = await self._found(caller, reference)
        async with self._database.begin() as connection:
            epoch = await self._changes.bump(connection, TOPIC)
            current = await _locked(connection, found)
            _refuse_attaching(current, wanted)
            (attachment,) = await looked_up(connection, current.project_id, [wanted], [""])
            exploratory = current.status is not Status.DRAFT
            repository = AttachmentRepository(connection)
            await repository.append(current.id, replace(attachment, exploratory=exploratory))
            if exploratory:
                await repository.fix_versions(current.id)
            experiment = await _next_version(connection, current, epoch)
            attached = experiment.metrics[-1]
            details = {"metric": wanted.metric, "role": wanted.role.value, "exploratory": exploratory}
            await record_change(connection, caller, "experiment.metric_attached", experiment, details)
        await self._changes.settle(TOPIC, epoch)
        return attached

    async def detach(self, caller: Caller, reference: str, metric: str) -> None:
        """Remove a metric of a draft's plan, or an exploratory one.

        Raises:
            ExperimentNotFound: the project has none with this id or key.
            MetricNotAttached: the experiment does not have it.
            PlannedMetricStays: it was promised before the start.
            ChangeNotAllowed: the experiment is archived.
        """
        found = await self._found(caller, reference)
        async with self._database.begin() as connection:
            epoch = await self._changes.bump(connection, TOPIC)
            current = await _locked(connection, found)
            attached = _attached(current, metric)
            _refuse_if_archived(current)
            if current.status is not Status.DRAFT and not attached.exploratory:
                raise PlannedMetricStays(attached.metric.key)
            await AttachmentRepository(connection).remove(current.id, attached.position)
            experiment = await _next_version(connection, current, epoch)
            details = {"metric": attached.metric.key, "exploratory": attached.exploratory}
            await record_change(connection, caller, "experiment.metric_detached", experiment, details)
        await self._changes.settle(TOPIC, epoch)

    async def account(self, caller: Caller, reference: str) -> PlanAccount:
        """Return what an experiment promises, and whether its seal is unbroken.

        Raises:
            ExperimentNotFound: the project has none with this id or key.
        """
        found = await self._found(caller, reference)
        async with self._database.read() as connection:
            # All from the database, as what memory says is no proof; and of one moment, so that a start is seen whole.
            await AuditRepository(connection).hold_still()
            sealed = await AttachmentRepository(connection).find_sealed(found.id)
            experiment = await ExperimentRepository(connection).find(found.id)
            noted = await noted_start(connection, found)
        if experiment is None:  # Deleted a moment ago.
            raise ExperimentNotFound(found.key)
        return account_of(experiment, sealed, noted)

    async def _found(self, caller: Caller, reference: str) -> Experiment:
        await self._registry.ensure_fresh()
        return self._registry.get(caller.project_id, reference)


async def _locked(connection: AsyncConnection, found: Experiment) -> Experiment:
    experiment = await ExperimentRepository(connection).find_locked(found.id)
    if experiment is None:  # Deleted a moment ago.
        raise ExperimentNotFound(found.key)
    return experiment


async def _next_version(connection: AsyncConnection, current: Experiment, epoch: int) -> Experiment:
    repository = ExperimentRepository(connection)
    await repository.update(current.id, {}, epoch)
    return await repository.get(current.id)


def _refuse_attaching(experiment: Experiment, wanted: PlannedMetric) -> None:
    _refuse_if_archived(experiment)
    if any(item.metric.key == wanted.metric for item in experiment.metrics):
        raise MetricAttached(wanted.metric)
    if len(experiment.metrics) >= MAX_METRICS:
        raise TooManyMetrics(MAX_METRICS)
    if wanted.role is not Role.PRIMARY:
        return
    if experiment.status is not Status.DRAFT:
        detail = "which metric decides is promised before the start; attach it as secondary or guardrail"
        raise ChangeNotAllowed(experiment.status, [Refusal("role", detail)])
    if (primary := next((item for item in experiment.metrics if item.role is Role.PRIMARY), None)) is not None:
        raise PrimaryTaken(primary.metric.key)


def _refuse_if_archived(experiment: Experiment) -> None:
    if experiment.status is Status.ARCHIVED:
        raise ChangeNotAllowed(experiment.status, [Refusal("metric", "an archived experiment cannot change")])


def _attached(experiment: Experiment, reference: str) -> AttachedMetric:
    """Return the metric with this key, or the stored one with this id."""
    for item in experiment.metrics:
        if reference in {item.metric.key, str(item.metric.id or "")}:
            return item
    raise MetricNotAttached(reference)
