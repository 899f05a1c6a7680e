"""Writing plans: their metrics are looked up by key, and sealed at the start.

Each function acts in the caller's transaction, which has taken the next epoch of experiments, so that no metric
changes or goes meanwhile.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.errors import FieldProblem, Invalid
from app.experiments.analysis_plan import PlannedMetric, Seal, SealedPlan
from app.experiments.attachment_repository import AttachmentRepository, NewAttachment
from app.experiments.repository import ExperimentRepository
from app.experiments.sealing import canonical, hash_of, plan_document
from app.experiments.values import Experiment
from app.metrics.builtin import COMPARABLE_KEYS, why_not_comparable
from app.metrics.repository import MetricRepository
from app.metrics.values import StoredMetric


async def write_metrics(
    connection: AsyncConnection, experiment_id: int, project_id: int, planned: Sequence[PlannedMetric]
) -> None:
    """Give a draft these metrics and no others.

    Raises:
        Invalid: one is unknown, archived, cannot be compared between variants, or has no such version.
    """
    fields = [f"plan.metrics.{index}." for index in range(len(planned))]
    repository = AttachmentRepository(connection)
    # A plan is set as a whole: what is in it already may stay, also when it is archived by now.
    had = {item.planned.metric for item in (await repository.of([experiment_id]))[experiment_id]}
    await repository.replace(experiment_id, await looked_up(connection, project_id, planned, fields, had))


async def looked_up(
    connection: AsyncConnection,
    project_id: int,
    planned: Sequence[PlannedMetric],
    fields: Sequence[str],
    had: Collection[str] = (),
) -> list[NewAttachment]:
    """Find the planned metrics; `fields` says for each how its fields are called in a refusal.

    had: the keys of metrics that the experiment has anyway, which may be archived.

    Raises:
        Invalid: one is unknown, archived, cannot be compared between variants, or has no such version.
    """
    keys = {item.metric for item in planned}.difference(COMPARABLE_KEYS)
    stored = await MetricRepository(connection).latest_by_key(project_id, keys) if keys else {}
    archived = {key for key, found in stored.items() if found.archived_at is not None}.difference(had)
    problems = [
        problem
        for item, field in zip(planned, fields, strict=True)
        if (problem := _problem_of(item, stored.get(item.metric), field, archived)) is not None
    ]
    if problems:
        raise Invalid(problems)
    return [
        NewAttachment(item, found.metric.id if (found := stored.get(item.metric)) is not None else None)
        for item in planned
    ]


def _problem_of(
    planned: PlannedMetric, stored: StoredMetric | None, field: str, archived: Collection[str]
) -> FieldProblem | None:
    if planned.metric in archived:
        detail = f'{planned.metric} is archived; take another, or restore it by PATCH with "archived": false first'
        return {"field": f"{field}metric", "detail": detail}
    if stored is not None:
        if planned.version is not None and planned.version > stored.latest_version:
            detail = (
                f"{planned.metric} has the versions 1 to {stored.latest_version}; take one of these, or leave it out"
            )
            return {"field": f"{field}version", "detail": detail}
        return None
    if planned.metric not in COMPARABLE_KEYS:
        unknown = f"no metric has the key {planned.metric!r} in this project; make it by POST /metrics first"
        return {"field": f"{field}metric", "detail": why_not_comparable(planned.metric) or unknown}
    if planned.version is not None:
        detail = f"{planned.metric} needs no set-up and has no versions; leave it out"
        return {"field": f"{field}version", "detail": detail}
    return None


async def seal(connection: AsyncConnection, experiment_id: int, sealed_at: datetime) -> Experiment:
    """Fix the versions of an experiment's metrics, store what it promises with a hash, and return it as it now is."""
    attachments, repository = AttachmentRepository(connection), ExperimentRepository(connection)
    await attachments.fix_versions(experiment_id)
    document = canonical(plan_document(await repository.get(experiment_id), sealed_at))
    await attachments.insert_seal(experiment_id, SealedPlan(Seal(sealed_at, hash_of(document)), document))
    return await repository.get(experiment_id)
