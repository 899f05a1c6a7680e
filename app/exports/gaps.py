"""What an export needs, PostgreSQL has dropped, and ClickHouse still has.

PostgreSQL has every event since some moment and ClickHouse all below the watermark, but for what it gave up for its
age. Nothing is dropped before ClickHouse has it for sure; so what was ingested before that moment comes from ClickHouse
and all since from PostgreSQL, and no event is missing or there twice.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import text

from app.core.clickhouse import ClickHouse, ClickHouseRefused, ClickHouseUnavailable
from app.core.db import Database
from app.core.moments import FIRST_YEAR
from app.events.messages import MOST_AHEAD
from app.pipeline.history_retention import given_up_before
from app.pipeline.marker import find_marker
from app.results.errors import NoSourceAvailable, StoreDropped
from app.results.reach import Reach, Watermark, reaches, store_reaches
from app.results.values import Question, Subject

_DROPPED_BEFORE = text("SELECT max(upper_bound) FROM dropped_partitions")
# Before any event.
_EVER = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)
_AWAY = (
    "PostgreSQL has dropped events that belong into the export, because they are older than EVENTS_RETENTION_DAYS, and"
    " ClickHouse does not answer now or is not known to be complete. Try again later, or with a later start_date."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Rows that are to come from ClickHouse: ingested before `before`, which PostgreSQL has all rows since.

    exposures: of events that tell who counts. history: which ClickHouse this was found out about, and its watermark.
    """

    before: datetime
    events: bool
    exposures: bool
    history: UUID | None
    watermark: datetime = field(compare=False)


@dataclass(frozen=True, slots=True)
class _Lacking:
    before: datetime
    events: bool
    exposures: bool


class Gaps:
    """Finds gaps."""

    def __init__(self, *, database: Database, clickhouse: ClickHouse, watermark: Watermark) -> None:
        self._database = database
        self._clickhouse = clickhouse
        self._watermark = watermark
        self._reach = Reach(clickhouse, database)

    async def of_assignments(self, subject: Subject) -> Gap | None:
        """Return what PostgreSQL lacks to say who counts, `None` if nothing, or nothing that ClickHouse still has.

        Raises:
            NoSourceAvailable: ClickHouse would have to be asked and cannot be.
        """
        # Whom ClickHouse has given up as well is told from the exposures that are left: every assignment is there.
        return await self._gap(subject, Question(), counted=False, with_events=False)

    async def of_events(self, subject: Subject, question: Question, *, counted: bool) -> Gap | None:
        """Return what PostgreSQL lacks, `None` if nothing, or nothing but exposures that ClickHouse lacks as well.

        Raises:
            NoSourceAvailable: ClickHouse would have to be asked and cannot be.
            StoreDropped: both have given up events that belong into the export.
        """
        return await self._gap(subject, question, counted=counted, with_events=True)

    async def _gap(self, subject: Subject, question: Question, *, counted: bool, with_events: bool) -> Gap | None:
        lacking = await self._lacking(subject, question, counted=counted, with_events=with_events)
        if lacking is None:
            return None
        try:
            watermark = await self._watermark()
            marker = await find_marker(self._clickhouse)
            given_up = await given_up_before(self._clickhouse)
            knows_exposures = await self._reach.covers(subject, question)
        except (ClickHouseUnavailable, ClickHouseRefused) as error:
            raise NoSourceAvailable(_AWAY) from error
        if watermark is None or watermark < lacking.before:
            raise NoSourceAvailable(_AWAY)
        has_events = knows_exposures if counted else given_up is None or reaches(given_up, _EVER, question.start)
        if lacking.events and not has_events:
            complete_since = lacking.before if given_up is None else min(lacking.before, given_up)
            raise _dropped(complete_since, counted_by_exposures=counted and subject.exposed_by_events)
        brings_exposures = lacking.exposures and knows_exposures
        if not (lacking.events or brings_exposures):
            return None
        return Gap(
            before=lacking.before,
            events=lacking.events,
            exposures=brings_exposures,
            history=None if marker is None else marker.id,
            watermark=watermark,
        )

    async def _lacking(
        self, subject: Subject, question: Question, *, counted: bool, with_events: bool
    ) -> _Lacking | None:
        async with self._database.read() as connection:
            before: datetime | None = (await connection.execute(_DROPPED_BEFORE)).scalar_one()
            if before is None:
                return None
            has_all_that_count = await store_reaches(connection, subject, question)
        has_events = has_all_that_count if counted else reaches(before, _EVER, question.start)
        lacking = _Lacking(
            before,
            events=with_events and not has_events,
            exposures=(subject.exposed_by_events or subject.finds_strayed) and not has_all_that_count,
        )
        return lacking if lacking.events or lacking.exposures else None


def _dropped(complete_since: datetime, *, counted_by_exposures: bool) -> StoreDropped:
    """Say from when on the events are all there, and how to ask for these."""
    complete_from = (complete_since + MOST_AHEAD).isoformat()
    way_out = f"Export from start_date={complete_from} on."
    if counted_by_exposures:
        # The first exposure of a user may be among what was dropped, and nobody knows then which events count.
        way_out = f"With counted=false they can be exported from start_date={complete_from} on."
    return StoreDropped(
        "Neither PostgreSQL nor ClickHouse has all events any more that were ingested before"
        f" {complete_since.isoformat()}: they are older than EVENTS_RETENTION_DAYS and HISTORY_RETENTION_DAYS."
        f" {way_out}",
        complete_from=complete_from,
    )
