"""Endpoints for an experiment's metrics and its sealed plan."""

from app.access.caller import CurrentCaller
from app.access.guard import GUARDED, WITH_BODY, requires
from app.access.scopes import Scope
from app.core import routes
from app.core.problems import documented
from app.experiments.errors import (
    ChangeNotAllowed,
    ExperimentNotFound,
    MetricAttached,
    MetricNotAttached,
    PlannedMetricStays,
    PrimaryTaken,
    TooManyMetrics,
)
from app.experiments.plan_schemas import AttachedMetricOut, AttachedMetricsOut, MetricUseIn, SealedPlanOut
from app.experiments.wiring import ExperimentReference, Plans
from app.metrics.wiring import MetricReference

router = routes.router(tags=["experiments"])
_READ = [requires(Scope.EXPERIMENTS_READ)]
_WRITE = [requires(Scope.EXPERIMENTS_WRITE)]


@router.get("/experiments/{experiment}/metrics", dependencies=_READ, responses=documented(*GUARDED, ExperimentNotFound))
async def list_attached_metrics(
    experiment: ExperimentReference, caller: CurrentCaller, plans: Plans
) -> AttachedMetricsOut:
    """List the metrics of an experiment: the planned ones, then those attached after the start."""
    attached = await plans.attached(caller, experiment)
    return AttachedMetricsOut(items=[AttachedMetricOut.of(item) for item in attached])


@router.post(
    "/experiments/{experiment}/metrics",
    status_code=201,
    dependencies=_WRITE,
    responses=documented(
        *(*WITH_BODY, ExperimentNotFound, ChangeNotAllowed, MetricAttached, PrimaryTaken, TooManyMetrics)
    ),
)
async def attach_metric(
    experiment: ExperimentReference, body: MetricUseIn, caller: CurrentCaller, plans: Plans
) -> AttachedMetricOut:
    """Attach a metric: to a draft's plan, and after the start as exploratory for ever."""
    return AttachedMetricOut.of(await plans.attach(caller, experiment, body.planned()))


@router.delete(
    "/experiments/{experiment}/metrics/{metric}",
    status_code=204,
    dependencies=_WRITE,
    responses=documented(*WITH_BODY, ExperimentNotFound, MetricNotAttached, PlannedMetricStays, ChangeNotAllowed),
)
async def detach_metric(
    experiment: ExperimentReference, metric: MetricReference, caller: CurrentCaller, plans: Plans
) -> None:
    """Remove a metric from a draft, or an exploratory one."""
    await plans.detach(caller, experiment, metric)


@router.get("/experiments/{experiment}/plan", dependencies=_READ, responses=documented(*GUARDED, ExperimentNotFound))
async def get_plan(experiment: ExperimentReference, caller: CurrentCaller, plans: Plans) -> SealedPlanOut:
    """Read the sealed plan, and whether its seal is unbroken; before the start, what would be sealed."""
    return SealedPlanOut.of(await plans.account(caller, experiment))
