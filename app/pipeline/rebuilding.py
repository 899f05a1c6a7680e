"""Building ClickHouse's tables anew while everything runs, and putting them in place of the old ones.

New tables are filled beside the old ones: from PostgreSQL, and where PostgreSQL has dropped events from the old
tables, or from Kafka as far back as it goes. Then they are exchanged, one after the other. While they are, and until
all was compared once more, nobody may take the history for complete: it gets a new marker first, which ends the
watermark at once, and a pause, in which answers that were begun before come to their end. What the stream brought
to the old tables meanwhile is sent to the new ones from PostgreSQL.

All the while PostgreSQL drops no events: what is neither copied nor sent would be gone with the old tables. Where the
new tables lack rows that nobody else has, they are not put in place, unless the operator accepts that; the old ones
are then kept. They keep their name from before the exchange on, so that no later run takes them for its own.

It may be cut short at any point. Before the exchange nothing has happened to the tables in use. After its beginning
there is no watermark until the service's own reconciliation, or another run, has found and sent what lacks.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.pipeline.comparison import HOUR, Comparison
from app.pipeline.exclusive import advisory_key
from app.pipeline.history import History
from app.pipeline.history_retention import given_up_before
from app.pipeline.lanes import Lane
from app.pipeline.ledger import first_hour, floor_of_events, hour_of, keep_floor, recorded_digests, turn
from app.pipeline.loader import Loader
from app.pipeline.marker import put_new_marker
from app.pipeline.positions import target
from app.pipeline.rollups import invalidate_rollups
from app.pipeline.truth import EVENTS, EXPERIMENTS, EXPOSURES, OVERRIDES, WALK_THE_INDEXES, Subject, Truth
from app.pipeline.watermark import watermark

NEW, OLD = "_rebuilt", "_before_rebuild"
SUBJECTS = (EXPERIMENTS, OVERRIDES, EXPOSURES, EVENTS)
# Longer than any answer takes that was begun with the watermark of before.
_SETTLE_S = 35.0
_DAY = timedelta(days=1)
# Before all rows and after them.
_EVER, _NEVER = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)

_NOW = "SELECT clock_timestamp()"
_TRY_LOCK = "SELECT pg_try_advisory_lock($1)"
_UNLOCK = "SELECT pg_advisory_unlock($1)"
_COPY = f"""
INSERT INTO {EVENTS.table}{NEW} SELECT * FROM {EVENTS.table} FINAL
PREWHERE ingested_at >= {{start:DateTime64(6, 'UTC')}} AND ingested_at < {{end:DateTime64(6, 'UTC')}}
"""  # noqa: S608  # Made of constants.
_COPY_SETTINGS = {"do_not_merge_across_partitions_select_final": 1}

Say = Callable[[str], None]
# Fills the new tables from elsewhere, with the loader that it is given.
Fill = Callable[[Loader], Awaitable[None]]


class NewTables(ClickHouse):
    """The same database; rows for the tables that are rebuilt go to the new ones."""

    async def insert_json(self, table: str, lines: Sequence[bytes], *, token: str | None = None) -> None:
        renamed = table + NEW if table in {subject.table for subject in SUBJECTS} else table
        await super().insert_json(renamed, lines, token=token)


class CannotRebuild(Exception):
    """It is no time to rebuild; the message says why."""


class Rebuilding:
    """One run. `new_tables` is the same ClickHouse as `clickhouse`."""

    def __init__(
        self,
        database: Database,
        connection: asyncpg.Connection,
        clickhouse: ClickHouse,
        *,
        loader: Loader,
        new_loader: Loader,
        lanes: Sequence[Lane],
        say: Say,
        settle_s: float = _SETTLE_S,
    ) -> None:
        self._connection = connection
        self._clickhouse = clickhouse
        self._loader = loader
        self._new_loader = new_loader
        self._lanes = lanes
        self._say = say
        self._settle_s = settle_s
        self._truth = Truth(connection, database)

    async def run(self, *, fill: Fill | None = None, drop_old: bool = False, accepted_loss: int = 0) -> int:
        """Fill, exchange, send what came meanwhile; return how many rows lack that nobody has any more.

        If that many are more than `accepted_loss`, the new tables are not put in place.

        Raises:
            CannotRebuild: the stream does not run, another run is at work, or rows would be lost.
            ClickHouseUnavailable: it cannot be reached; run it again.
        """
        async with self._alone(), keep_floor(self._connection):
            await self._connection.execute(WALK_THE_INDEXES)
            settled_until = await self._settled_until()
            await self._make_tables()
            if fill is not None:
                await fill(self._new_loader)
            await self._copy_dropped()
            await self._fill(settled_until)
            lost = await self._verify(settled_until)
            await self._refuse_loss(lost, accepted_loss)
            await self._put_in_place(settled_until)
            await self._put_away(drop=drop_old and not lost)
        return lost

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Keep others from making the same tables."""
        key = advisory_key(f"rebuild:{await target(self._clickhouse)}")
        if not await self._connection.fetchval(_TRY_LOCK, key):
            raise CannotRebuild("another rebuild is at work on this ClickHouse")
        try:
            yield
        finally:
            await self._connection.execute(_UNLOCK, key)

    async def _refuse_loss(self, lost: int, accepted: int) -> None:
        if lost > accepted:
            raise CannotRebuild(
                f"{lost} rows lack in the new tables that PostgreSQL cannot send; the tables in use are as they were."
                f" Restore them first, or give --accept-loss {lost}"
            )
        if lost and (kept := await self._kept_from_before()):
            raise CannotRebuild(
                f"{', '.join(kept)}: kept by an earlier run, and may hold rows that lack. Drop or rename them first"
            )

    async def _kept_from_before(self) -> list[str]:
        wanted = {subject.table + OLD for subject in SUBJECTS}
        return sorted(wanted & {row["name"] for row in await self._clickhouse.rows("SHOW TABLES")})

    async def _put_in_place(self, filled_until: datetime) -> None:
        # The stream went on while the tables were filled; so little is left to send while there is no watermark.
        settled_until = await self._settled_until()
        await self._send_all(filled_until, await self._now(), self._new_loader)
        await self._make_way()
        async with turn(self._connection, self._clickhouse):
            await put_new_marker(self._clickhouse)
            self._say(f"no watermark from now on; waiting {self._settle_s:g} s for answers that are under way")
            await asyncio.sleep(self._settle_s)
            await self._exchange()
            await invalidate_rollups(self._clickhouse, _EVER)
            # An insert that was under way went to an old table; its rows were committed by now.
            await self._send_all(settled_until, await self._now(), self._loader)

    async def _settled_until(self) -> datetime:
        """Return the time of ingestion before which every row is committed."""
        moment = await watermark(self._clickhouse, self._lanes)
        if moment is None:
            raise CannotRebuild("no beat has come through every lane yet; the service and the loader have to run")
        return moment

    async def _now(self) -> datetime:
        now: datetime = await self._connection.fetchval(_NOW)
        return now

    async def _make_tables(self) -> None:
        for subject in SUBJECTS:
            await self._clickhouse.command(f"DROP TABLE IF EXISTS {subject.table}{NEW} SYNC")
            await self._clickhouse.command(f"CREATE TABLE {subject.table}{NEW} AS {subject.table}")

    async def _copy_dropped(self) -> None:
        """Take what PostgreSQL has dropped from the old table."""
        floor = await floor_of_events(self._connection)
        if floor is None:
            return
        hour = await self._needed_since()
        while hour < floor:
            end = min(hour + HOUR, floor)
            await self._clickhouse.insert_selected(_COPY, {"start": hour, "end": end}, settings=_COPY_SETTINGS)
            hour = end
        self._say(f"events before {floor:%Y-%m-%d}: copied, since PostgreSQL has dropped them")

    async def _fill(self, until: datetime) -> None:
        floor = await floor_of_events(self._connection)
        for subject in (EXPERIMENTS, OVERRIDES):
            await self._send(subject, _EVER, _NEVER, self._new_loader)
        for subject in (EXPOSURES, EVENTS):
            start = await first_hour(self._connection)
            if subject is EVENTS:
                start = max(await self._needed_since(), floor or start)
            sent = 0
            while start < until:
                end = min(start + _DAY, until)
                sent += await self._send(subject, start, end, self._new_loader)
                self._say(f"{subject.table} until {end:%Y-%m-%d %H:%M}: {sent} rows")
                start = end

    async def _needed_since(self) -> datetime:
        first, given_up = await first_hour(self._connection), await given_up_before(self._clickhouse)
        return first if given_up is None else max(first, given_up)

    async def _verify(self, until: datetime) -> int:
        """Compare the new tables with the truth, hour by hour, and send what they lack."""

        async def announce(_since: datetime) -> None:
            """Nobody reads these tables yet."""

        history = History(self._clickhouse, suffix=NEW)
        comparison = Comparison(self._truth, history, self._new_loader, announce=announce)
        lost = 0
        for subject in (EXPOSURES, EVENTS):
            start = await first_hour(self._connection)
            while start + HOUR <= until:
                end = min(start + _DAY, hour_of(until))
                outcomes = await comparison.hours(
                    subject,
                    start,
                    end,
                    recorded=await recorded_digests(self._connection, subject, start, end),
                    given_up_before=await given_up_before(self._clickhouse) if subject is EVENTS else None,
                )
                lost += sum(outcome.missing for outcome in outcomes.values())
                start = end
        self._say("the new tables were compared with PostgreSQL" + (f"; rows that lack: {lost}" if lost else ""))
        return lost

    async def _send_all(self, since: datetime, until: datetime, loader: Loader) -> None:
        sent = 0
        for subject in (EXPERIMENTS, OVERRIDES):
            sent += await self._send(subject, _EVER, _NEVER, loader)
        for subject in (EXPOSURES, EVENTS):
            sent += await self._send(subject, since, until, loader)
        self._say(f"rows that came meanwhile, and experiments and overrides: {sent}")

    async def _send(self, subject: Subject, start: datetime, end: datetime, loader: Loader) -> int:
        sent = 0
        async with aclosing(self._truth.rows(subject, start, end)) as stored:
            async for rows in stored:
                await loader.load([row.message for row in rows])
                sent += len(rows)
        return sent

    async def _make_way(self) -> None:
        """Give the new tables the name that the old ones will have."""
        for subject in SUBJECTS:
            await self._clickhouse.command(f"DROP TABLE IF EXISTS {subject.table}{OLD} SYNC")
            await self._clickhouse.command(f"RENAME TABLE {subject.table}{NEW} TO {subject.table}{OLD}")

    async def _exchange(self) -> None:
        for subject in SUBJECTS:
            await self._clickhouse.command(f"EXCHANGE TABLES {subject.table} AND {subject.table}{OLD}")
        self._say("the new tables are in place")

    async def _put_away(self, *, drop: bool) -> None:
        if not drop:
            self._say(f"the old tables are kept as <table>{OLD}")
            return
        for subject in SUBJECTS:
            await self._clickhouse.command(f"DROP TABLE {subject.table}{OLD} SYNC")
