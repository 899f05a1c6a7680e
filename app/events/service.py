"""Use cases of events: record them once, durably, before anybody is told so."""

from collections.abc import Sequence

from sqlalchemy.exc import DataError, IntegrityError

from app.core.batching import Batcher
from app.core.clock import IdSource, random_id
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.rows import RowCode, RowError
from app.events.repository import EventRepository, Key
from app.events.values import Event, Recorded, RecordedBatch, SentEvent
from app.experiments.errors import ExperimentNotFound
from app.experiments.registry import ExperimentRegistry

MAX_BATCH_ROWS = 1000


class EventService:
    """Stores events by group commit; what it returns is committed."""

    def __init__(
        self,
        *,
        database: Database,
        registry: ExperimentRegistry,
        metrics: Metrics,
        new_id: IdSource = random_id,
    ) -> None:
        self._database = database
        self._registry = registry
        self._new_id = new_id
        self._counted = {outcome: metrics.events.labels(outcome) for outcome in ("accepted", "duplicate", "rejected")}
        self._records = Batcher[Event, bool](
            lambda events: database.promptly(lambda: self._record(events)),
            max_items=MAX_BATCH_ROWS,
            sizes=metrics.write_batch_rows.labels("events"),
            retry_alone=lambda error: isinstance(error, IntegrityError | DataError),
        )

    async def stop(self) -> None:
        """Finish what is under way."""
        await self._records.drain()

    async def record(self, project_id: int, sent: SentEvent) -> Recorded:
        """Store an event.

        Raises:
            ExperimentNotFound: it names an experiment that the project does not have.
            StoreUnavailable: PostgreSQL is away; nothing was acknowledged, and sending again is safe
                with the same event id.
        """
        await self._registry.ensure_fresh()
        event = self._event(project_id, sent)
        (is_new,) = await self._store([event])
        return Recorded(event.event_id, is_new)

    async def record_many(self, project_id: int, rows: Sequence[tuple[int, SentEvent]]) -> RecordedBatch:
        """Store the good ones of events that come with their places in a batch.

        Raises:
            StoreUnavailable: as above.
        """
        await self._registry.ensure_fresh()
        good: list[Event] = []
        rejected: list[RowError] = []
        for index, sent in rows:
            try:
                good.append(self._event(project_id, sent))
            except ExperimentNotFound as error:
                detail = f"experiment_id: {error.detail}"
                rejected.append(RowError(index=index, code=RowCode.UNKNOWN_EXPERIMENT, detail=detail))
        outcomes = await self._store(good) if good else ()
        accepted = sum(outcomes)
        return RecordedBatch(accepted, len(outcomes) - accepted, rejected)

    def _event(self, project_id: int, sent: SentEvent) -> Event:
        return Event(
            project_id=project_id,
            event_id=sent.event_id or self._new_id(),
            experiment_id=None if sent.experiment is None else self._registry.get(project_id, sent.experiment).id,
            user_id=sent.user_id,
            event_type=sent.event_type,
            timestamp=sent.timestamp,
            value=sent.value,
            properties=sent.properties,
        )

    async def _store(self, events: Sequence[Event]) -> Sequence[bool]:
        """Tell of each whether it is new (otherwise its id was known)."""
        outcomes = await self._records.submit(events)
        accepted = sum(outcomes)
        self._counted["accepted"].inc(accepted)
        self._counted["duplicate"].inc(len(outcomes) - accepted)
        return outcomes

    def count_rejected(self, number: int) -> None:
        self._counted["rejected"].inc(number)

    async def _record(self, events: Sequence[Event]) -> list[bool]:
        first: dict[Key, int] = {}
        for index, event in enumerate(events):
            first.setdefault((event.project_id, event.event_id), index)
        async with self._database.begin() as connection:
            repository = EventRepository(connection)
            new = await repository.record([events[index] for index in first.values()])
            stored = {first[key] for key in new}
            # In the same transaction: where it is rolled back, nobody is told of a duplicate, and none is counted.
            if len(stored) < len(events):
                await repository.count_dropped([event for index, event in enumerate(events) if index not in stored])
        return [index in stored for index in range(len(events))]
