"""The use case of results: choose a source, observe, compose the answer, remember it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

import msgspec
import structlog

from app.core.clickhouse import ClickHouse, ClickHouseRefused, ClickHouseUnavailable
from app.core.clock import Clock
from app.core.db import Database, StoreUnavailable
from app.core.metrics import Metrics
from app.core.redis import RedisAid
from app.experiments.registry import ExperimentRegistry
from app.experiments.values import Experiment
from app.measurement.errors import TailTooLarge
from app.measurement.plan import look_back
from app.metrics.repository import MetricRepository
from app.results.analysis import analyse
from app.results.answer import Results
from app.results.cache import ResultsCache, meaning_of
from app.results.chosen import Chosen, chosen, names_of, to_look_up
from app.results.cold import ColdStore
from app.results.duplicates import DroppedDuplicates
from app.results.errors import (
    AnswerNotFound,
    HistoryDropped,
    NoSourceAvailable,
    StoreDropped,
    StoreIncomplete,
)
from app.results.flights import Flights
from app.results.hot import HotStore
from app.results.kept import KEPT_FOR, MOST_KEPT, KeptAnswers, not_kept
from app.results.limits import MOST_SLOTS
from app.results.measuring import metrics_of, observed_question, wanted_of, without_covariates
from app.results.provenance import STORE_UNAVAILABLE, Duplicates, Provenance
from app.results.reach import Reach, Watermark
from app.results.reading import PLAIN, Reading
from app.results.repository import FreshnessRepository
from app.results.rollup_use import NOT_FROM_HISTORY, RollupReason, RollupUse, obstacle, unused
from app.results.rough_sums import are_rough
from app.results.routing import Conditions, Decision, choose
from app.results.values import Freshness, Observations, Question, Source, SourceChoice, Subject, Wanted
from app.rollups.repository import RollupRepository
from app.rollups.steps import Step, built_until, steps_below

log = structlog.get_logger()

# Each takes a processor and memory of its server for a moment, and one connection at a time: of the twenty that a
# process has by default, most stay free for assignment.
_MOST_AT_ONCE = 4
# A store that was away a moment ago is not waited for again.
_NOT_ASKED = Duplicates(None, STORE_UNAVAILABLE)


class _Seen(NamedTuple):
    """What was observed, and where."""

    observations: Observations
    source: Source
    complete_until: datetime
    rollups: RollupUse


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question whose metrics are known."""

    experiment: Experiment
    question: Question
    reading: Reading
    metrics: tuple[Chosen, ...]

    @property
    def key(self) -> bytes:
        """Return what tells questions apart."""
        experiment = self.experiment
        return msgspec.json.encode(
            [experiment.id, experiment.version, self.question, self.reading, meaning_of(experiment, self.metrics)]
        )


class ResultsService:
    """Answers questions about experiments. Built once at startup."""

    def __init__(
        self,
        *,
        database: Database,
        clickhouse: ClickHouse | None,
        registry: ExperimentRegistry,
        watermark: Watermark,
        redis: RedisAid,
        metrics: Metrics,
        clock: Clock,
        namespace: str,
        use_rollups: bool = True,
    ) -> None:
        self._database = database
        self._registry = registry
        self._watermark = watermark
        self._clock = clock
        self._hot = HotStore(database)
        self._cold = None if clickhouse is None else ColdStore(clickhouse)
        self._reach = None if clickhouse is None else Reach(clickhouse, database)
        self._rollups = RollupRepository(clickhouse) if clickhouse is not None and use_rollups else None
        self._cache = ResultsCache(redis, metrics, namespace)
        self._duplicates = DroppedDuplicates(database)
        self._kept = KeptAnswers(database)
        self._flights: Flights[Results] = Flights()
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)

    async def results(self, project_id: int, reference: str, question: Question, reading: Reading = PLAIN) -> Results:
        """Answer a question about one of the project's experiments.

        Raises:
            ExperimentNotFound: the project has no such experiment.
            Invalid: there is no metric of a name, the time series would be too long, or a pair names no two variants
                of the experiment.
            StoreUnavailable: a metric has to be looked up in PostgreSQL, which cannot be reached.
            HistoryDropped: the history alone is asked, and lacks events that count.
            StoreDropped: PostgreSQL alone is asked, and lacks events that count.
            NoSourceAvailable: neither store can answer as asked.
        """
        await self._registry.ensure_fresh()
        experiment = self._registry.get(project_id, reference)
        asked = await self._asked(experiment, question, reading)
        freshness = await self._freshness(Subject.of(experiment))
        if freshness is None or not freshness.settled:
            return await self._compute_shared(asked, store_up=freshness is not None)
        key = self._cache.key(experiment, asked.question, reading, asked.metrics, freshness)
        if not question.fresh and (kept := await self._cache.find(key)) is not None:
            return kept
        results = await self._compute_shared(asked, store_up=True)
        if _covers(results, freshness):
            await self._cache.put(key, results, question)
        return results

    async def kept_answer(self, project_id: int, reference: str, answer_id: UUID) -> str:
        """Return an answer that was given before, as the JSON text that it was.

        Raises:
            ExperimentNotFound: the project has no such experiment.
            AnswerNotFound: none is kept under the id.
            StoreUnavailable: PostgreSQL cannot be reached.
        """
        await self._registry.ensure_fresh()
        experiment = self._registry.get(project_id, reference)
        if (document := await self._kept.find(experiment.id, answer_id)) is not None:
            return document
        raise AnswerNotFound(
            f"No answer of this experiment is kept under {answer_id}. The newest {MOST_KEPT} are kept, for"
            f" {KEPT_FOR.days} days; provenance.answer_id of an answer names it."
        )

    async def _freshness(self, subject: Subject) -> Freshness | None:
        """Return what the cache needs to know, `None` while PostgreSQL is away."""
        try:
            async with self._database.read() as connection:
                return await FreshnessRepository(connection).get(subject)
        except StoreUnavailable:
            return None

    async def _asked(self, experiment: Experiment, question: Question, reading: Reading) -> _Asked:
        """Find the metrics that are asked for."""
        names = names_of(experiment, question.metrics)
        missing, found = to_look_up(experiment, names), {}
        if missing:
            async with self._database.read() as connection:
                found = await MetricRepository(connection).latest_by_key(experiment.project_id, missing)
        metrics = chosen(experiment, names, found, question.metrics)
        return _Asked(experiment, replace(question, metrics=names), reading, metrics)

    async def _compute_shared(self, asked: _Asked, *, store_up: bool) -> Results:
        key = replace(asked, question=replace(asked.question, fresh=False)).key
        return await self._flights.join(key, lambda: self._compute(asked, store_up=store_up))

    async def _compute(self, asked: _Asked, *, store_up: bool) -> Results:
        experiment, question = asked.experiment, asked.question
        wanted = wanted_of(asked.metrics, question, len(experiment.variants) - 1)
        async with self._turns:
            wanted, seen = await self._observe_within_reach(experiment, question, wanted)
            if are_rough(seen.observations):
                wanted, seen = await self._observe_finely(asked, wanted, seen)
            # After the observation and not beside it, which would take two connections to spare some milliseconds.
            duplicates = await self._count_duplicates(experiment, question, store_up=store_up)
        provenance = Provenance(seen.source, seen.complete_until, self._clock(), seen.rollups, duplicates)
        compose = partial(_composed, asked, wanted, seen.observations, provenance)
        # Many metrics, variants or segments would keep all other requests of this process waiting.
        results = await asyncio.to_thread(compose)
        return await self._kept.keep(results) if store_up else not_kept(results)

    async def _count_duplicates(self, experiment: Experiment, question: Question, *, store_up: bool) -> Duplicates:
        return await self._duplicates.count(Subject.of(experiment), question) if store_up else _NOT_ASKED

    async def _observe_finely(self, asked: _Asked, wanted: Wanted, seen: _Seen) -> tuple[Wanted, _Seen]:
        """Observe again and measure the values too; where that fails, what was seen shall do."""
        experiment, question = asked.experiment, asked.question
        finely = wanted_of(asked.metrics, question, len(experiment.variants) - 1, with_values=True)
        try:
            return await self._observe_within_reach(experiment, question, finely)
        except (HistoryDropped, StoreDropped, NoSourceAvailable) as error:
            log.warning("results.not_finer", experiment_id=experiment.id, error=str(error) or type(error).__name__)
            return wanted, seen

    async def _observe_within_reach(
        self, experiment: Experiment, question: Question, wanted: Wanted
    ) -> tuple[Wanted, _Seen]:
        """Observe what is wanted, without covariates where the stores have given up what they need."""
        try:
            return wanted, await self._observe(experiment, observed_question(question, wanted), wanted)
        except (HistoryDropped, StoreDropped, NoSourceAvailable):
            if not look_back(wanted.recipes):
                raise
            # What lies before the exposures may be gone, and the rest still be there.
            wanted = without_covariates(wanted)
            return wanted, await self._observe(experiment, observed_question(question, wanted), wanted)

    async def _observe(self, experiment: Experiment, question: Question, wanted: Wanted) -> _Seen:
        """Ask the store that is chosen; where it fails, choose again knowing that."""
        subject = Subject.of(experiment)
        conditions = await self._conditions(subject, question, wanted)
        while True:
            decision = choose(question.source, conditions)
            log.info(
                "results.routed",
                experiment_id=subject.experiment_id,
                source=decision.source.value,
                reason=decision.reason.value,
            )
            try:
                return await self._observe_from(decision, conditions, subject, question, wanted)
            except StoreUnavailable:
                conditions = replace(conditions, store_up=False)
            except ClickHouseUnavailable:
                conditions = replace(conditions, history_up=False)
            except ClickHouseRefused as error:
                log.error("results.history_refused", code=error.code, exc_info=error)  # noqa: TRY400  # A bug.
                conditions = replace(conditions, history_up=False)
            except TailTooLarge:
                conditions = replace(conditions, tail_fits=False)
            except StoreIncomplete:
                conditions = replace(conditions, store_reaches=False)

    async def _conditions(self, subject: Subject, question: Question, wanted: Wanted) -> Conditions:
        if self._reach is None or question.source is SourceChoice.HOT:
            return Conditions(history_up=False, watermark=None)
        try:
            watermark = await self._watermark()
            reaches = await self._reach.covers(subject, question, look_back(wanted.recipes))
            return Conditions(history_up=True, watermark=watermark, history_reaches=reaches)
        except (ClickHouseUnavailable, ClickHouseRefused, StoreUnavailable) as error:
            log.warning("results.watermark_unknown", error=str(error) or type(error).__name__)
            return Conditions(history_up=False, watermark=None)

    async def _observe_from(
        self, decision: Decision, conditions: Conditions, subject: Subject, question: Question, wanted: Wanted
    ) -> _Seen:
        if decision.source is Source.HOT or self._cold is None or conditions.watermark is None:
            seen, now = await self._hot.observe(subject, question, most_slots=MOST_SLOTS, wanted=wanted)
            return _Seen(seen, Source.HOT, now, NOT_FROM_HISTORY)
        watermark = conditions.watermark
        tail, complete_until = None, watermark
        if decision.source is Source.BOTH:
            tail, complete_until = await self._hot.tail(subject, question, watermark, wanted)
        steps, use = await self._find_rollups(subject, question, watermark)
        seen = await self._cold.observe(
            subject,
            question,
            watermark,
            most_slots=MOST_SLOTS,
            tail=tail,
            steps=steps,
            wanted=wanted,
            until=complete_until,
        )
        return _Seen(seen, decision.source, complete_until, use)

    async def _find_rollups(
        self, subject: Subject, question: Question, watermark: datetime
    ) -> tuple[Sequence[Step], RollupUse]:
        if self._rollups is None:
            return (), unused(RollupReason.OFF)
        if reason := obstacle(subject, question):
            return (), unused(reason)
        steps = steps_below(watermark, (await self._rollups.get()).steps)
        if not steps:
            return (), unused(RollupReason.NOT_BUILT)
        return steps, RollupUse(used=True, until=built_until(steps), reason=RollupReason.USED)


def _composed(asked: _Asked, wanted: Wanted, seen: Observations, provenance: Provenance) -> Results:
    measured = partial(metrics_of, asked.metrics, asked.experiment, asked.question, wanted)
    return analyse(
        asked.experiment,
        asked.question,
        asked.reading,
        measured(seen),
        seen,
        provenance,
        [measured(segment.observations) for segment in seen.segments],
    )


def _covers(results: Results, freshness: Freshness) -> bool:
    """Tell whether an answer holds all the rows that its cache key speaks of; a cold one may not."""
    return results.metadata.complete_until > freshness.counts_until
