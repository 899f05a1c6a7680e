"""What users were and did, read where results are: in ClickHouse with PostgreSQL's newest rows, or in PostgreSQL."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.clickhouse import ClickHouse, ClickHouseRefused, ClickHouseUnavailable
from app.core.db import Database
from app.diagnosis.facts import Sent
from app.diagnosis.people import People
from app.diagnosis.people_cold import people_in_history
from app.diagnosis.people_hot import people_in_postgres
from app.diagnosis.sent_cold import sent_in_history
from app.diagnosis.sent_hot import sent_in_postgres
from app.diagnosis.sought import Sought
from app.diagnosis.values import Unchecked
from app.measurement.errors import TailTooLarge
from app.measurement.stores import PREPARE, measure_cold, measure_hot, tail_events
from app.measurement.values import Asked, Exposed, Measured
from app.metrics.values import Kind, Recipe
from app.results.exposed_cold import exposed_in_clickhouse
from app.results.exposed_hot import exposed_in_postgres
from app.results.hot import HotStore
from app.results.reach import Reach, Watermark, hold_events, store_reaches
from app.results.tail import tables_for
from app.results.values import NOTHING_WANTED, Question, Source, Subject, Tail, Wanted

T = TypeVar("T")

log = structlog.get_logger()

_ONE_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
_NOW = text("SELECT clock_timestamp()")
# What travels with a query in about a second.
_MOST_TAIL_ROWS = 200_000


class OutOfReach(Exception):
    """Neither store has all events that count."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is measured of whom: users exposed before `exposed_until` and their events before `until`."""

    recipes: Mapping[str, Recipe]
    exposed_until: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What was measured, where, and up to which moment it is complete."""

    measured: Measured
    source: Source
    complete_until: datetime


@dataclass(frozen=True, slots=True)
class _History:
    """ClickHouse below the watermark, and PostgreSQL's rows from it on up to `now`."""

    clickhouse: ClickHouse
    watermark: datetime
    tail: Tail
    now: datetime


class Measuring:
    """Counts an experiment's exposed users, and measures what they did.

    All of it is asked of one store in the same way, so that what is said of users and what is said of their events
    have the same users.
    """

    def __init__(self, database: Database, clickhouse: ClickHouse | None, watermark: Watermark) -> None:
        self._database = database
        self._clickhouse = clickhouse
        self._reach = None if clickhouse is None else Reach(clickhouse, database)
        self._watermark = watermark
        self._hot = HotStore(database)

    async def history_until(self) -> datetime | Unchecked:
        """Return the moment up to which ClickHouse is known to be complete.

        Raises:
            StoreUnavailable: PostgreSQL cannot be reached.
        """
        try:
            watermark = None if self._clickhouse is None else await self._watermark()
        except (ClickHouseUnavailable, ClickHouseRefused):
            return Unchecked("ClickHouse does not answer now; PostgreSQL stands in for it.")
        return watermark or Unchecked("ClickHouse is not known to be complete up to any moment.")

    async def measure(self, subject: Subject, wanted: Measurement) -> Seen:
        """Measure recipes.

        Raises:
            OutOfReach: neither store has all events that count.
            StoreUnavailable: PostgreSQL cannot be reached.
        """
        question, recipes = Question(end=wanted.exposed_until), wanted.recipes
        asked = Asked(project_id=subject.project_id, experiment_id=subject.experiment_id, end=wanted.until)

        async def by_both(history: _History) -> Seen:
            watermark, tail = history.watermark, history.tail
            who = exposed_in_clickhouse(subject, question, watermark, with_tail=True)
            exposed = Exposed(*who, tables_for(subject, tail))
            measured = await measure_cold(history.clickhouse, recipes, asked, exposed, watermark, tail=tail.measured)
            return Seen(measured, Source.BOTH, history.now)

        async def by_postgres(connection: AsyncConnection, now: datetime) -> Seen:
            exposed = Exposed(*exposed_in_postgres(subject, question))
            return Seen(await measure_hot(connection, recipes, asked, exposed), Source.HOT, now)

        return await self._read(subject, question, by_both, by_postgres, Wanted(recipes=recipes))

    async def people(self, subject: Subject, moments: Sequence[datetime]) -> People:
        """Count who came in, by day, between the moments, which rise, and by their context.

        Raises:
            OutOfReach: neither store has all events that count.
            StoreUnavailable: PostgreSQL cannot be reached.
        """

        async def by_both(history: _History) -> People:
            return await people_in_history(history.clickhouse, subject, moments, history.watermark, history.tail)

        async def by_postgres(connection: AsyncConnection, _: datetime) -> People:
            return await people_in_postgres(connection, subject, moments)

        return await self._read(subject, Question(), by_both, by_postgres)

    async def sent(self, subject: Subject, wanted: Mapping[str, Sought], since: datetime) -> Mapping[str, Sent]:
        """Tell what became of the events that empty metrics look for, of those ingested from `since` on.

        Raises:
            OutOfReach: neither store has all events that count.
            StoreUnavailable: PostgreSQL cannot be reached.
        """

        async def by_both(history: _History) -> Mapping[str, Sent]:
            found = {}
            for key, one in wanted.items():
                events = await self._newest(subject, one, max(history.watermark, since))
                found[key] = await sent_in_history(
                    history.clickhouse, subject, one, since, history.watermark, history.tail, events
                )
            return found

        async def by_postgres(connection: AsyncConnection, _: datetime) -> Mapping[str, Sent]:
            return {key: await sent_in_postgres(connection, subject, one, since) for key, one in wanted.items()}

        return await self._read(subject, Question(), by_both, by_postgres)

    async def _read(
        self,
        subject: Subject,
        question: Question,
        by_both: Callable[[_History], Awaitable[T]],
        by_postgres: Callable[[AsyncConnection, datetime], Awaitable[T]],
        wanted: Wanted = NOTHING_WANTED,
    ) -> T:
        """Read in ClickHouse if it can answer, and in PostgreSQL otherwise, there in one snapshot."""
        try:
            history = await self._history(subject, question, wanted)
            if history is not None:
                return await by_both(history)
        except (ClickHouseUnavailable, ClickHouseRefused, TailTooLarge) as error:
            log.warning("diagnosis.history_unusable", error=str(error) or type(error).__name__)
        async with self._database.read() as connection:
            await connection.execute(_ONE_SNAPSHOT)
            await hold_events(connection)
            now: datetime = (await connection.execute(_NOW)).scalar_one()
            if not await store_reaches(connection, subject, question):
                raise OutOfReach
            await connection.execute(PREPARE)
            return await by_postgres(connection, now)

    async def _history(self, subject: Subject, question: Question, wanted: Wanted) -> _History | None:
        """Return ClickHouse with PostgreSQL's newest rows, `None` if it does not have all events that count."""
        if self._clickhouse is None or self._reach is None:
            return None
        watermark = await self._watermark()
        if watermark is None or not await self._reach.covers(subject, question):
            return None
        # The recipes' own events travel apart; of those that results count no type has such a name.
        without_events = replace(question, event_types=("",))
        tail, now = await self._hot.tail(subject, without_events, watermark, wanted)
        return _History(self._clickhouse, watermark, tail, now)

    async def _newest(self, subject: Subject, wanted: Sought, since: datetime) -> Sequence[bytes]:
        """Return PostgreSQL's events of a selection's types, whosever they are."""
        recipes = {"": Recipe(kind=Kind.COUNT, selections=(wanted.selection,))}
        asked = Asked(project_id=subject.project_id, experiment_id=subject.experiment_id)
        async with self._database.read() as connection:
            events = await tail_events(connection, recipes, asked, since, most_rows=_MOST_TAIL_ROWS + 1)
        if len(events) > _MOST_TAIL_ROWS:
            raise TailTooLarge
        return events
