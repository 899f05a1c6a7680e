"""The use case of exports: a whole table of an experiment as a file, made while it is sent."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import structlog

from app.core.clickhouse import ClickHouse
from app.core.db import Database, StoreUnavailable
from app.experiments.registry import ExperimentRegistry
from app.experiments.values import Experiment
from app.exports.bringing import Bringing, Outlet
from app.exports.copying import Copying
from app.exports.encoding import encoder_for
from app.exports.errors import TooManyExports
from app.exports.gaps import Gap, Gaps
from app.exports.history import HistoryPages
from app.exports.pacing import Paced
from app.exports.results_table import RESULT_COLUMNS, Row, as_csv, result_rows
from app.exports.statements import ASSIGNMENT_COLUMNS, EVENT_COLUMNS, Rows, assignment_rows, event_rows
from app.exports.values import Column, Export, ExportFormat, ExportOf, Produce, Write
from app.results.reach import Watermark
from app.results.reading import Reading
from app.results.schemas import ResultsOut
from app.results.service import ResultsService
from app.results.values import Question, Subject

log = structlog.get_logger()

# Each keeps a processor of PostgreSQL's busy; this process has others to serve meanwhile.
_MOST_AT_ONCE = 2
_RETRY_AFTER_S = 10
_CHANGED = (
    "Events that belong into the export were dropped, or ClickHouse was exchanged, while it was made. Ask for it again."
)

_Find = Callable[[], Awaitable[Gap | None]]
_Copy = Callable[[Gap | None, Outlet], Awaitable[None]]


class ExportService:
    """Makes exports. Built once at startup."""

    def __init__(
        self,
        *,
        database: Database,
        clickhouse: ClickHouse,
        registry: ExperimentRegistry,
        watermark: Watermark,
        results: ResultsService,
    ) -> None:
        self._registry = registry
        self._results = results
        self._gaps = Gaps(database=database, clickhouse=clickhouse, watermark=watermark)
        self._copying = Copying(database)
        self._bringing = Bringing(self._copying, HistoryPages(clickhouse))
        self._running = 0

    async def assignments(self, project_id: int, reference: str, form: ExportFormat) -> Export:
        """Export who is in the experiment, and in which variant.

        Raises:
            ExperimentNotFound: the project has no such experiment.
        """
        experiment = await self._experiment(project_id, reference)
        subject = Subject.of(experiment)

        async def find() -> Gap | None:
            return await self._gaps.of_assignments(subject)

        async def copy(gap: Gap | None, outlet: Outlet) -> None:
            if gap is None:
                await self._copy(assignment_rows(subject), outlet)
            else:
                await self._bringing.assignments(subject, gap, outlet)

        async def produce(write: Write) -> None:
            async with self._turn(experiment, ExportOf.ASSIGNMENTS, form):
                await write_file(form, ASSIGNMENT_COLUMNS, write, find, copy)

        return _export(experiment, ExportOf.ASSIGNMENTS, form, produce)

    async def events(
        self, project_id: int, reference: str, form: ExportFormat, question: Question, *, counted: bool
    ) -> Export:
        """Export events of the experiment's users: those that count for the question, or all in its range.

        Raises:
            ExperimentNotFound: the project has no such experiment.
        """
        experiment = await self._experiment(project_id, reference)
        subject = Subject.of(experiment)

        async def find() -> Gap | None:
            return await self._gaps.of_events(subject, question, counted=counted)

        async def copy(gap: Gap | None, outlet: Outlet) -> None:
            if gap is None:
                await self._copy(event_rows(subject, question, counted=counted), outlet)
            else:
                await self._bringing.events(subject, question, gap, outlet, counted=counted)

        async def produce(write: Write) -> None:
            async with self._turn(experiment, ExportOf.EVENTS, form):
                await write_file(form, EVENT_COLUMNS, write, find, copy)

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

    async def _copy(self, rows: Rows, outlet: Outlet) -> None:
        await self._copying.copy(outlet.statement(rows), rows.parameters, outlet.form, outlet.take)


async def write_file(form: ExportFormat, columns: Sequence[Column], write: Write, find: _Find, copy: _Copy) -> None:
    """Write a file, from PostgreSQL alone or with what it lacks from ClickHouse.

    Raises:
        NoSourceAvailable, StoreDropped: of what is to be exported something is out of reach, or gone.
        StoreUnavailable: something went meanwhile, so that the file must not look whole.
    """
    encoder = encoder_for(form, columns)

    async def take(lines: bytes) -> None:
        await write(await encoder.add(lines))

    gap = await find()
    await copy(gap, Outlet(encoder.statement, encoder.form, Paced(take)))
    # Once more at the end: what was dropped after the first look and before it was read is missing.
    if not _is_as_before(gap, await find()):
        raise StoreUnavailable(_CHANGED)
    await write(await encoder.end())


def _is_as_before(gap: Gap | None, now: Gap | None) -> bool:
    """Tell whether all was there to the end; of PostgreSQL's rows that were read, more may be gone by now."""
    if gap is None or now is None:
        return gap is now
    return gap.history == now.history


def _export(experiment: Experiment, of: ExportOf, form: ExportFormat, produce: Produce) -> Export:
    return Export(f"{experiment.key}-{of.value}.{form.value}", form.media_type, produce)


def _parquet_of(rows: list[Row]) -> bytes:
    from app.exports.parquet import ParquetFile  # noqa: PLC0415  # Loaded by who asks for it.

    file = ParquetFile(RESULT_COLUMNS)
    return file.add_rows(rows) + file.end()
