"""Use cases of assignments: answer, enrol, import, override, list."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy.exc import DataError, IntegrityError

from app.access.caller import Caller
from app.access.repository import AuditRepository
from app.assignments import overrides as override_topic
from app.assignments.cache import MemoryCache, RedisCache
from app.assignments.decisions import (
    answer_for_unassigned,
    answer_while_store_is_away,
    answer_without_look_up,
    existing,
    hashed_variant,
    overridden,
    phase_at,
)
from app.assignments.errors import ImportClosed, OverrideClosed, OverrideNotFound
from app.assignments.overrides import OverrideRegistry
from app.assignments.repository import AssignmentRepository, Key, OverrideRepository
from app.assignments.values import Answer, ImportRow, Question, Reason, Stored, StoredAssignment
from app.core.batching import Batcher
from app.core.changes import Changes
from app.core.clock import Clock
from app.core.db import Database, StoreUnavailable
from app.core.errors import Invalid
from app.core.metrics import Metrics
from app.core.paging import Page, PageRequest, page_of
from app.experiments.lifecycle import Status
from app.experiments.registry import ExperimentRegistry
from app.experiments.values import Experiment, Variant

MAX_BATCH_ROWS = 500
_OVERRIDABLE = frozenset({Status.DRAFT, Status.RUNNING, Status.PAUSED})


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
        answers = [self.answer_from_memory(question) for question in questions]
        open_ = [index for index, answer in enumerate(answers) if answer is None]
        if open_:
            found = await self._answer_from_stores([questions[index] for index in open_])
            for index, answer in zip(open_, found, strict=True):
                answers[index] = answer
        return [answer for answer in answers if answer is not None]

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
            reason = Reason.NEW_ASSIGNMENT if is_new and key not in answers else Reason.EXISTING_ASSIGNMENT
            answers.setdefault(key, existing(question, stored[key], reason))
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
            answer = answer_without_look_up(now_asked, phase_at(current, self._clock()), override)
            if answer is None and current.version == question.experiment.version:
                # The database has another version than its own announcement: it is being changed right now.
                raise StoreUnavailable("The experiment is being changed right now; send the request again.")
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
        distinct = {_key(question): question for question in questions}
        async with self._database.begin() as connection:
            repository = AssignmentRepository(connection)
            created = await repository.enroll_many(
                [(question, hashed_variant(question).id) for question in distinct.values()]
            )
            others = [key for key in distinct if key not in created]
            # A statement of its own: it sees what another process committed while the first one waited.
            found = await repository.find_many(others) if others else {}
        outcomes: list[tuple[Stored, bool] | None] = []
        seen: set[Key] = set()
        for question in questions:
            key = _key(question)
            stored = created.get(key) or found.get(key)
            outcomes.append(None if stored is None else (stored, key in created and key not in seen))
            seen.add(key)
        return outcomes

    def _remember(self, stored: Mapping[Key, Stored]) -> None:
        """Put committed assignments into the caches; nobody waits for Redis."""
        for key, item in stored.items():
            self._memory.put(key, item)
        if stored:
            task = asyncio.create_task(self._cache.put_many(stored))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def import_rows(self, caller: Caller, experiment: Experiment, rows: Sequence[ImportRow]) -> set[int]:
        """Store assignments decided elsewhere, with their own times.

        Returns:
            the indices of rows whose user was assigned already, or stands in an earlier row.

        Raises:
            ImportClosed: the experiment is archived.
        """
        if experiment.status is Status.ARCHIVED:
            raise ImportClosed
        first: dict[str, int] = {}
        for index, row in enumerate(rows):
            first.setdefault(row.user_id, index)
        async with self._database.begin() as connection:
            imported = await AssignmentRepository(connection).import_many(
                experiment.id, [rows[index] for index in first.values()]
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
        stored = {first[user_id] for user_id in imported}
        return {index for index in range(len(rows)) if index not in stored}

    async def put_override(self, caller: Caller, experiment: Experiment, user_id: str, variant: Variant) -> Answer:
        """Force a variant; when this returns, every process gives it.

        Raises:
            OverrideClosed: the experiment is neither draft nor running nor paused.
        """
        if experiment.status not in _OVERRIDABLE:
            raise OverrideClosed(experiment.status)
        async with self._database.begin() as connection:
            epoch = await self._changes.bump(connection, override_topic.TOPIC)
            await OverrideRepository(connection).put(experiment.id, user_id, variant.id, epoch)
            await self._audit_override(AuditRepository(connection), caller, experiment, "put")
        await self._changes.settle(override_topic.TOPIC, epoch)
        override = self._overrides.find(experiment.id, user_id)
        if override is None:  # Removed by somebody else in between.
            raise OverrideNotFound
        return overridden(Question(experiment, user_id, enroll=False), override)

    async def remove_override(self, caller: Caller, experiment: Experiment, user_id: str) -> None:
        """Remove an override; a stored assignment is in force again.

        Raises:
            OverrideNotFound: the user has none.
        """
        async with self._database.begin() as connection:
            epoch = await self._changes.bump(connection, override_topic.TOPIC)
            if not await OverrideRepository(connection).remove(experiment.id, user_id, epoch):
                raise OverrideNotFound
            await self._audit_override(AuditRepository(connection), caller, experiment, "removed")
        await self._changes.settle(override_topic.TOPIC, epoch)

    @staticmethod
    async def _audit_override(audit: AuditRepository, caller: Caller, experiment: Experiment, action: str) -> None:
        await audit.append(
            project_id=caller.project_id,
            actor=caller.actor,
            request_id=caller.request_id,
            action=f"override.{action}",
            subject=f"experiment:{experiment.id}",
        )

    async def list_(self, experiment: Experiment, variant: Variant | None, page: PageRequest) -> Page[StoredAssignment]:
        async with self._database.read() as connection:
            rows = await AssignmentRepository(connection).list_(
                experiment.id, variant.id if variant else None, _position(page.after), page.limit + 1
            )
        return page_of(rows, page, lambda row: f"{row.ingested_at.isoformat()} {row.user_id}")


def _key(question: Question) -> Key:
    return question.experiment.id, question.user_id


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
