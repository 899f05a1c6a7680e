"""The use case of calibrations: begin one, work on it beside everything else, show how far it is."""

import asyncio
import contextlib
from collections.abc import Iterator
from uuid import UUID, uuid4

import structlog

from app.calibration.choosing import attached_or_built_in, chosen, wanted_keys, why_unknown
from app.calibration.drawing import Drawing, Route
from app.calibration.errors import CalibrationEnded, CalibrationNotFound, CannotCalibrate, TooManyCalibrations
from app.calibration.helper import HelperDied, run
from app.calibration.places import place_after, place_of
from app.calibration.repository import CalibrationRepository
from app.calibration.values import Calibration, Job, Status, Wanted
from app.core.clickhouse import ClickHouse, ClickHouseUnavailable
from app.core.db import Database, StoreUnavailable
from app.core.errors import Invalid
from app.core.paging import Page, PageRequest, page_of
from app.experiments.registry import ExperimentRegistry
from app.experiments.values import Experiment
from app.exports.values import Write
from app.metrics.repository import MetricRepository
from app.metrics.values import Metric
from app.results.errors import HistoryDropped, StoreDropped
from app.results.reach import Watermark

log = structlog.get_logger()

_RETRY_AFTER_S = 30
# How often is said that somebody works on it, far more often than silence would mean that nobody does. That it was
# cancelled in another process is heard then, too.
_SAY_SO_EVERY_S = 1.0
# How long a request to cancel waits for what it ended; another calibration can be begun afterwards.
_PATIENCE_S = 1.0
_STOPPED = "The service was stopped meanwhile. Ask for the calibration again."


class CalibrationService:
    """Works on one calibration at a time. Built once at startup."""

    def __init__(
        self, *, database: Database, clickhouse: ClickHouse, registry: ExperimentRegistry, watermark: Watermark
    ) -> None:
        self._database = database
        self._registry = registry
        self._drawing = Drawing(database=database, clickhouse=clickhouse, watermark=watermark)
        self._task: asyncio.Task[None] | None = None
        self._working_on: UUID | None = None
        self._beginning = False

    async def begin(self, project_id: int, reference: str, wanted: Wanted) -> Calibration:
        """Begin a calibration and return it; it goes on by itself.

        Raises:
            ExperimentNotFound: the project has no such experiment.
            Invalid: a metric is not known, or has no test to calibrate.
            HistoryDropped: neither store has every event that counts.
            NoSourceAvailable: ClickHouse alone could have them, and cannot be asked now.
            TooManyCalibrations: this process works on another one.
            StoreUnavailable: PostgreSQL cannot be reached.
        """
        await self._registry.ensure_fresh()
        experiment = self._registry.get(project_id, reference)
        if self._beginning or (self._task is not None and not self._task.done()):
            raise TooManyCalibrations(
                "This process works on a calibration already; ask again when it has ended, or cancel it.",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._beginning = True
        try:
            calibration, route = await self._store(experiment, wanted)
            work = self._work(calibration.id, experiment, wanted, route)
            self._task, self._working_on = asyncio.create_task(work, name="calibration"), calibration.id
        finally:
            self._beginning = False
        log.info("calibration.begun", experiment_id=experiment.id, calibration_id=str(calibration.id))
        return calibration

    async def get(self, project_id: int, reference: str, calibration_id: UUID) -> Calibration:
        """Return a calibration, whichever process works on it.

        Raises:
            ExperimentNotFound: the project has no such experiment.
            CalibrationNotFound: the experiment has no such calibration.
            StoreUnavailable: PostgreSQL cannot be reached.
        """
        await self._registry.ensure_fresh()
        experiment = self._registry.get(project_id, reference)
        async with self._database.begin() as connection:
            return await _found(CalibrationRepository(connection), experiment, calibration_id)

    async def cancel(self, project_id: int, reference: str, calibration_id: UUID) -> Calibration:
        """End a running calibration without a result, whichever process works on it, and return it.

        One that has been cancelled is returned as it is.

        Raises:
            ExperimentNotFound: the project has no such experiment.
            CalibrationNotFound: the experiment has no such calibration.
            CalibrationEnded: it is done, or has failed.
            StoreUnavailable: PostgreSQL cannot be reached.
        """
        await self._registry.ensure_fresh()
        experiment = self._registry.get(project_id, reference)
        async with self._database.begin() as connection:
            repository = CalibrationRepository(connection)
            is_new = await repository.cancel(experiment.id, calibration_id)
            calibration = await _found(repository, experiment, calibration_id)
        if calibration.status is not Status.CANCELLED:
            raise CalibrationEnded(calibration.status)
        if is_new:
            log.info("calibration.cancelled", experiment_id=experiment.id, calibration_id=str(calibration_id))
        if self._task is not None and self._working_on == calibration_id:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_PATIENCE_S)
        return calibration

    async def list_(self, project_id: int, reference: str, request: PageRequest) -> Page[Calibration]:
        """Return the experiment's calibrations, newest first, whichever process works on them.

        Raises:
            ExperimentNotFound: the project has no such experiment.
            Invalid: the cursor is not one of this list.
            StoreUnavailable: PostgreSQL cannot be reached.
        """
        after = place_of(request)
        await self._registry.ensure_fresh()
        experiment = self._registry.get(project_id, reference)
        async with self._database.begin() as connection:
            found = await CalibrationRepository(connection).list_(experiment.id, after, request.limit + 1)
        return page_of(found, request, place_after)

    async def stop(self) -> None:
        """Give up what is under way."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _store(self, experiment: Experiment, wanted: Wanted) -> tuple[Calibration, Route]:
        route = await self._drawing.route(experiment, chosen(await self._metrics(experiment, wanted), wanted))
        calibration_id = uuid4()
        async with self._database.begin() as connection:
            repository = CalibrationRepository(connection)
            await repository.insert(calibration_id, experiment.id, wanted)
            found = await repository.find(experiment.id, calibration_id)
        assert found is not None  # noqa: S101  # It was written a moment ago.
        return found, route

    async def _metrics(self, experiment: Experiment, wanted: Wanted) -> list[Metric]:
        keys = wanted_keys(experiment, wanted)
        async with self._database.read() as connection:
            stored = await MetricRepository(connection).latest_by_key(experiment.project_id, keys)
        metrics: list[Metric] = []
        for key in keys:
            metric = attached_or_built_in(experiment, key)
            if metric is None and key in stored:
                metric = stored[key].metric
            if metric is None:
                raise Invalid.field("metrics", why_unknown(key))
            metrics.append(metric)
        return metrics

    async def _work(self, calibration_id: UUID, experiment: Experiment, wanted: Wanted, route: Route) -> None:
        """Work until there is a result or a reason why there is none; one of them is stored."""
        progress = [0.0]

        def progressed(share: float) -> None:
            progress[0] = min(1.0, share)

        async def feed(write: Write) -> None:
            await self._drawing.draw(experiment, route, wanted, write)

        job = Job(
            resplits=wanted.resplits,
            seed=wanted.seed,
            alpha=wanted.alpha,
            columns=route.chosen.columns,
            split_by=wanted.split_by,
            source=route.source,
            complete_until=route.watermark,
        )
        try:
            with self._saying_so(calibration_id, progress):
                said = await run(job, feed, progressed)
            async with self._database.begin() as connection:
                repository = CalibrationRepository(connection)
                if said.result is not None:
                    was_running = await repository.finish(calibration_id, said.result)
                else:
                    was_running = await repository.fail(calibration_id, said.failure or "No reason was given.")
            # Who ended it meanwhile, in whatever process, has said so there.
            log.info(
                "calibration.ended" if was_running else "calibration.dropped",
                experiment_id=experiment.id,
                calibration_id=str(calibration_id),
                has_result=said.result is not None,
            )
        except asyncio.CancelledError:
            # What was cancelled by a caller has ended, and what has ended stays as it is.
            await self._fail(calibration_id, _STOPPED)
            raise
        except CannotCalibrate as error:
            log.info("calibration.refused", calibration_id=str(calibration_id), reason=str(error))
            await self._fail(calibration_id, str(error))
        except (HelperDied, StoreUnavailable, ClickHouseUnavailable, StoreDropped, HistoryDropped, OSError) as error:
            log.warning("calibration.failed", calibration_id=str(calibration_id), error=str(error))
            await self._fail(calibration_id, str(error) or type(error).__name__)
        except Exception:  # The outermost loop of this work: nobody waits for it who could be told.
            log.exception("calibration.failed", calibration_id=str(calibration_id))
            await self._fail(calibration_id, "An error of the service; its log says which.")

    @contextlib.contextmanager
    def _saying_so(self, calibration_id: UUID, progress: list[float]) -> Iterator[None]:
        """Say for the length of the block that somebody works on it; the task ends once nobody wants it any more."""
        saying = asyncio.create_task(self._say_so(calibration_id, progress, asyncio.current_task()))
        try:
            yield
        finally:
            saying.cancel()

    async def _say_so(self, calibration_id: UUID, progress: list[float], work: "asyncio.Task[None] | None") -> None:
        """Say again and again that somebody works on it, and end the work once nobody wants it any more."""
        is_running = True
        while is_running:
            await asyncio.sleep(_SAY_SO_EVERY_S)
            try:
                async with self._database.begin() as connection:
                    is_running = await CalibrationRepository(connection).seen(calibration_id, progress[0])
            except StoreUnavailable as error:
                log.warning("calibration.not_noted", calibration_id=str(calibration_id), error=str(error))
        if work is not None:
            work.cancel()

    async def _fail(self, calibration_id: UUID, reason: str) -> None:
        """Store why there is no result; if that fails too, silence says it in the end."""
        with contextlib.suppress(StoreUnavailable):
            async with self._database.begin() as connection:
                await CalibrationRepository(connection).fail(calibration_id, reason)


async def _found(repository: CalibrationRepository, experiment: Experiment, calibration_id: UUID) -> Calibration:
    found = await repository.find(experiment.id, calibration_id)
    if found is None:
        raise CalibrationNotFound(f"The experiment has no calibration {calibration_id}; the newest 100 are kept.")
    return found
