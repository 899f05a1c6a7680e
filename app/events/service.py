"""Use cases of events: record them once, durably, before anybody is told so."""

from collections.abc import Sequence

from sqlalchemy.exc import DataError, IntegrityError

from app.core.batching import Batcher
from app.core.db import Database
from app.core.metrics import Metrics
from app.events.repository import EventRepository, Key
from app.events.values import Event

MAX_BATCH_ROWS = 1000


class EventService:
    """Stores events by group commit; what it returns is committed."""

    def __init__(self, *, database: Database, metrics: Metrics) -> None:
        self._database = database
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

    async def record(self, events: Sequence[Event]) -> Sequence[bool]:
        """Store events; tells for each whether it is new (otherwise its id was known).

        Raises:
            StoreUnavailable: PostgreSQL is away; nothing was acknowledged, and sending again is safe.
        """
        if not events:
            return []
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
            new = await EventRepository(connection).record([events[index] for index in first.values()])
        stored = {first[key] for key in new}
        return [index in stored for index in range(len(events))]
