"""The use case of explaining a number: the SQL that results would run, ready to paste."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from app.core.clickhouse import ClickHouse, ClickHouseRefused, ClickHouseUnavailable
from app.core.db import Database, StoreUnavailable
from app.experiments.registry import ExperimentRegistry
from app.experiments.values import Experiment
from app.explain import looking, notes
from app.explain.statements import NOTHING_KNOWN, Known, in_clickhouse, in_postgres
from app.explain.values import Explanation, Statement
from app.measurement.plan import look_back
from app.metrics.repository import MetricRepository
from app.metrics.values import StoredMetric
from app.results.chosen import chosen, names_of, to_look_up
from app.results.cold import ColdStore
from app.results.errors import StoreIncomplete
from app.results.hot import HotStore
from app.results.limits import MOST_SLOTS
from app.results.measuring import observed_question, wanted_of, without_covariates
from app.results.reach import Reach, Watermark, hold_events, store_reaches
from app.results.values import Question, SourceChoice, Subject, Wanted

log = structlog.get_logger()

# A look at a store costs about as much as an answer; most of the processors stay free for these.
_MOST_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question whose metrics are known: those that are observed are in it, the others are wanted."""

    subject: Subject
    question: Question
    wanted: Wanted

    def without_covariates(self) -> "_Asked":
        return replace(self, wanted=without_covariates(self.wanted))


@dataclass(frozen=True, slots=True)
class _Written:
    """One store's SQL, or none, and what there is to say about it."""

    statement: Statement | None
    known: Known = NOTHING_KNOWN
    notes: tuple[str, ...] = ()


_NOT_ASKED_FOR = _Written(None)


class ExplainService:
    """Writes out statements. Built once at startup."""

    def __init__(
        self,
        *,
        database: Database,
        clickhouse: ClickHouse | None,
        registry: ExperimentRegistry,
        watermark: Watermark,
    ) -> None:
        self._database = database
        self._registry = registry
        self._watermark = watermark
        self._hot = HotStore(database)
        self._cold = None if clickhouse is None else ColdStore(clickhouse)
        self._reach = None if clickhouse is None else Reach(clickhouse, database)
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)

    async def explain(self, project_id: int, reference: str, question: Question) -> Explanation:
        """Return the SQL of a question, for each store on its own.

        Raises:
            ExperimentNotFound: the project has no such experiment.
            Invalid: a metric is unknown.
            StoreUnavailable: PostgreSQL cannot be reached, and knows the metrics or is alone asked for.
        """
        await self._registry.ensure_fresh()
        experiment = self._registry.get(project_id, reference)
        asked, names = await self._asked(experiment, question)
        hot = _NOT_ASKED_FOR if question.source is SourceChoice.COLD else await self._in_postgres(asked)
        cold = _NOT_ASKED_FOR if question.source is SourceChoice.HOT else await self._in_clickhouse(asked)
        said = [*hot.notes, *cold.notes, *notes.on_observed(asked.question)]
        if asked.wanted.recipes:
            said += notes.on_measured(asked.wanted.recipes, names, with_event_types=bool(question.event_types))
        said += notes.on_repeated(asked.wanted.recipes, hot.known.measured_again | cold.known.measured_again)
        said += notes.on_days({"PostgreSQL": hot.known.days, "ClickHouse": cold.known.days})
        if hot.known.ranks or cold.known.ranks:
            said.append(notes.on_bounds(question.confidence_level))
        if question.is_divided:
            said.append(notes.on_cells(question))
        said.append(notes.DUPLICATES)
        return Explanation(names, hot.statement, cold.statement, tuple(said))

    async def _asked(self, experiment: Experiment, question: Question) -> tuple[_Asked, tuple[str, ...]]:
        names = names_of(experiment, question.metrics)
        found = await self._stored(experiment.project_id, to_look_up(experiment, names))
        picked = chosen(experiment, names, found, question.metrics)
        whole = replace(question, metrics=names)
        wanted = wanted_of(picked, whole, len(experiment.variants) - 1)
        return _Asked(Subject.of(experiment), observed_question(whole, wanted), wanted), names

    async def _stored(self, project_id: int, keys: tuple[str, ...]) -> Mapping[str, StoredMetric]:
        if not keys:
            return {}
        async with self._database.read() as connection:
            return await MetricRepository(connection).latest_by_key(project_id, keys)

    async def _in_postgres(self, asked: _Asked) -> _Written:
        said: tuple[str, ...] = ()
        try:
            if not await self._store_reaches(asked):
                asked, said = asked.without_covariates(), (notes.WITHOUT_COVARIATES.format(store="PostgreSQL"),)
                if not await self._store_reaches(asked):
                    return _Written(None, notes=(notes.DROPPED.format(store="PostgreSQL"),))
            known = await self._look_at_postgres(asked) if looking.is_needed(asked.wanted) else NOTHING_KNOWN
        except StoreIncomplete:
            # Dropped between the two looks.
            return _Written(None, notes=(notes.DROPPED.format(store="PostgreSQL"),))
        except StoreUnavailable as error:
            if asked.question.source is SourceChoice.HOT:
                raise
            log.warning("explain.store_unavailable", error=str(error) or type(error).__name__)
            return _Written(None, notes=(notes.NO_POSTGRES,))
        return _Written(in_postgres(asked.subject, asked.question, asked.wanted, known), known, said)

    async def _in_clickhouse(self, asked: _Asked) -> _Written:
        if self._cold is None or self._reach is None:
            return _Written(None, notes=(notes.NO_CLICKHOUSE,))
        said: tuple[str, ...] = ()
        try:
            watermark = await self._watermark()
            if watermark is None:
                return _Written(None, notes=(notes.NO_WATERMARK,))
            if not await self._history_reaches(self._reach, asked):
                asked, said = asked.without_covariates(), (notes.WITHOUT_COVARIATES.format(store="ClickHouse"),)
                if not await self._history_reaches(self._reach, asked):
                    return _Written(None, notes=(notes.DROPPED.format(store="ClickHouse"),))
            needs_look = looking.is_needed(asked.wanted)
            known = await self._look_at_clickhouse(self._cold, asked, watermark) if needs_look else NOTHING_KNOWN
        except ClickHouseUnavailable as error:
            log.warning("explain.history_unavailable", error=str(error) or type(error).__name__)
            return _Written(None, notes=(notes.NO_CLICKHOUSE,))
        except ClickHouseRefused as error:
            log.error("explain.history_refused", code=error.code, exc_info=error)  # noqa: TRY400  # A bug.
            return _Written(None, notes=(notes.REFUSED,))
        statement = in_clickhouse(asked.subject, asked.question, watermark, asked.wanted, known)
        return _Written(statement, known, (*notes.on_history(watermark, statement), *said))

    async def _store_reaches(self, asked: _Asked) -> bool:
        async with self._database.read() as connection:
            await hold_events(connection)
            return await store_reaches(connection, asked.subject, asked.question, look_back(asked.wanted.recipes))

    async def _history_reaches(self, reach: Reach, asked: _Asked) -> bool:
        return await reach.covers(asked.subject, asked.question, look_back(asked.wanted.recipes))

    async def _look_at_postgres(self, asked: _Asked) -> Known:
        question, wanted = looking.looked_for(asked.question, asked.wanted)
        async with self._turns:
            seen, now = await self._hot.observe(asked.subject, question, most_slots=MOST_SLOTS, wanted=wanted)
        return looking.known_from(asked.question, asked.wanted, seen, now)

    async def _look_at_clickhouse(self, store: ColdStore, asked: _Asked, watermark: datetime) -> Known:
        question, wanted = looking.looked_for(asked.question, asked.wanted)
        async with self._turns:
            seen = await store.observe(asked.subject, question, watermark, most_slots=MOST_SLOTS, wanted=wanted)
        return looking.known_from(asked.question, asked.wanted, seen, watermark)
