"""The builder of rollups: counts what was ingested in hours that are over, from deduplicated rows.

A step is built under an id of its own and counts only once a manifest names it, so that an attempt that is cut short
or made twice is never seen. Manifests of who had the lock earlier have lower versions, so nobody who has lost it
without noticing can bring his steps into force any more.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import asyncpg
import structlog

from app.core.clickhouse import ClickHouse, ClickHouseTooSlow
from app.core.clock import Clock, utc_now
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import PipelineSettings
from app.events.messages import MOST_AHEAD
from app.pipeline.exclusive import Exclusive, Progress
from app.pipeline.positions import target
from app.pipeline.rollup_sql import (
    ENTRIES,
    MERGED,
    MERGED_UNITS,
    NEW_EVENTS,
    OLD_EVENTS,
    OLD_ROWS_BY_DAY,
    ROWS_BY_DAY,
    ROWS_BY_HOUR,
    SETTINGS,
    STORED_STEPS,
    TABLES,
    UNITS,
    UNKNOWN,
)
from app.pipeline.schema import alter
from app.rollups.repository import Manifest, Retired, RollupRepository, Rollups
from app.rollups.steps import (
    DAY,
    HOUR,
    ORIGIN,
    Step,
    built_until,
    floor,
    mergeable,
    next_end,
    seen_before,
    stretches,
)

log = structlog.get_logger()

Watermark = Callable[[], Awaitable[datetime | None]]

# A clock that is set back by less than this puts no row into an hour that was taken for over.
_MARGIN = timedelta(minutes=10)
# One that is set back by more is noticed by counting again what the last steps are made of.
_COUNTED_AGAIN = timedelta(days=2)
# Where much waits, steps are days: each reads all parts of its months.
_MOST_STEP_ROWS = 20_000_000
# What one insert joins and counts in memory, about 100 bytes a row.
_SLICE_ROWS = 2_000_000
# What one insert reads of earlier events; it holds in memory those of the step's users alone.
_READ_ROWS = 20_000_000
# Work that took too long is done in pieces half as large the next time, down to this part of what is usual.
_FINEST = 256
# It may fail again, so it gets a tenth of the time at most.
_REST = 9
# Whoever has read a manifest has read its rows by then.
_KEPT_AFTER_RETIREMENT = timedelta(hours=1)
# Rows of a step that no manifest names are those of an attempt that was cut short, if they are as old as this.
_LONGEST_ATTEMPT = timedelta(days=1)

# Who takes the lock begins above all versions of who had it before; none ever publishes as often as this.
_VERSIONS_OF_ONE_HOLDER = 2**20
_TAKE_XID = "SELECT pg_current_xact_id()::text::bigint"
_STILL_CONNECTED = "SELECT 1"

_US = timedelta(microseconds=1)
_EPOCH_US = (ORIGIN - datetime(1970, 1, 1, tzinfo=ORIGIN.tzinfo)) // _US


async def invalidate_rollups(clickhouse: ClickHouse, since: datetime) -> None:
    """Have everything counted anew that was ingested in the hour of `since` or later.

    To be called after rows were put into hours that are over, or taken out of them, and before that is recorded as
    done: then whoever is cut short in between does it again.

    Raises:
        ClickHouseUnavailable: it cannot be reached.
    """
    await RollupRepository(clickhouse).invalidate(floor(since, HOUR))


class RollupBuilder:
    """Builds step after step, as far as the watermark allows; one process at a time does for each ClickHouse."""

    def __init__(
        self,
        database: Database,
        clickhouse: ClickHouse,
        settings: PipelineSettings,
        metrics: Metrics,
        watermark: Watermark,
        *,
        clock: Clock = utc_now,
        most_step_rows: int = _MOST_STEP_ROWS,
        slice_rows: int = _SLICE_ROWS,
        read_rows: int = _READ_ROWS,
    ) -> None:
        self._clickhouse = clickhouse
        self._rollups = RollupRepository(clickhouse)
        self._metrics = metrics
        self._watermark = watermark
        self._clock = clock
        self._every_s = settings.rollup_s
        self._most_step_rows = most_step_rows
        self._slice_rows = slice_rows
        self._read_rows = read_rows
        self._fineness = 1
        self._began_s = 0.0
        self._version = 0
        self._last_id = 0
        # Those of this object that no manifest will ever name.
        self._abandoned: set[int] = set()
        self._exclusive = Exclusive(database, self._keep_building, name="rollups", lock=self._lock)

    async def run(self) -> None:
        """Build until cancelled."""
        await self._exclusive.run()

    async def take_over(self, connection: asyncpg.Connection) -> None:
        """Begin above every version of who had the lock before, and of who still believes to have it."""
        newest = (await self._rollups.get()).version
        xid = await connection.fetchval(_TAKE_XID)
        self._version = max(xid * _VERSIONS_OF_ONE_HOLDER, newest + _VERSIONS_OF_ONE_HOLDER)

    async def build_next(self, connection: asyncpg.Connection) -> bool:
        """Build one step, or merge some; return whether there was anything to do."""
        self._began_s = time.monotonic()
        watermark = await self._watermark()
        if watermark is None:
            return False
        rollups = await self._rollups.get()
        if watermark < built_until(rollups.steps):
            # The clock was set back: rows are ingested once more in hours that were over.
            log.warning("rollups.clock_set_back", built_until=built_until(rollups.steps), watermark=watermark)
            await self._rollups.invalidate(floor(watermark, HOUR))
            return True
        if parts := mergeable(rollups.steps):
            await self._merge(connection, rollups, parts)
            return True
        closed_until = floor(watermark - _MARGIN, HOUR)
        if built_until(rollups.steps) >= closed_until:
            self._metrics.rollups_built_until.set(built_until(rollups.steps).timestamp())
            return False
        return await self._extend(connection, rollups, closed_until)

    async def check(self) -> None:
        """Count again what the last steps are made of: more rows than there were make a step void."""
        steps = (await self._rollups.get()).steps
        recent = [step for step in steps if step.until > built_until(steps) - _COUNTED_AGAIN]
        if not recent:
            return
        rows = await self._rows_by_hour(recent[0].since, recent[-1].until)
        for step in recent:
            if _rows_in(rows, step.since, step.until) > step.rows:
                log.warning("rollups.rows_added", since=step.since, until=step.until)
                await self._rollups.invalidate(step.since)
                return

    async def clean(self) -> None:
        """Delete rows that nobody reads any more: those of retired steps, and of attempts that were cut short."""
        now = self._clock()
        manifest = (await self._rollups.get()).manifest
        retired = {retired.id for retired in manifest.retired if retired.at < now - _KEPT_AFTER_RETIREMENT}
        known = {step.id for step in manifest.steps} | {retired.id for retired in manifest.retired}
        old = int((now - _LONGEST_ATTEMPT).timestamp()) * 10**9
        stored = {row["step"] for row in await self._clickhouse.rows(STORED_STEPS)}
        cut_short = {id_ for id_ in stored - known if id_ < old or id_ in self._abandoned}
        for step in sorted((stored & retired) | cut_short):
            for table in TABLES:
                await alter(self._clickhouse, f"ALTER TABLE {table} DELETE WHERE step = {step}")
        # What reaches the tables after that is deleted when it is old.
        self._abandoned.clear()
        if retired:
            kept = tuple(retired_step for retired_step in manifest.retired if retired_step.id not in retired)
            await self._put(Manifest(manifest.steps, kept))

    async def _keep_building(self, connection: asyncpg.Connection, progressed: Progress) -> None:
        await self.take_over(connection)
        await self.clean()
        while True:
            try:
                await self._build_all(connection, progressed)
                pause_s = self._every_s
            except ClickHouseTooSlow:
                took_s = time.monotonic() - self._began_s
                self._fineness = min(self._fineness * 2, _FINEST)
                log.warning("rollups.too_slow", took_s=round(took_s), next_pieces=f"1/{self._fineness}")
                await self.clean()
                pause_s = max(self._every_s, took_s * _REST)
            await asyncio.sleep(pause_s)

    async def _build_all(self, connection: asyncpg.Connection, progressed: Progress) -> None:
        built = False
        while await self.build_next(connection):
            built = True
            progressed()
        if built:
            await self.check()
            await self.clean()
        progressed()

    async def _extend(self, connection: asyncpg.Connection, rollups: Rollups, closed_until: datetime) -> bool:
        since = built_until(rollups.steps)
        by_day = await self._clickhouse.rows(ROWS_BY_DAY, {"since": since})
        rows_by_day = {row["day"]: row["rows"] for row in by_day}
        until = next_end(since, closed_until, rows_by_day, most_rows=self._most_step_rows // self._fineness)
        unknown = await self._clickhouse.rows(UNKNOWN, {"since": since, "until": until})
        if unknown:  # Their project is not known either, so nobody can tell which events are theirs.
            log.warning("rollups.experiments_unknown", ids=[row["experiment_id"] for row in unknown])
            return False
        # Before any row is read: what is invalidated from now on may or may not be seen.
        seen = seen_before(until, rollups.invalidated)
        rows = _rows_in(await self._rows_by_hour(since, until), since, until)
        step = Step(self._new_id(), since, until, rows, seen)
        with self._metrics.rollup_duration.time():
            if rows:
                with self._abandoned_if_it_fails(step):
                    await self._count(step, [step.id for step in rollups.steps])
        self._fineness = max(self._fineness // 2, 1)
        await self._publish(connection, rollups, [*rollups.steps, step])
        return True

    @contextmanager
    def _abandoned_if_it_fails(self, step: Step) -> Iterator[None]:
        try:
            yield
        except Exception:
            self._abandoned.add(step.id)
            raise

    async def _count(self, step: Step, earlier: Sequence[int]) -> None:
        parameters = {
            "step": step.id,
            "earlier": earlier,
            "steps": [*earlier, step.id],
            "since": step.since,
            "until": step.until,
            "origin_us": _EPOCH_US,
            "width_us": HOUR // _US,
            "most_ahead_us": MOST_AHEAD // _US,
        }
        await self._insert(UNITS, parameters)
        await self._insert(ENTRIES, parameters)
        # Slices of users for what is held in memory, stretches of days for what is read.
        slices = 1 + step.rows // max(self._slice_rows // self._fineness, 1)
        old_rows = await self._clickhouse.rows(
            OLD_ROWS_BY_DAY,
            {name: parameters[name] for name in ("step", "since", "most_ahead_us")},
            settings=SETTINGS,
        )
        old = stretches({row["day"]: row["rows"] for row in old_rows}, most_rows=self._read_rows // self._fineness)
        parts = count(1)
        for number in range(slices):
            sliced = parameters | {"slices": slices, "slice": number}
            await self._insert(NEW_EVENTS, sliced | {"part": next(parts)})
            for first_day, end_day in old:
                days = {"first_day": first_day, "end_day": end_day}
                await self._insert(OLD_EVENTS, sliced | days | {"part": next(parts)})
        if step.has_days:
            await self._insert(MERGED, parameters | {"steps": [step.id], "width": "day", "width_us": DAY // _US})

    async def _merge(self, connection: asyncpg.Connection, rollups: Rollups, parts: Sequence[Step]) -> None:
        """Make one step of the parts of a day, in buckets of hours as before and of days."""
        step = Step(self._new_id(), parts[0].since, parts[-1].until, sum(part.rows for part in parts), parts[-1].seen)
        parameters = {"step": step.id, "steps": [part.id for part in parts], "origin_us": _EPOCH_US}
        with self._abandoned_if_it_fails(step):
            await self._insert(MERGED_UNITS, parameters)
            for width, length in (("hour", HOUR), ("day", DAY)):
                await self._insert(MERGED, parameters | {"width": width, "width_us": length // _US})
        await self._publish(connection, rollups, [*rollups.steps[: -len(parts)], step])

    async def _publish(self, connection: asyncpg.Connection, rollups: Rollups, steps: Sequence[Step]) -> None:
        await connection.fetchval(_STILL_CONNECTED)  # Whose connection is lost has lost the lock.
        await self._put(Manifest(tuple(steps), self._retired(rollups.manifest, steps)))
        self._metrics.rollups_built_until.set(built_until(steps).timestamp())
        last = steps[-1]
        log.info("rollups.built", since=last.since.isoformat(), until=last.until.isoformat(), rows=last.rows)

    def _retired(self, manifest: Manifest, steps: Sequence[Step]) -> tuple[Retired, ...]:
        kept = {step.id for step in steps}
        now = self._clock()
        return (*manifest.retired, *(Retired(step.id, now) for step in manifest.steps if step.id not in kept))

    async def _put(self, manifest: Manifest) -> None:
        self._version += 1
        await self._rollups.put(self._version, manifest)

    async def _insert(self, sql: str, parameters: Mapping[str, Any]) -> None:
        await self._clickhouse.insert_selected(sql, parameters, settings=SETTINGS)

    async def _rows_by_hour(self, since: datetime, until: datetime) -> Mapping[datetime, int]:
        rows = await self._clickhouse.rows(ROWS_BY_HOUR, {"since": since, "until": until}, settings=SETTINGS)
        return {row["hour"]: row["rows"] for row in rows}

    def _new_id(self) -> int:
        self._last_id = max(time.time_ns(), self._last_id + 1)
        return self._last_id

    async def _lock(self) -> str:
        return f"rollups:{await target(self._clickhouse)}"


def _rows_in(rows_by_hour: Mapping[datetime, int], since: datetime, until: datetime) -> int:
    return sum(rows for hour, rows in rows_by_hour.items() if since <= hour < until)
