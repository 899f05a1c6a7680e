"""Use cases of assignments: answer, enrol, import, list."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy.exc import DataError, IntegrityError

from app.access.caller import Caller
from app.access.repository import AuditRepository
from app.assignments.cache import MemoryCache, RedisCache
from app.assignments.decisions import (
    answer_for_unassigned,
    answer_while_store_is_away,
    answer_without_look_up,
    existing,
    hashed_variant,
    phase_at,
)
from app.assignments.errors import ImportClosed, UnknownVariant
from app.assignments.imports import already_assigned, judged
from app.assignments.overrides import OverrideRegistry
from app.assignments.repository import AssignmentRepository
from app.assignments.values import Answer, ImportRow, Key, Question, Reason, Stored, StoredAssignment
from app.core.batching import Batcher
from app.core.changes import Changes
from app.core.clock import Clock
from app.core.db import Database, StoreUnavailable
from app.core.errors import Invalid
from app.core.metrics import Metrics
from app.core.paging import Page, PageRequest, page_of
from app.core.rows import RowError
from app.experiments.errors import ExperimentNotFound
from app.experiments.lifecycle import Status
from app.experiments.registry import ExperimentRegistry
from app.experiments.repository import ExperimentRepository
from app.experiments.values import Experiment

MAX_BATCH_ROWS = 500


class AssignmentService:
    """Answers from memory, then Redis, then PostgreSQL; stores new assignments by group commit."""

    def __init__(
        self,
        *,
        database: Database,
        registry: ExperimentRegistry,
        overrides: OverrideRegistry,
        changes: Changes,
        memory: MemoryCache,
        cache: RedisCache,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._registry = registry
        self._overrides = overrides
        self._changes = changes
        self._memory = memory
        self._cache = cache
        self._clock = clock
        self._counted = {reason: metrics.assignments.labels(reason.value) for reason in Reason}
        self._memory_hits = metrics.cache.labels("memory", "hit")
        self._finds = Batcher[Key, Stored | None](
            lambda keys: database.promptly(lambda: self._find(keys)), max_items=MAX_BATCH_ROWS
        )
        self._enrolments = Batcher[Question, tuple[Stored, bool] | None](
            lambda questions: database.promptly(lambda: self._enroll(questions)),
            max_items=MAX_BATCH_ROWS,
            sizes=metrics.write_batch_rows.labels("assignments"),
            retry_alone=lambda error: isinstance(error, IntegrityError | DataError),
        )
        self._background: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Finish what is under way."""
        await self._enrolments.drain()
        await asyncio.gather(*self._background, return_exceptions=True)

    async def answer(self, question: Question) -> Answer:
        """Return the user's variant, storing it on first sight when the question says so."""
        await self._registry.ensure_fresh()
        if (known := self.answer_from_memory(question)) is not None:
            return known
        return (await self._answer_from_stores([question]))[0]

    async def answer_many(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions in their order."""
        await self._registry.ensure_fresh()
        known = [self.answer_from_memory(question) for question in questions]
        open_ = [question for question, answer in zip(questions, known, strict=True) if answer is None]
        found = iter(await self._answer_from_stores(open_) if open_ else ())
        return [next(found) if answer is None else answer for answer in known]

    def answer_from_memory(self, question: Question) -> Answer | None:
        """Return the answer if this process knows it already; the registry must be fresh."""
        experiment = question.experiment
        override = self._overrides.find(experiment.id, question.user_id)
        answer = answer_without_look_up(question, phase_at(experiment, self._clock()), override)
        if answer is None and (stored := self._memory.get((experiment.id, question.user_id))) is not None:
            self._memory_hits.inc()
            answer = existing(question, stored)
        if answer is not None:
            self._counted[answer.reason].inc()
        return answer

    async def _answer_from_stores(self, questions: Sequence[Question]) -> list[Answer]:
        cached = await self._cache.find_many([_key(question) for question in questions])
        stored = {
            _key(question): item
            for question, item in zip(questions, cached, strict=True)
            # A cache may hold anything; a variant that is not the experiment's own counts as a miss.
            if item is not None and question.experiment.variant_with_id(item.variant_id) is not None
        }
        for key, item in stored.items():
            self._memory.put(key, item)
        missing = [question for question in questions if _key(question) not in stored]
        try:
            fresh = await self._answers_from_database(missing) if missing else {}
        except StoreUnavailable:
            now = self._clock()
            fresh = {
                _key(question): answer_while_store_is_away(question, phase_at(question.experiment, now))
                for question in missing
            }
        answers = [
            existing(question, stored[key]) if (key := _key(question)) in stored else fresh[key]
            for question in questions
        ]
        for answer in answers:
            self._counted[answer.reason].inc()
        return answers

    async def _answers_from_database(self, questions: Sequence[Question]) -> dict[Key, Answer]:
        """Answer questions of which no cache knows; the database decides."""
        now = self._clock()
        phases = [phase_at(question.experiment, now) for question in questions]
        unassigned = [answer_for_unassigned(question, phase) for question, phase in zip(questions, phases, strict=True)]
        to_enroll = [q for q, answer in zip(questions, unassigned, strict=True) if answer is None]
        to_find = [(q, answer) for q, answer in zip(questions, unassigned, strict=True) if answer is not None]
        answers: dict[Key, Answer] = {}
        if to_find:
            found = await self._finds.submit([_key(question) for question, _ in to_find])
            for (question, answer), stored in zip(to_find, found, strict=True):
                answers[_key(question)] = answer if stored is None else existing(question, stored)
            self._remember({_key(q): s for (q, _), s in zip(to_find, found, strict=True) if s is not None})
        if to_enroll:
            answers |= await self._enrolled(to_enroll)
        return answers

    async def _enrolled(self, questions: Sequence[Question]) -> dict[Key, Answer]:
        outcomes = await self._enrolments.submit(questions)
        answers: dict[Key, Answer] = {}
        stored: dict[Key, Stored] = {}
        outdated: list[Question] = []
        for question, outcome in zip(questions, outcomes, strict=True):
            if outcome is None:
                outdated.append(question)
                continue
            key = _key(question)
            stored[key], is_new = outcome
            if is_new:
                answers[key] = existing(question, stored[key], Reason.NEW_ASSIGNMENT)
            else:
                answers.setdefault(key, existing(question, stored[key]))
        self._remember(stored)
        if outdated:
            answers |= await self._answers_after_change(outdated)
        return answers

    async def _answers_after_change(self, questions: Sequence[Question]) -> dict[Key, Answer]:
        """Answer questions whose experiment changed while they were asked: look at it again, then ask again."""
        await self._changes.look()
        renewed: list[Question] = []
        answers: dict[Key, Answer] = {}
        for question in questions:
            current = self._registry.find_by_id(question.experiment.id) or question.experiment
            now_asked = replace(question, experiment=current)
            override = self._overrides.find(current.id, question.user_id)
            phase = phase_at(current, self._clock())
            answer = answer_without_look_up(now_asked, phase, override)
            if answer is None and current.version == question.experiment.version:
                # The database did not say what it has in place of this: a later request finds out.
                answer = answer_while_store_is_away(now_asked, phase)
            if answer is None:
                renewed.append(now_asked)
            else:
                answers[_key(question)] = answer
        return answers | (await self._answers_from_database(renewed) if renewed else {})

    async def _find(self, keys: Sequence[Key]) -> list[Stored | None]:
        async with self._database.begin() as connection:
            found = await AssignmentRepository(connection).find_many(keys)
        return [found.get(key) for key in keys]

    async def _enroll(self, questions: Sequence[Question]) -> list[tuple[Stored, bool] | None]:
        """Store a batch in one transaction; tell for each what is stored and whether it is new."""
        chosen = _one_for_each_user(questions)
        async with self._database.begin() as connection:
            repository = AssignmentRepository(connection)
            created = await repository.enroll_many(
                [(question, hashed_variant(question).id) for question in chosen.values()]
            )
            others = [key for key in chosen if key not in created]
            # A statement of its own: it sees what another process committed while the first one waited.
            found = await repository.find_many(others) if others else {}
        outcomes: list[tuple[Stored, bool] | None] = []
        for question in questions:
            key = _key(question)
            stored = created.get(key) or found.get(key)
            outcomes.append(None if stored is None else (stored, key in created and question is chosen[key]))
        return outcomes

    def _remember(self, stored: Mapping[Key, Stored]) -> None:
        """Put committed assignments into the caches; nobody waits for Redis."""
        for key, item in stored.items():
            self._memory.put(key, item)
        if stored:
            task = asyncio.create_task(self._cache.put_many(stored))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def import_rows(self, caller: Caller, experiment: Experiment, rows: Sequence[ImportRow]) -> list[RowError]:
        """Store assignments decided elsewhere, with their own times.

        Returns:
            the rejected rows: of an unknown variant, of the future, or of a user who was assigned already or stands
            in an earlier row.

        Raises:
            ExperimentNotFound: it was deleted a moment ago.
            ImportClosed: the experiment is archived.
        """
        async with self._database.begin() as connection:
            # Judged as it stands now, and so it stays until the rows are stored.
            current = await ExperimentRepository(connection).find_unchanging(experiment.id)
            if current is None:
                raise ExperimentNotFound(experiment.key)
            if current.status is Status.ARCHIVED:
                raise ImportClosed
            good, rejected = judged(current, rows, self._clock())
            imported = await AssignmentRepository(connection).import_many(
                current.id, [(row.user_id, variant.id, row.assigned_at) for row, variant in good.values()]
            )
            if imported:
                await AuditRepository(connection).append(
                    project_id=caller.project_id,
                    actor=caller.actor,
                    request_id=caller.request_id,
                    action="assignments.imported",
                    subject=f"experiment:{experiment.id}",
                    details={"count": len(imported)},
                )
        return rejected + [already_assigned(row) for user_id, (row, _) in good.items() if user_id not in imported]

    async def list_(self, experiment: Experiment, variant_key: str | None, page: PageRequest) -> Page[StoredAssignment]:
        """Return stored assignments, the last stored first.

        Raises:
            Invalid: the experiment has no such variant, or the cursor is not one of this list's.
        """
        variant = None if variant_key is None else experiment.variant_with_key(variant_key)
        if variant is None and variant_key is not None:
            raise UnknownVariant(experiment, variant_key)
        async with self._database.read() as connection:
            rows = await AssignmentRepository(connection).list_(
                experiment.id, variant.id if variant else None, _position(page.after), page.limit + 1
            )
        return page_of(rows, page, lambda row: f"{row.ingested_at.isoformat()} {row.user_id}")


def _key(question: Question) -> Key:
    return question.experiment.id, question.user_id


def _one_for_each_user(questions: Sequence[Question]) -> dict[Key, Question]:
    """Choose whom to enrol by among questions of the same moment.

    The latest version of the experiment is the likeliest to be the one in force, and a context that somebody brings
    is not lost to somebody else who brings none; otherwise the first question wins.
    """
    chosen: dict[Key, Question] = {}
    for question in questions:
        kept = chosen.setdefault(_key(question), question)
        if _rank(question) > _rank(kept):
            chosen[_key(question)] = question
    return chosen


def _rank(question: Question) -> tuple[int, bool]:
    return question.experiment.version, question.context is not None


def _position(after: str | None) -> tuple[datetime, str] | None:
    if after is None:
        return None
    moment, _, user_id = after.partition(" ")
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        at = None
    # Ours are in UTC; another offset might leave the range of dates.
    if at is None or at.tzinfo != UTC or not user_id:
        raise Invalid.field("cursor", "is not a cursor of this list; use next_cursor of the page before, unchanged")
    return at, user_id
