"""Where the control's users are read, and how their lines come from there."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import text

from app.calibration.choosing import Chosen
from app.calibration.sizes import refuse_too_long, refuse_too_many
from app.calibration.statements import InClickHouse, Statement, asked_of, exponent_line, in_postgres
from app.calibration.values import Column, Wanted
from app.core.clickhouse import ClickHouse, ClickHouseRefused, ClickHouseUnavailable
from app.core.db import Database
from app.experiments.values import Experiment
from app.exports.copying import Copying, LineForm
from app.exports.values import Write
from app.measurement.plan import Measure, Plan, compiled, look_back
from app.measurement.stores import SETTINGS, finer_cold, finer_hot
from app.measurement.values import Exposed
from app.results.errors import HistoryDropped, NoSourceAvailable, StoreDropped
from app.results.exposed_cold import exposed_in_clickhouse
from app.results.exposed_hot import exposed_in_postgres
from app.results.reach import Reach, Watermark, store_reaches
from app.results.routing import Conditions, choose
from app.results.tail import tables_for
from app.results.values import Question, Source, SourceChoice, Subject

log = structlog.get_logger()

# About a hundred megabytes of text in one answer.
_LINES_AT_ONCE = 2_000_000
_ONE_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
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

    async def draw(self, experiment: Experiment, route: Route, wanted: Wanted, write: Write) -> None:
        """Write every user's lines.

        Raises:
            CannotCalibrate: ClickHouse has more of them than can be held, or be split so often.
            StoreDropped, HistoryDropped: events that count were dropped meanwhile.
            StoreUnavailable, ClickHouseUnavailable: the store cannot be reached.
        """
        subject, control_id = Subject.of(experiment), experiment.control.id
        match route:
            case Route(source=Source.HOT):
                await self._from_postgres(subject, control_id, route, wanted.split_by, write)
            case Route(source=Source.COLD, watermark=datetime() as watermark):
                plan = await self._planned_cold(subject, control_id, route, watermark)
                statements = InClickHouse(subject, control_id, plan, watermark, split_by=wanted.split_by)
                await self._from_clickhouse(subject, statements, route, wanted.resplits, write)
            case _:  # Neither store alone, or ClickHouse without knowing up to when it is complete.
                raise AssertionError(route)

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
        plan = await self._planned_hot(subject, control_id, route)
        for sql, parameters in in_postgres(subject, control_id, plan, split_by=split_by):
            await self._copying.copy(sql, parameters, LineForm(), write)
        # What was dropped since the first look is missing.
        async with self._database.read() as connection:
            if not await store_reaches(connection, subject, Question(), look_back(route.chosen.recipes)):
                raise StoreDropped(_LOST_MEANWHILE)

    async def _from_clickhouse(
        self, subject: Subject, statements: InClickHouse, route: Route, resplits: int, write: Write
    ) -> None:
        users, values = await self._size(subject, statements, route.chosen.columns, resplits)
        parts = _parts(users)
        for part in range(parts):
            for row in await self._rows(subject, statements.users(part, parts)):
                await write(_text(row["lines"]))
        for measure in statements.measures:
            parts = _parts(values[measure.index] if measure.quantile is not None else _lines_of(measure, users))
            for part in range(parts):
                rows = await self._rows(subject, statements.numbers(measure, part, parts))
                for row in rows:
                    await write(_text(row["lines"]))
                # The same in every row and part; that it is said again does no harm.
                for side in measure.scaled if rows else ():
                    await write(_text(exponent_line(measure, side, rows[0][side])))
        if not await self._reach.covers(subject, Question(), look_back(route.chosen.recipes)):
            raise HistoryDropped(_LOST_MEANWHILE)

    async def _planned_hot(self, subject: Subject, control_id: int, route: Route) -> Plan:
        """Return what is computed of every user; what a limit leaves of the values is counted as finely as results do.

        An event that comes afterwards may be so large that the units are not fine enough; the metric says so then.
        """
        recipes, exposed = route.chosen.recipes, Exposed(*exposed_in_postgres(subject, Question()))
        async with self._database.read() as connection:
            await connection.execute(_ONE_SNAPSHOT)
            finer = await finer_hot(connection, recipes, asked_of(subject), exposed, control_id)
        return compiled(recipes).with_units(finer)

    async def _planned_cold(self, subject: Subject, control_id: int, route: Route, watermark: datetime) -> Plan:
        recipes = route.chosen.recipes
        who = exposed_in_clickhouse(subject, Question(), watermark, with_tail=False)
        exposed = Exposed(*who, tables_for(subject, None))
        finer = await finer_cold(self._clickhouse, recipes, asked_of(subject), exposed, watermark, control_id)
        return compiled(recipes).with_units(finer)

    async def _size(
        self, subject: Subject, statements: InClickHouse, columns: Sequence[Column], resplits: int
    ) -> tuple[int, Counter[int]]:
        """Return how many users there are, and how many values of each quantile, if these are not too many."""
        users, values = await self._number(subject, statements.counting()), Counter[int]()
        refuse_too_many(columns, users=users, values=0)
        for measure in statements.measures:
            if measure.quantile is not None:
                values[measure.index] = await self._number(subject, statements.counting_values(measure))
                refuse_too_many(columns, users=users, values=values.total())
        refuse_too_long(columns, resplits, users=users, values=values.total())
        return users, values

    async def _number(self, subject: Subject, statement: Statement) -> int:
        (counted,) = await self._rows(subject, statement)
        return int(counted["number"])

    async def _rows(self, subject: Subject, statement: Statement) -> list[dict[str, Any]]:
        sql, parameters = statement
        return await self._clickhouse.rows(sql, parameters, settings=SETTINGS, tables=tables_for(subject, None))


def _lines_of(measure: Measure, users: int) -> int:
    """Return how many lines say the users' numbers at most."""
    return users if measure.covariate is None else 2 * users


def _parts(lines: int) -> int:
    """Return in how many parts so many lines come, which is a power of two."""
    return 1 << (lines // _LINES_AT_ONCE).bit_length()


def _text(lines: str) -> bytes:
    return lines.encode() + b"\n"
