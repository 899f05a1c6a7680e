"""The use case of exports: a whole table of an experiment as a file, made while it is sent."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import structlog
from sqlalchemy import text

from app.core.db import Database
from app.core.moments import FIRST_YEAR
from app.events.messages import MOST_AHEAD
from app.experiments.population import ExposureRule
from app.experiments.registry import ExperimentRegistry
from app.experiments.values import Experiment
from app.exports.copying import Copying
from app.exports.encoding import encoder_for
from app.exports.errors import TooManyExports
from app.exports.results_table import RESULT_COLUMNS, Row, as_csv, result_rows
from app.exports.statements import Rows, assignment_rows, event_rows
from app.exports.values import Export, ExportFormat, ExportOf, Produce, Write
from app.results.errors import StoreDropped
from app.results.reach import reaches, store_reaches
from app.results.reading import Reading
from app.results.schemas import ResultsOut
from app.results.service import ResultsService
from app.results.values import Question, Subject

log = structlog.get_logger()

# Each keeps a processor of PostgreSQL's busy; this process has others to serve meanwhile.
_MOST_AT_ONCE = 2
_RETRY_AFTER_S = 10
_DROPPED_BEFORE = text("SELECT max(upper_bound) FROM dropped_partitions")
# Before any event.
_EVER = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)

LastLook = Callable[[], Awaitable[None]]


class ExportService:
    """Makes exports. Built once at startup."""

    def __init__(self, *, database: Database, registry: ExperimentRegistry, results: ResultsService) -> None:
        self._database = database
        self._registry = registry
        self._results = results
        self._copying = Copying(database)
        self._running = 0

    async def assignments(self, project_id: int, reference: str, form: ExportFormat) -> Export:
        """Export who is in the experiment, and in which variant.

        Raises:
            ExperimentNotFound: the project has no such experiment.
        """
        experiment = await self._experiment(project_id, reference)

        async def produce(write: Write) -> None:
            async with self._turn(experiment, ExportOf.ASSIGNMENTS, form):
                await self._copy(assignment_rows(Subject.of(experiment)), form, write)

        return _export(experiment, ExportOf.ASSIGNMENTS, form, produce)

    async def events(
        self, project_id: int, reference: str, form: ExportFormat, question: Question, *, counted: bool
    ) -> Export:
        """Export events of the experiment's users: those that count for the question, or all in its range.

        Raises:
            ExperimentNotFound: the project has no such experiment.
        """
        experiment = await self._experiment(project_id, reference)

        async def produce(write: Write) -> None:
            async with self._turn(experiment, ExportOf.EVENTS, form):

                async def refuse_if_dropped() -> None:
                    await self._refuse_if_dropped(experiment, question, counted=counted)

                await refuse_if_dropped()
                # Once more at the end: what was dropped after the first look and before the query began is missing,
                # and then the file must not look whole.
                rows = event_rows(Subject.of(experiment), question, counted=counted)
                await self._copy(rows, form, write, last_look=refuse_if_dropped)

        return _export(experiment, ExportOf.EVENTS, form, produce)

    async def results(
        self, project_id: int, reference: str, form: ExportFormat, question: Question, reading: Reading
    ) -> Export:
        """Export the answer to a question: as a table, or in JSON as it is given elsewhere.

        Raises:
            ExperimentNotFound: the project has no such experiment.
            Invalid, HistoryDropped, StoreDropped, NoSourceAvailable: as of the results themselves.
        """
        experiment = await self._experiment(project_id, reference)
        results = await self._results.results(project_id, reference, question, reading)

        async def produce(write: Write) -> None:
            match form:
                case ExportFormat.JSON:
                    await write(ResultsOut.of(results).model_dump_json().encode())
                case ExportFormat.CSV:
                    await write(as_csv(RESULT_COLUMNS, result_rows(results)))
                case ExportFormat.PARQUET:
                    await write(await asyncio.to_thread(_parquet_of, result_rows(results)))

        return _export(experiment, ExportOf.RESULTS, form, produce)

    async def _experiment(self, project_id: int, reference: str) -> Experiment:
        await self._registry.ensure_fresh()
        return self._registry.get(project_id, reference)

    @asynccontextmanager
    async def _turn(self, experiment: Experiment, of: ExportOf, form: ExportFormat) -> AsyncIterator[None]:
        """Let so many in at once and refuse others: a queue of downloads would only hide that nothing moves."""
        if self._running >= _MOST_AT_ONCE:
            raise TooManyExports(
                f"This process makes {_MOST_AT_ONCE} exports already; ask again when one of them has ended.",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._running += 1
        try:
            log.info("export.begun", experiment_id=experiment.id, of=of.value, format=form.value)
            yield
            log.info("export.ended", experiment_id=experiment.id, of=of.value, format=form.value)
        finally:
            self._running -= 1

    async def _copy(self, rows: Rows, form: ExportFormat, write: Write, *, last_look: LastLook | None = None) -> None:
        encoder = encoder_for(form, rows.columns)

        async def take(lines: bytes) -> None:
            await write(await encoder.add(lines))

        await self._copying.copy(encoder.statement(rows), rows.parameters, encoder.form, take)
        if last_look is not None:
            await last_look()
        await write(await encoder.end())

    async def _refuse_if_dropped(self, experiment: Experiment, question: Question, *, counted: bool) -> None:
        """Refuse to export what PostgreSQL no longer holds.

        Raises:
            StoreDropped: it has dropped events that belong into the export.
        """
        async with self._database.read() as connection:
            before: datetime | None = (await connection.execute(_DROPPED_BEFORE)).scalar_one()
            if before is None:
                return
            complete = (
                await store_reaches(connection, Subject.of(experiment), question)
                if counted
                else reaches(before, _EVER, question.start)
            )
        if not complete:
            raise _dropped(experiment, before, counted=counted)


def _dropped(experiment: Experiment, before: datetime, *, counted: bool) -> StoreDropped:
    """Say from when on the events are all there, and how to ask for these."""
    complete_from = (before + MOST_AHEAD).isoformat()
    way_out = f"Export from start_date={complete_from} on"
    if counted and experiment.population.exposure is ExposureRule.EVENT:
        # The first exposure of a user may be among what was dropped, and nobody knows then which events count.
        way_out = f"With counted=false they can be exported from start_date={complete_from} on"
    return StoreDropped(
        f"PostgreSQL has dropped events that were ingested before {before.isoformat()}, and exports read PostgreSQL."
        f" {way_out}; results still count all.",
        complete_from=complete_from,
    )


def _export(experiment: Experiment, of: ExportOf, form: ExportFormat, produce: Produce) -> Export:
    return Export(f"{experiment.key}-{of.value}.{form.value}", form.media_type, produce)


def _parquet_of(rows: list[Row]) -> bytes:
    from app.exports.parquet import ParquetFile  # noqa: PLC0415  # Loaded by who asks for it.

    file = ParquetFile(RESULT_COLUMNS)
    return file.add_rows(rows) + file.end()
