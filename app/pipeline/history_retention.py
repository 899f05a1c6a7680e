"""Retention of the history: months of events are dropped once no experiment needs them.

An event counts from a user's exposure on, so an experiment needs all events since its earliest exposure, which may be
long before its start where assignments were imported. It needs them until its end is longer ago than the retention.

What is dropped is first recorded, and only then, with a pause, dropped: answers that were begun without knowing of
it are finished by then, and those that come later say that the history does not reach back so far. PostgreSQL keeps
the record, too, for the day on which ClickHouse begins anew: what PostgreSQL has dropped as well is then not missed.

Exposures and overrides stay. PostgreSQL keeps every assignment for ever, and they are few beside the events.
"""

from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
import structlog

from app.core.clickhouse import ClickHouse
from app.core.clock import Clock, utc_now
from app.events.messages import MOST_AHEAD
from app.pipeline.schema import alter

log = structlog.get_logger()

# Longer than any answer takes, and any node of a cluster to hear of the decision.
_BETWEEN_DECISION_AND_DROP = timedelta(minutes=10)
# Looking for the earliest exposure reads the assignments of all experiments that go on.
_LOOK_EVERY = timedelta(days=1)
_TIMEOUT_S = 300.0

# Who is neither completed nor archived has ended when the end that was set has passed.
_NEEDED_SINCE = """
WITH needing AS (
    SELECT id FROM experiments
    WHERE coalesce(ended_at, CASE status WHEN 'archived' THEN updated_at WHEN 'draft' THEN NULL ELSE ends_at END, $1)
        >= $1
)
SELECT least(
    (SELECT min(assigned_at) FROM assignments WHERE experiment_id IN (SELECT id FROM needing)),
    (SELECT min(exposed_at) FROM overrides WHERE NOT removed AND experiment_id IN (SELECT id FROM needing))
)
"""

_MONTHS = "SELECT _partition_id AS month FROM events GROUP BY month ORDER BY month"
_DECIDED = (
    "SELECT maxOrNull(ingested_before) AS latest,"
    " maxOrNullIf(ingested_before, decided_at <= {long_ago:DateTime64(6, 'UTC')}) AS due FROM dropped_history"
)
_GIVEN_UP = "SELECT maxOrNull(ingested_before) AS before FROM dropped_history"
_TABLE = "dropped_history"
_KEEP_DECISION = "INSERT INTO given_up_events (ingested_before) VALUES ($1) ON CONFLICT DO NOTHING"
_GIVEN_UP_BY_BOTH = """
SELECT least(given_up.before, dropped.before)
FROM (SELECT max(ingested_before) AS before FROM given_up_events) AS given_up
    JOIN (SELECT max(upper_bound) AS before FROM dropped_partitions) AS dropped
    ON given_up.before IS NOT NULL AND dropped.before IS NOT NULL
"""


async def given_up_before(clickhouse: ClickHouse) -> datetime | None:
    """Return the time of ingestion before which no event belongs in the history any more, `None` if all do.

    Raises:
        ClickHouseUnavailable: it cannot be reached.
    """
    (row,) = await clickhouse.rows(_GIVEN_UP)
    before: datetime | None = row["before"]
    return before


async def hand_down(connection: asyncpg.Connection, clickhouse: ClickHouse) -> None:
    """Tell a history that begins what nobody has any more, because both databases gave it up."""
    before: datetime | None = await connection.fetchval(_GIVEN_UP_BY_BOTH)
    if before is None:
        return
    known = await given_up_before(clickhouse)
    if known is None or known < before:
        await _record(clickhouse, before, utc_now())


class HistoryRetention:
    """Drops months of events that nobody needs any more. One process at a time may do so."""

    def __init__(self, clickhouse: ClickHouse, retention_days: int, *, clock: Clock = utc_now) -> None:
        self._clickhouse = clickhouse
        self._retention = timedelta(days=retention_days)
        self._clock = clock
        self._look_at: datetime | None = None

    async def enforce(self, connection: asyncpg.Connection) -> None:
        """Drop what was decided on a while ago, and decide, once a day, what is next.

        Raises:
            ClickHouseUnavailable: it cannot be reached; what is left is dropped the next time.
        """
        now = self._clock()
        (decided,) = await self._clickhouse.rows(_DECIDED, {"long_ago": now - _BETWEEN_DECISION_AND_DROP})
        if decided["latest"] is not None:
            # PostgreSQL may have been restored from a backup that knows nothing of it.
            await connection.execute(_KEEP_DECISION, decided["latest"])
        months = [row["month"] for row in await self._clickhouse.rows(_MONTHS)]
        if decided["due"] is not None:
            await self._drop([month for month in months if _end(month) <= decided["due"]])
        if self._look_at is None or now >= self._look_at:
            await self._decide(connection, months, decided["latest"], now)
            self._look_at = now + _LOOK_EVERY

    async def _drop(self, months: list[str]) -> None:
        for month in months:
            await alter(self._clickhouse, f"ALTER TABLE events DROP PARTITION ID '{month}'")
            log.info("maintenance.history_month_dropped", month=month)

    async def _decide(
        self, connection: asyncpg.Connection, months: list[str], latest: datetime | None, now: datetime
    ) -> None:
        limit = now - self._retention
        old = [_end(month) for month in months if _end(month) <= limit]
        if not old:
            return
        needed_since: datetime | None = await connection.fetchval(_NEEDED_SINCE, limit, timeout=_TIMEOUT_S)
        kept_from = limit if needed_since is None else min(limit, needed_since - MOST_AHEAD)
        before = max((end for end in old if end <= kept_from), default=None)
        if before is None:
            log.info("maintenance.history_kept", months=len(old), needed_since=str(needed_since))
        elif latest is None or before > latest:
            await connection.execute(_KEEP_DECISION, before)
            await _record(self._clickhouse, before, now)
            log.info("maintenance.history_given_up", ingested_before=before.isoformat())


async def _record(clickhouse: ClickHouse, before: datetime, now: datetime) -> None:
    record = {"ingested_before": before, "decided_at": now}
    await clickhouse.insert_json(_TABLE, [msgspec.json.encode(record)])


def _end(month: str) -> datetime:
    """Return the first moment after a month, which is written as in 202601."""
    year, number = divmod(int(month), 100)
    return datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
