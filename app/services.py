"""Builds every service once from its resources; used by the API, the workers and tests."""

from dataclasses import dataclass

from app.access.guard import Gate
from app.access.projects import Projects
from app.access.rate_limit import Limit, RateLimiter
from app.access.service import AccessService
from app.access.tokens import Authenticator
from app.assignments.cache import MemoryCache, RedisCache
from app.assignments.override_service import OverrideService
from app.assignments.overrides import OverrideRegistry
from app.assignments.service import AssignmentService
from app.calibration.service import CalibrationService
from app.core.changes import Changes
from app.core.clickhouse import ClickHouse
from app.core.clock import Clock, utc_now
from app.core.db import Database
from app.core.installation import installation_id
from app.core.metrics import Metrics
from app.core.redis import RedisAid
from app.core.settings import Settings
from app.diagnosis.service import DiagnosisService
from app.events.service import EventService
from app.experiments.plan_service import PlanService
from app.experiments.registry import ExperimentRegistry
from app.experiments.service import ExperimentService
from app.explain.service import ExplainService
from app.exports.service import ExportService
from app.metrics.service import MetricService
from app.pipeline.service import Pipeline
from app.reports.service import ReportService
from app.results.service import ResultsService


@dataclass(frozen=True, slots=True)
class Resources:
    """Open clients of the servers, and what every service shares."""

    database: Database
    redis: RedisAid
    clickhouse: ClickHouse
    metrics: Metrics
    clock: Clock = utc_now

    async def close(self) -> None:
        await self.clickhouse.close()
        await self.redis.close()
        await self.database.close()


@dataclass(frozen=True, slots=True)
class Services:
    """Every service, built once."""

    gate: Gate
    registry: ExperimentRegistry
    changes: Changes
    projects: Projects
    access: AccessService
    experiments: ExperimentService
    plans: PlanService
    metrics: MetricService
    assignments: AssignmentService
    overrides: OverrideService
    events: EventService
    pipeline: Pipeline
    results: ResultsService
    exports: ExportService
    diagnosis: DiagnosisService
    explain: ExplainService
    reports: ReportService
    calibrations: CalibrationService

    async def start(self) -> None:
        await self.projects.load()
        await self.changes.start()
        await self.pipeline.start()

    async def stop(self) -> None:
        """Finish writes that are under way, bring them to ClickHouse, then stop following changes."""
        await self.calibrations.stop()
        await self.assignments.stop()
        await self.events.stop()
        await self.pipeline.stop()
        await self.changes.stop()


async def build_services(resources: Resources, settings: Settings) -> Services:
    """Build the services; the schema must be up to date."""
    database, redis, clock, metrics = resources.database, resources.redis, resources.clock, resources.metrics
    installation = await installation_id(database)
    changes = Changes(database)
    projects = Projects(database)
    registry = ExperimentRegistry(database, changes)
    overrides = OverrideRegistry(database, changes)
    authenticator = Authenticator(
        database=database,
        redis=redis,
        changes=changes,
        clock=clock,
        metrics=metrics,
        installation=installation,
        secret_key=settings.server.secret_key.get_secret_value(),
        bootstrap_tokens=[token.get_secret_value() for token in settings.server.bearer_tokens],
    )
    pipeline = Pipeline(database, resources.clickhouse, settings, metrics, clock=clock)
    namespace = f"exp:{installation}"
    limits = settings.rate_limit
    results = ResultsService(
        database=database,
        clickhouse=resources.clickhouse,
        registry=registry,
        watermark=pipeline.watermark,
        redis=redis,
        metrics=metrics,
        clock=clock,
        namespace=namespace,
        use_rollups=settings.pipeline.rollups_enabled,
    )
    plans = PlanService(database=database, changes=changes, registry=registry)
    return Services(
        gate=Gate(
            authenticator=authenticator,
            projects=projects,
            limiter=RateLimiter(redis, namespace=namespace, enabled=limits.enabled),
            management=Limit("management", limits.requests, limits.period_s),
            traffic=Limit("traffic", limits.traffic_requests, limits.traffic_period_s),
        ),
        registry=registry,
        changes=changes,
        projects=projects,
        access=AccessService(database=database, changes=changes, projects=projects, clock=clock),
        experiments=ExperimentService(database=database, changes=changes, registry=registry, clock=clock),
        plans=plans,
        metrics=MetricService(database=database, changes=changes),
        assignments=AssignmentService(
            database=database,
            registry=registry,
            overrides=overrides,
            changes=changes,
            memory=MemoryCache(settings.assignment.memory_entries),
            cache=RedisCache(redis, installation=installation, ttl_s=settings.assignment.cache_ttl_s, metrics=metrics),
            clock=clock,
            metrics=metrics,
        ),
        overrides=OverrideService(database=database, changes=changes),
        events=EventService(database=database, registry=registry, metrics=metrics),
        pipeline=pipeline,
        results=results,
        exports=ExportService(
            database=database,
            clickhouse=resources.clickhouse,
            registry=registry,
            watermark=pipeline.watermark,
            results=results,
        ),
        explain=ExplainService(
            database=database,
            clickhouse=resources.clickhouse,
            registry=registry,
            watermark=pipeline.watermark,
        ),
        diagnosis=DiagnosisService(
            database=database,
            clickhouse=resources.clickhouse,
            registry=registry,
            watermark=pipeline.watermark,
            clock=clock,
        ),
        reports=ReportService(registry=registry, plans=plans, results=results),
        calibrations=CalibrationService(
            database=database, clickhouse=resources.clickhouse, registry=registry, watermark=pipeline.watermark
        ),
    )
