"""Reconciliation: each hour of ingestion is compared between PostgreSQL and ClickHouse, and repaired.

An hour is compared once it is closed, that is, once the watermark has passed its end; and again in rotation, so that
what ClickHouse loses later is found. Every round does a bounded amount of work. What was found is kept in PostgreSQL.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg
import structlog

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import PipelineSettings
from app.pipeline.comparison import EVER, HOUR, Comparison
from app.pipeline.exclusive import Exclusive, Progress
from app.pipeline.history import History
from app.pipeline.history_retention import given_up_before
from app.pipeline.lanes import RELAY_LANES, Lane
from app.pipeline.ledger import (
    Finding,
    Ledger,
    first_hour,
    floor_of_events,
    history_key,
    hour_of,
    nothing_before,
    recorded_digests,
    turn,
)
from app.pipeline.loader import Loader
from app.pipeline.marker import advance, current_history
from app.pipeline.positions import target
from app.pipeline.rollups import invalidate_rollups
from app.pipeline.truth import EVENTS, EXPERIMENTS, EXPOSURES, OVERRIDES, WALK_THE_INDEXES, Truth
from app.pipeline.watermark import watermark

log = structlog.get_logger()

# Small steps of the clock are forgiven: rows that are ingested at a time that has been compared wait for rotation.
_MARGIN = timedelta(seconds=10)
# Hours that have never been compared, and hours that are compared again, in one round.
_MOST_HOURS = 24
# Of hours that are compared again, where rows are missing and of all the others; PostgreSQL looks at about a million
# rows a second.
_MOST_AGAIN, _MOST_ROWS_AGAIN = 12, 500_000
_PAUSE_IF_MORE_S = 0.5
# What is missing still after it was sent may never arrive. Each time, twice as much passes before it is sent again.
_LONGEST_REST_S = 3600.0
# There is no watermark then.
_PAUSE_IF_UNPROVEN_S = 1.0
# At most a tenth of the time is spent comparing again.
_REST = 9

_BY_HOUR = (EVENTS, EXPOSURES)
_AS_A_WHOLE = (OVERRIDES, EXPERIMENTS)


class NothingProven(Exception):
    """No beat has come through every lane yet, so that no hour is known to be closed."""


@dataclass(frozen=True, slots=True)
class Round:
    """What a round did. `more`: hours are left that were never compared."""

    repaired: int
    more: bool
    proven: bool


@dataclass(frozen=True, slots=True)
class _Rest:
    """An hour that is left alone for a while, which has so many rows."""

    row_count: int
    length_s: float
    until_s: float


class Reconciliation:
    """Compares and repairs, one process at a time for each ClickHouse."""

    def __init__(
        self,
        database: Database,
        clickhouse: ClickHouse,
        loader: Loader,
        settings: PipelineSettings,
        metrics: Metrics,
        *,
        lanes: Sequence[Lane] = RELAY_LANES,
        margin: timedelta = _MARGIN,
    ) -> None:
        self._database = database
        self._clickhouse = clickhouse
        self._loader = loader
        self._every_s = settings.reconcile_s
        self._metrics = metrics
        self._lanes = lanes
        self._margin = margin
        self._resting: dict[datetime, _Rest] = {}
        self._exclusive = Exclusive(database, self._keep_reconciling, name="reconciliation", lock=self._lock)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._exclusive.run()

    async def round(self, connection: asyncpg.Connection) -> Round:
        """Do one round, unless another program is at work on this history.

        Raises:
            ClickHouseUnavailable: it cannot be reached; what was repaired so far stays.
        """
        key = await history_key(self._clickhouse)
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", key):
            return Round(0, more=False, proven=True)
        try:
            return await self._round(connection)
        finally:
            await connection.execute("SELECT pg_advisory_unlock($1)", key)

    async def again(
        self, connection: asyncpg.Connection, since: datetime | None, until: datetime | None
    ) -> AsyncGenerator[Sequence[Finding], None]:
        """Compare closed hours now, whenever they were compared last, and then what is compared as a whole.

        Takes turns with whoever else is at work on this history.

        Raises:
            ClickHouseUnavailable: it cannot be reached; what was repaired so far stays.
            NothingProven: there is no watermark, so no hour is closed.
        """
        await connection.execute(WALK_THE_INDEXES)
        proven_until = await watermark(self._clickhouse, self._lanes)
        if proven_until is None:
            raise NothingProven
        settled_before = proven_until - self._margin
        start = await first_hour(connection) if since is None else hour_of(since)
        end = hour_of(settled_before) if until is None else min(hour_of(until), hour_of(settled_before))
        while start < end:
            stop = min(start + _MOST_HOURS * HOUR, end)
            async with turn(connection, self._clickhouse):
                ledger = await self._ledger(connection)
                findings = await self._compare_hours(connection, ledger, list(_hours(start, stop)))
            yield findings
            start = stop
        async with turn(connection, self._clickhouse):
            findings = await self._compare_as_a_whole(connection, await self._ledger(connection), settled_before)
        yield findings

    async def _round(self, connection: asyncpg.Connection) -> Round:
        await connection.execute(WALK_THE_INDEXES)
        marker = await current_history(connection, self._clickhouse)
        ledger = Ledger(connection, marker.id)
        await self._finish_cut_short_repair(ledger)
        proven_until = await watermark(self._clickhouse, self._lanes)
        if proven_until is None:
            return Round(0, more=False, proven=await _prove_if_new(connection, ledger))
        settled_before = proven_until - self._margin
        first, limit = await first_hour(connection), hour_of(settled_before)
        new = await ledger.not_compared(first, limit, _MOST_HOURS + 1)
        hours = new[:_MOST_HOURS]
        for with_missing in (True, False):
            hours += await self._due_again(ledger, with_missing=with_missing)
        findings = [
            *await self._compare_hours(connection, ledger, sorted(set(hours))),
            *await self._compare_as_a_whole(connection, ledger, settled_before),
        ]
        proven = await self._is_proven(connection, ledger, first, settled_before)
        await ledger.finish(await ledger.reconciled_until(first, limit), proven=proven)
        await advance(connection, self._clickhouse, marker)
        repaired = sum(finding.outcome.repaired for finding in findings)
        return Round(repaired, more=len(new) > _MOST_HOURS, proven=proven)

    async def _due_again(self, ledger: Ledger, *, with_missing: bool) -> list[datetime]:
        """Return hours that were compared long ago, without those that rest."""
        now_s = time.monotonic()
        resting = {hour: rest for hour, rest in self._resting.items() if rest.until_s > now_s}
        hours = await ledger.compared_long_ago(
            with_missing=with_missing,
            most=_MOST_AGAIN + len(resting),
            most_rows=_MOST_ROWS_AGAIN + sum(rest.row_count for rest in resting.values()),
        )
        return [hour for hour in hours if hour not in resting][:_MOST_AGAIN]

    async def _is_proven(
        self, connection: asyncpg.Connection, ledger: Ledger, first: datetime, settled_before: datetime
    ) -> bool:
        """Tell whether all that was committed before the history was adopted has been compared, and nothing lacks."""
        if await ledger.missing_rows():
            return False
        standing = await ledger.standing()
        if standing.proven or await nothing_before(connection, standing.adopted_at):
            return True
        since = hour_of(standing.adopted_at)
        if settled_before < standing.adopted_at or await ledger.lacks(first, since):
            return False
        comparison = self._comparison(connection, ledger)
        outcomes = [await comparison.span(subject, since, standing.adopted_at) for subject in _BY_HOUR]
        await self._finish_repair(ledger, [since for outcome in outcomes if outcome.changed])
        return not any(outcome.missing for outcome in outcomes)

    async def _compare_hours(
        self, connection: asyncpg.Connection, ledger: Ledger, hours: Sequence[datetime]
    ) -> list[Finding]:
        """Compare, repair and record hours."""
        await self._finish_cut_short_repair(ledger)
        comparison = self._comparison(connection, ledger)
        findings: list[Finding] = []
        given_up = await given_up_before(self._clickhouse)
        for start, end in _runs(hours):
            for subject in _BY_HOUR:
                floor = await floor_of_events(connection)
                outcomes = await comparison.hours(
                    subject,
                    start,
                    end,
                    recorded=await recorded_digests(connection, subject, start, end),
                    given_up_before=given_up if subject is EVENTS else None,
                )
                await self._finish_repair(ledger, [hour for hour, outcome in outcomes.items() if outcome.changed])
                if floor != await floor_of_events(connection):
                    continue  # What was read may have been what was left; what was there is on record.
                found = [Finding(subject, hour, outcome) for hour, outcome in outcomes.items()]
                await self._record(ledger, found)
                findings += found
        self._let_rest(findings)
        return findings

    def _let_rest(self, findings: Sequence[Finding]) -> None:
        """Leave hours alone in which nothing arrived that was sent."""
        stuck = {hour for _, hour, outcome in findings if outcome.missing and not outcome.repaired}
        for hour in {hour for _, hour, _ in findings}:
            last = self._resting.pop(hour, None)
            if hour in stuck:
                row_count = sum(finding.outcome.truth.row_count for finding in findings if finding.hour == hour)
                length_s = self._every_s if last is None else min(last.length_s * 2, _LONGEST_REST_S)
                self._resting[hour] = _Rest(row_count, length_s, time.monotonic() + length_s)

    async def _compare_as_a_whole(
        self, connection: asyncpg.Connection, ledger: Ledger, settled_before: datetime
    ) -> list[Finding]:
        comparison = self._comparison(connection, ledger)
        found = [Finding(subject, EVER, await comparison.whole(subject, settled_before)) for subject in _AS_A_WHOLE]
        await self._record(ledger, found)
        return found

    async def _finish_cut_short_repair(self, ledger: Ledger) -> None:
        """Have counted anew what somebody sent rows to who did not come to say whether they arrived."""
        since = await ledger.repairing_since()
        if since is not None:
            await invalidate_rollups(self._clickhouse, since)
            await ledger.end_repair()

    async def _finish_repair(self, ledger: Ledger, changed: Sequence[datetime]) -> None:
        """Have counted anew what was counted of hours that hold something else now."""
        if changed:
            await invalidate_rollups(self._clickhouse, min(changed))
        await ledger.end_repair()

    async def _record(self, ledger: Ledger, findings: Sequence[Finding]) -> None:
        for subject, hour, outcome in findings:
            told = {"subject": subject.table, "hour": hour.isoformat()}
            if outcome.repaired:
                log.warning("reconciliation.repaired", **told, rows=outcome.repaired)
                self._metrics.reconciliation_repaired.inc(outcome.repaired)
            if outcome.missing or outcome.extra:
                log.error("reconciliation.open", **told, missing=outcome.missing, extra=outcome.extra)
        await ledger.record(findings)

    def _comparison(self, connection: asyncpg.Connection, ledger: Ledger) -> Comparison:
        truth, history = Truth(connection, self._database), History(self._clickhouse)
        return Comparison(truth, history, self._loader, announce=ledger.begin_repair)

    async def _ledger(self, connection: asyncpg.Connection) -> Ledger:
        return Ledger(connection, (await current_history(connection, self._clickhouse)).id)

    async def _keep_reconciling(self, connection: asyncpg.Connection, progressed: Progress) -> None:
        while True:
            began_s = time.monotonic()
            done = await self.round(connection)
            progressed()
            await asyncio.sleep(self._pause_s(done, time.monotonic() - began_s))

    def _pause_s(self, done: Round, took_s: float) -> float:
        if done.more:
            return _PAUSE_IF_MORE_S
        return max(self._every_s if done.proven else min(self._every_s, _PAUSE_IF_UNPROVEN_S), took_s * _REST)

    async def _lock(self) -> str:
        return f"reconciliation:{await target(self._clickhouse)}"


async def _prove_if_new(connection: asyncpg.Connection, ledger: Ledger) -> bool:
    """Take a history for proven if there was nothing before it: whatever comes then comes by the stream."""
    standing = await ledger.standing()
    if standing.proven or not await nothing_before(connection, standing.adopted_at):
        return standing.proven
    await ledger.prove()
    return True


def _hours(start: datetime, end: datetime) -> Iterator[datetime]:
    while start < end:
        yield start
        start += HOUR


def _runs(hours: Sequence[datetime]) -> Iterator[tuple[datetime, datetime]]:
    """Return stretches of hours that follow each other."""
    start = end = None
    for hour in hours:
        if hour != end:
            if start is not None and end is not None:
                yield start, end
            start = hour
        end = hour + HOUR
    if start is not None and end is not None:
        yield start, end
