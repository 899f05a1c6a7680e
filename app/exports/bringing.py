"""Exports of events that PostgreSQL has dropped: ClickHouse's are brought back, and PostgreSQL writes them all.

So every row is chosen and written by the same SQL, whichever database still has it. What is brought lies in temporary
tables, a batch at a time. It is all of one state of the database: the newer events and who counts are read in one
snapshot, and the older events do not change any more.

A transaction that has written anything, be it to a temporary table, has an id, and while it runs the outbox relay and
the watermark wait for it. So these write and end at once; the one that lasts as long as the reader does has no id.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from app.core.db import StoreUnavailable
from app.events.messages import MOST_AHEAD
from app.exports.copying import Copying, LineForm, Session
from app.exports.gaps import Gap
from app.exports.history import COLUMNS, HistoryPages, Wanted
from app.exports.statements import (
    ANALYSE_KEPT,
    BRINGING,
    EARLIEST_ASSIGNED,
    EARLIEST_KEPT,
    EMPTY_BROUGHT,
    FREEZE,
    LATE_MEMBERS,
    SNAPSHOT,
    Rows,
    assignment_rows,
    brought_event_rows,
    keep_who,
    kept_event_rows,
)
from app.exports.values import Write
from app.results.values import Question, Subject

_BROUGHT, _COLUMNS = "brought", COLUMNS.split(", ")
# Each batch looks through all users once; some ten megabytes on PostgreSQL's disk are worth that.
_PAGES_IN_BATCH = 16
# More than that do not travel with every page; then ClickHouse leaves out nobody's events.
_MOST_LATE_MEMBERS = 20_000
_MOVED = "PostgreSQL has dropped older events just now, while the export began. Ask for it again."


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where lines go, how they are to be written, and the query for rows whose lines these are."""

    statement: Callable[[Rows], str]
    form: LineForm
    take: Write

    async def copy(self, session: Session, rows: Rows, *, first: bool) -> None:
        form = self.form if first else replace(self.form, header=False)
        await session.copy_out(self.statement(rows), rows.parameters, form, self.take)


class Bringing:
    """Copies what PostgreSQL has together with what ClickHouse has."""

    def __init__(self, copying: Copying, pages: HistoryPages) -> None:
        self._copying = copying
        self._pages = pages

    async def assignments(self, subject: Subject, gap: Gap, outlet: Outlet) -> None:
        """Copy who is in the experiment, with what the older exposure events say of them.

        Raises:
            StoreUnavailable, ClickHouseUnavailable: one of the databases is away.
        """
        async with self._copying.session(writes=True) as session:
            await session.run(BRINGING)
            await self._bring_exposures(subject, None, gap, session)
            await _freeze(session, gap)
            await outlet.copy(session, assignment_rows(subject, with_brought=True), first=True)

    async def events(self, subject: Subject, question: Question, gap: Gap, outlet: Outlet, *, counted: bool) -> None:
        """Copy the newer events, and then the older ones batch by batch.

        Raises:
            StoreUnavailable, ClickHouseUnavailable: one of the databases is away.
        """
        async with self._copying.session(writes=True) as bringing:
            await bringing.run(BRINGING)
            async with self._copying.session(writes=True) as keeping:
                await keeping.run(BRINGING)
                if gap.exposures:
                    await self._bring_exposures(subject, question.start, gap, bringing, keeping)
                snapshot = await _freeze(keeping, gap)
                earliest = await _keep_who(bringing, snapshot, subject, question, counted=counted)
                late = await _late_members(keeping, subject, gap)
                rows = kept_event_rows(subject, question, gap.before, counted=counted)
                await outlet.copy(keeping, rows, first=True)
            # Events of nobody count.
            if gap.events and not (counted and earliest is None):
                wanted = _wanted(subject, question, gap, earliest if counted else None, late, counted=counted)
                rows = brought_event_rows(subject, question, counted=counted)
                await self._bring_events(wanted, bringing, rows, outlet)

    async def _bring_exposures(self, subject: Subject, since: datetime | None, gap: Gap, *sessions: Session) -> None:
        """Bring the older exposure events: all that may expose, or may say that a user saw another variant."""
        (row,) = await sessions[0].rows(EARLIEST_ASSIGNED, subject.experiment_id)
        if row["earliest"] is None:
            return
        by_events = subject.exposed_by_events
        wanted = Wanted(
            project_id=subject.project_id,
            experiment_id=subject.experiment_id,
            before=gap.before,
            ingested_since=row["earliest"] - MOST_AHEAD,
            since=None if by_events else since,
            event_types=(subject.population.exposure_event_type,),
            of_experiment=by_events,
            naming_experiment=not by_events,
        )
        async for page in self._pages.read(wanted):
            for session in sessions:
                await session.copy_in(_BROUGHT, _COLUMNS, page)

    async def _bring_events(self, wanted: Wanted, session: Session, rows: Rows, outlet: Outlet) -> None:
        await session.run(EMPTY_BROUGHT)
        waiting = 0
        async for page in self._pages.read(wanted):
            await session.copy_in(_BROUGHT, _COLUMNS, page)
            waiting += 1
            if waiting == _PAGES_IN_BATCH:
                await _write_out(session, rows, outlet)
                waiting = 0
        if waiting:
            await _write_out(session, rows, outlet)


async def _write_out(session: Session, rows: Rows, outlet: Outlet) -> None:
    await outlet.copy(session, rows, first=False)
    await session.run(EMPTY_BROUGHT)


async def _freeze(session: Session, gap: Gap) -> str:
    """Begin a transaction that sees one snapshot and in which no partition is dropped; returns the snapshot's name."""
    await session.run(FREEZE)
    (row,) = await session.rows(SNAPSHOT)
    if row["dropped_before"] != gap.before:
        raise StoreUnavailable(_MOVED)
    name: str = row["name"]
    return name


async def _keep_who(
    session: Session, snapshot: str, subject: Subject, question: Question, *, counted: bool
) -> datetime | None:
    """Keep who counts, as the snapshot has it; returns when the first of them was exposed."""
    sql, parameters = keep_who(subject, question, counted=counted)
    await session.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await session.run(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
    await session.execute(sql, parameters)
    await session.run("COMMIT")
    await session.run(ANALYSE_KEPT)
    (row,) = await session.rows(EARLIEST_KEPT)
    earliest: datetime | None = row["earliest"]
    return earliest


async def _late_members(session: Session, subject: Subject, gap: Gap) -> list[str] | None:
    """Return whom ClickHouse may not know as members yet, `None` if they are too many."""
    rows = await session.rows(LATE_MEMBERS, subject.experiment_id, gap.watermark, _MOST_LATE_MEMBERS + 1)
    return [row["user_id"] for row in rows] if len(rows) <= _MOST_LATE_MEMBERS else None


def _wanted(
    subject: Subject,
    question: Question,
    gap: Gap,
    earliest: datetime | None,
    late_members: list[str] | None,
    *,
    counted: bool,
) -> Wanted:
    # No event is ingested more than a day before its own time.
    happened_since = [moment for moment in (earliest, question.start) if moment is not None]
    return Wanted(
        project_id=subject.project_id,
        experiment_id=subject.experiment_id,
        before=gap.before,
        ingested_since=max(happened_since) - MOST_AHEAD if happened_since else None,
        since=question.start,
        until=question.end,
        event_types=question.event_types,
        of_experiment=counted,
        late_members=late_members,
    )
