"""How far the stores reach: whether one reaches back far enough, and up to when the history is complete.

ClickHouse gives up events once no experiment that goes on needs them; PostgreSQL drops them, if it is told to, once
ClickHouse has them for sure.

An event counts from the user's exposure on and is ingested at most a day before its own time. So a question needs
what was ingested since a day before the experiment's earliest exposure, or before its own start if that is later; where
events expose, all since the earliest assignment. Covariates look back further, whatever the question's start.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeAlias

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.clickhouse import ClickHouse
from app.core.db import Database, StoreUnavailable
from app.events.messages import MOST_AHEAD
from app.results.values import Question, Subject

# Says up to which ingestion time the history is complete, `None` if that is not known.
Watermark: TypeAlias = Callable[[], Awaitable[datetime | None]]

_NONE = timedelta(0)
_GIVEN_UP = "SELECT maxOrNull(ingested_before) AS before FROM dropped_history"
# PostgreSQL knows of every exposure; ClickHouse's own are all that count where PostgreSQL is away. Assignments happen
# when they come in, but for imported ones: each of the two has an index.
_EARLIEST = text(
    "SELECT least((SELECT min(ingested_at) FROM assignments WHERE experiment_id = :experiment_id),"
    " (SELECT min(assigned_at) FROM assignments"
    " WHERE experiment_id = :experiment_id AND assigned_at <> ingested_at),"
    " (SELECT min(exposed_at) FROM overrides WHERE experiment_id = :experiment_id AND NOT removed))"
)
# A partition that is dropped between the two statements would be missing from the answer that follows them: dropping
# one waits for whoever reads the parent.
_READ_PARENT = text("LOCK TABLE events IN ACCESS SHARE MODE")
_DROPPED_BEFORE = text("SELECT max(upper_bound) FROM dropped_partitions")
_EARLIEST_COPIED = """
SELECT minOrNull(exposed_at) AS earliest FROM (
    SELECT exposed_at FROM exposures WHERE experiment_id = {experiment_id:Int64}
    UNION ALL
    SELECT exposed_at FROM overrides FINAL WHERE experiment_id = {experiment_id:Int64} AND NOT removed
)
"""


class Reach:
    """Knows what the history has given up."""

    def __init__(self, clickhouse: ClickHouse, database: Database) -> None:
        self._clickhouse = clickhouse
        self._database = database

    async def covers(self, subject: Subject, question: Question, look_back: timedelta = _NONE) -> bool:
        """Tell whether the history has every event below the watermark that can count for the question.

        look_back: how long before the exposures events count as well.

        Raises:
            ClickHouseUnavailable: it cannot be reached.
        """
        (row,) = await self._clickhouse.rows(_GIVEN_UP)
        if row["before"] is None:
            return True
        return reaches(row["before"], await self._earliest(subject), _needed_from(subject, question), look_back)

    async def _earliest(self, subject: Subject) -> datetime | None:
        values = {"experiment_id": subject.experiment_id}
        try:
            async with self._database.read() as connection:
                earliest: datetime | None = (await connection.execute(_EARLIEST, values)).scalar_one()
        except StoreUnavailable:
            (row,) = await self._clickhouse.rows(_EARLIEST_COPIED, values)
            earliest = row["earliest"]
        return earliest


async def hold_events(connection: AsyncConnection) -> None:
    """Have no partition of events dropped until the transaction ends; to be called before its first SELECT.

    Where the transaction sees one snapshot, that is then not older than the last drop.
    """
    await connection.execute(_READ_PARENT)


async def store_reaches(
    connection: AsyncConnection, subject: Subject, question: Question, look_back: timedelta = _NONE
) -> bool:
    """Tell whether PostgreSQL has every event that can count. It stays so only behind `hold_events`."""
    before = (await connection.execute(_DROPPED_BEFORE)).scalar_one()
    if before is None:
        return True
    earliest = (await connection.execute(_EARLIEST, {"experiment_id": subject.experiment_id})).scalar_one()
    return reaches(before, earliest, _needed_from(subject, question), look_back)


def _needed_from(subject: Subject, question: Question) -> datetime | None:
    # Whose first exposure event is not known is not known to be exposed.
    return None if subject.exposed_by_events else question.start


def reaches(
    given_up_before: datetime, earliest_exposure: datetime | None, start: datetime | None, look_back: timedelta = _NONE
) -> bool:
    """Tell whether no event that counts was ingested before `given_up_before`; without exposures none counts."""
    if earliest_exposure is None:
        return True
    needed_since = earliest_exposure if start is None else max(earliest_exposure, start)
    if look_back:
        needed_since = min(needed_since, earliest_exposure - look_back)
    return given_up_before <= needed_since - MOST_AHEAD
