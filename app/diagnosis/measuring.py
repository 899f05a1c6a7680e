"""Metrics of a diagnosis, measured where results are: in ClickHouse with PostgreSQL's newest rows, or in PostgreSQL."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import structlog
from sqlalchemy import text

from app.core.clickhouse import ClickHouse, ClickHouseRefused, ClickHouseUnavailable
from app.core.db import Database
from app.diagnosis.values import Unchecked
from app.measurement.stores import measure_cold, measure_hot
from app.measurement.values import Asked, Exposed, Measured
from app.metrics.values import Recipe
from app.results.errors import TailTooLarge
from app.results.exposed_cold import exposed_in_clickhouse
from app.results.exposed_hot import exposed_in_postgres
from app.results.hot import HotStore
from app.results.reach import Reach, Watermark, hold_events, store_reaches
from app.results.tail import tables_for
from app.results.values import Question, Source, Subject, Wanted

log = structlog.get_logger()

_ONE_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
_NOW = text("SELECT clock_timestamp()")


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


class Measuring:
    """Measures recipes over an experiment's exposed users."""

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
        """Measure, in ClickHouse if it can answer and in PostgreSQL otherwise.

        Raises:
            OutOfReach: neither store has all events that count.
            StoreUnavailable: PostgreSQL cannot be reached.
        """
        question = Question(end=wanted.exposed_until)
        asked = Asked(project_id=subject.project_id, experiment_id=subject.experiment_id, end=wanted.until)
        try:
            seen = await self._by_both(subject, question, asked, wanted.recipes)
        except (ClickHouseUnavailable, ClickHouseRefused, TailTooLarge) as error:
            log.warning("diagnosis.history_unusable", error=str(error) or type(error).__name__)
            seen = None
        return seen if seen is not None else await self._by_postgres(subject, question, asked, wanted.recipes)

    async def _by_both(
        self, subject: Subject, question: Question, asked: Asked, recipes: Mapping[str, Recipe]
    ) -> Seen | None:
        if self._clickhouse is None or self._reach is None:
            return None
        watermark = await self._watermark()
        if watermark is None or not await self._reach.covers(subject, question):
            return None
        # The recipes' own events travel apart; of those that results count no type has such a name.
        without_events = replace(question, event_types=("",))
        tail, now = await self._hot.tail(subject, without_events, watermark, Wanted(recipes=recipes))
        who = exposed_in_clickhouse(subject, question, watermark, with_tail=True)
        exposed = Exposed(*who, tables_for(subject, tail))
        measured = await measure_cold(self._clickhouse, recipes, asked, exposed, watermark, tail=tail.measured)
        return Seen(measured, Source.BOTH, now)

    async def _by_postgres(
        self, subject: Subject, question: Question, asked: Asked, recipes: Mapping[str, Recipe]
    ) -> Seen:
        async with self._database.read() as connection:
            await connection.execute(_ONE_SNAPSHOT)
            await hold_events(connection)
            now: datetime = (await connection.execute(_NOW)).scalar_one()
            if not await store_reaches(connection, subject, question):
                raise OutOfReach
            exposed = Exposed(*exposed_in_postgres(subject, question))
            return Seen(await measure_hot(connection, recipes, asked, exposed), Source.HOT, now)
