"""Where the control's users are read, and how their lines come from there."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from app.calibration.choosing import Chosen
from app.calibration.statements import InClickHouse, Statement, exponent_line, in_postgres
from app.core.clickhouse import ClickHouse, ClickHouseRefused, ClickHouseUnavailable
from app.core.db import Database
from app.experiments.values import Experiment
from app.exports.copying import Copying, LineForm
from app.exports.values import Write
from app.measurement.plan import look_back
from app.measurement.stores import SETTINGS
from app.results.errors import HistoryDropped, NoSourceAvailable, StoreDropped
from app.results.reach import Reach, store_reaches
from app.results.routing import Conditions, choose
from app.results.tail import tables_for
from app.results.values import Question, Source, SourceChoice, Subject

log = structlog.get_logger()

Watermark = Callable[[], Awaitable[datetime | None]]

# Some hundred megabytes of text at most for one metric of so many users.
_USERS_AT_ONCE = 2_000_000
_LOST_MEANWHILE = "Events that count were dropped while the users were read. Ask for the calibration again."


@dataclass(frozen=True, slots=True)
class Route:
    """The store to read, up to which ingestion time if it is ClickHouse, and what can be read of the metrics there."""

    source: Source
    watermark: datetime | None
    chosen: Chosen


class Drawing:
    """Finds the store that has everything, and reads every user's numbers there."""

    def __init__(self, *, database: Database, clickhouse: ClickHouse, watermark: Watermark) -> None:
        self._database = database
        self._clickhouse = clickhouse
        self._watermark = watermark
        self._reach = Reach(clickhouse, database)
        self._copying = Copying(database)

    async def route(self, experiment: Experiment, chosen: Chosen) -> Route:
        """Choose PostgreSQL as long as it has every event that counts, and ClickHouse where it has not.

        What was before the exposures is left out where it is all that neither has any more.

        Raises:
            HistoryDropped: neither store has every event that counts.
            NoSourceAvailable: ClickHouse alone could have them, and cannot be asked now.
            StoreUnavailable: PostgreSQL cannot be reached.
        """
        subject = Subject.of(experiment)
        try:
            return await self._route(subject, chosen)
        except (HistoryDropped, NoSourceAvailable):
            if not look_back(chosen.recipes):
                raise
            return await self._route(subject, chosen.without_covariates())

    async def draw(self, experiment: Experiment, route: Route, split_by: str | None, write: Write) -> None:
        """Write every user's lines.

        Raises:
            StoreDropped, HistoryDropped: events that count were dropped meanwhile.
            StoreUnavailable, ClickHouseUnavailable: the store cannot be reached.
        """
        subject = Subject.of(experiment)
        if route.watermark is None:
            await self._from_postgres(subject, experiment.control.id, route, split_by, write)
        else:
            statements = InClickHouse(
                subject, experiment.control.id, route.chosen.recipes, route.watermark, split_by=split_by
            )
            await self._from_clickhouse(subject, statements, route, write)

    async def _route(self, subject: Subject, chosen: Chosen) -> Route:
        async with self._database.read() as connection:
            if await store_reaches(connection, subject, Question(), look_back(chosen.recipes)):
                return Route(Source.HOT, None, chosen)
        conditions = await self._conditions(subject, chosen)
        # What is newer than the watermark is left to the next calibration.
        choose(SourceChoice.AUTO, conditions)
        return Route(Source.COLD, conditions.watermark, chosen)

    async def _conditions(self, subject: Subject, chosen: Chosen) -> Conditions:
        try:
            watermark = await self._watermark()
            reaches = await self._reach.covers(subject, Question(), look_back(chosen.recipes))
        except (ClickHouseUnavailable, ClickHouseRefused) as error:
            log.warning("calibration.history_away", error=str(error))
            return Conditions(store_reaches=False, history_up=False, watermark=None)
        return Conditions(store_reaches=False, history_up=True, watermark=watermark, history_reaches=reaches)

    async def _from_postgres(
        self, subject: Subject, control_id: int, route: Route, split_by: str | None, write: Write
    ) -> None:
        for sql, parameters in in_postgres(subject, control_id, route.chosen.recipes, split_by=split_by):
            await self._copying.copy(sql, parameters, LineForm(), write)
        # What was dropped since the first look is missing.
        async with self._database.read() as connection:
            if not await store_reaches(connection, subject, Question(), look_back(route.chosen.recipes)):
                raise StoreDropped(_LOST_MEANWHILE)

    async def _from_clickhouse(self, subject: Subject, statements: InClickHouse, route: Route, write: Write) -> None:
        (counted,) = await self._rows(subject, statements.counting())
        parts = 1 << (int(counted["users"]) // _USERS_AT_ONCE).bit_length()
        for part in range(parts):
            for row in await self._rows(subject, statements.users(part, parts)):
                await write(_text(row["lines"]))
        for measure in statements.measures:
            for part in range(parts):
                rows = await self._rows(subject, statements.numbers(measure, part, parts))
                for row in rows:
                    await write(_text(row["lines"]))
                # The same in every row and part; that it is said again does no harm.
                for side in measure.scaled if rows else ():
                    await write(_text(exponent_line(measure, side, rows[0][side])))
        if not await self._reach.covers(subject, Question(), look_back(route.chosen.recipes)):
            raise HistoryDropped(_LOST_MEANWHILE)

    async def _rows(self, subject: Subject, statement: Statement) -> list[dict[str, Any]]:
        sql, parameters = statement
        return await self._clickhouse.rows(sql, parameters, settings=SETTINGS, tables=tables_for(subject, None))


def _text(lines: str) -> bytes:
    return lines.encode() + b"\n"
