"""Endpoints for metrics."""

from typing import Annotated

from fastapi import Query, Response

from app.access.caller import CurrentCaller
from app.access.guard import GUARDED, WITH_BODY, requires
from app.access.scopes import Scope
from app.core import routes
from app.core.names import KEY_PATTERN
from app.core.paging import Paging
from app.core.problems import documented
from app.metrics.errors import MetricArchived, MetricKeyTaken, MetricNotFound, MetricVersionNotFound
from app.metrics.schemas import MetricChange, MetricIn, MetricList, MetricOut
from app.metrics.wiring import MetricReference, Metrics

router = routes.router(tags=["metrics"])
_READ = [requires(Scope.EXPERIMENTS_READ)]
_WRITE = [requires(Scope.EXPERIMENTS_WRITE)]
_MAX_VERSION = 2**31 - 1


@router.post("/metrics", status_code=201, dependencies=_WRITE, responses=documented(*WITH_BODY, MetricKeyTaken))
async def create_metric(body: MetricIn, caller: CurrentCaller, metrics: Metrics, response: Response) -> MetricOut:
    """Make a metric: a stored recipe that experiments refer to by its key."""
    stored = await metrics.create(caller, body.spec())
    response.headers["Location"] = f"/api/v1/metrics/{stored.metric.id}"
    return MetricOut.of(stored)


@router.get("/metrics", dependencies=_READ, responses=documented(*GUARDED))
async def list_metrics(
    caller: CurrentCaller,
    metrics: Metrics,
    paging: Paging,
    key_prefix: Annotated[str | None, Query(pattern=KEY_PATTERN, description="How keys begin.")] = None,
    q: Annotated[
        str | None,
        Query(min_length=1, max_length=200, pattern=r"^[^\x00]*$", description="Text in key, name or description."),
    ] = None,
    *,
    include_archived: Annotated[bool, Query(description="Whether to list archived ones, too.")] = False,
) -> MetricList:
    """List metrics in their latest versions, newest first."""
    page = await metrics.list_(caller, key_prefix, q, paging, include_archived=include_archived)
    return MetricList(items=[MetricOut.of(item) for item in page.items], next_cursor=page.next_cursor)


@router.get(
    "/metrics/{metric}", dependencies=_READ, responses=documented(*GUARDED, MetricNotFound, MetricVersionNotFound)
)
async def get_metric(
    metric: MetricReference,
    caller: CurrentCaller,
    metrics: Metrics,
    version: Annotated[int | None, Query(ge=1, le=_MAX_VERSION, description="Left out: the latest one.")] = None,
) -> MetricOut:
    """Read a metric in any of its versions."""
    return MetricOut.of(await metrics.get(caller, metric, version))


@router.get("/metrics/{metric}/versions", dependencies=_READ, responses=documented(*GUARDED, MetricNotFound))
async def list_metric_versions(
    metric: MetricReference, caller: CurrentCaller, metrics: Metrics, paging: Paging
) -> MetricList:
    """List the versions of a metric, newest first."""
    page = await metrics.versions(caller, metric, paging)
    return MetricList(items=[MetricOut.of(item) for item in page.items], next_cursor=page.next_cursor)


@router.patch(
    "/metrics/{metric}", dependencies=_WRITE, responses=documented(*WITH_BODY, MetricNotFound, MetricArchived)
)
async def change_metric(
    metric: MetricReference, body: MetricChange, caller: CurrentCaller, metrics: Metrics
) -> MetricOut:
    """Add a version. Started experiments keep theirs; drafts follow unless they name one."""
    return MetricOut.of(await metrics.change(caller, metric, body.applied_to, archived=body.archives))


@router.delete(
    "/metrics/{metric}", status_code=204, dependencies=_WRITE, responses=documented(*WITH_BODY, MetricNotFound)
)
async def remove_metric(metric: MetricReference, caller: CurrentCaller, metrics: Metrics) -> None:
    """Delete a metric. One that experiments use is archived: they keep it, and no other experiment can take it."""
    await metrics.remove(caller, metric)
