"""Months of events are dropped when no experiment needs them, and never before it is recorded."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import PipelineSettings
from app.pipeline.history_retention import HistoryRetention
from app.pipeline.loader import Loader
from app.pipeline.maintenance import Maintenance, delivered_by_relay
from app.pipeline.reconciliation import Reconciliation
from app.pipeline.watermark import Heartbeat
from tests.pipeline.outbox_run import column, drain
from tests.pipeline.stored import store_events_at

NOW = datetime(2027, 6, 15, 12, tzinfo=UTC)
RETENTION_DAYS = 90
# The first that has not ended by the retention's limit, 2027-03-17.
MONTHS = [datetime(2026, 12, 15, tzinfo=UTC), *(datetime(2027, month, 15, tzinfo=UTC) for month in range(1, 7))]
OLD = ["202612", "202701", "202702"]
LONG_AGO, LATELY = datetime(2027, 3, 1, tzinfo=UTC), datetime(2027, 4, 1, tzinfo=UTC)

EXPERIMENT = """
INSERT INTO experiments (project_id, key, name, status, seed, traffic_pct, started_at, ends_at, ended_at, updated_at,
    change_epoch)
VALUES (1, 'e' || $1, 'Test', $2, 'seed', 100, CASE WHEN $2 <> 'draft' THEN timestamptz '2026-01-01Z' END,
    $3, $4, $5, 1)
RETURNING id
"""
VARIANTS = """
INSERT INTO variants (experiment_id, key, name, position, allocation_pct, is_control, bucket_start, bucket_end)
SELECT $1, 'v' || i, 'Test', i, 50, i = 0, i * 5000, (i + 1) * 5000 FROM generate_series(0, 1) AS i
"""
ASSIGN = """
INSERT INTO assignments (experiment_id, user_id, variant_id, source, experiment_version, assigned_at)
SELECT $1, 'u', id, 'import', 1, $2 FROM variants WHERE experiment_id = $1 AND is_control
"""
OVERRIDE = """
INSERT INTO overrides (experiment_id, user_id, variant_id, exposed_at, removed, change_epoch)
SELECT $1, 'u', CASE WHEN NOT $3 THEN id END, $2, $3, 1 FROM variants WHERE experiment_id = $1 AND is_control
"""

Make = Callable[..., Awaitable[int]]


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def retention(clickhouse: ClickHouse, clock: Clock) -> HistoryRetention:
    return HistoryRetention(clickhouse, RETENTION_DAYS, clock=clock)


@pytest.fixture
async def history(clickhouse: ClickHouse) -> ClickHouse:
    """One with an event in the middle of each month."""
    await clickhouse.insert_json("events", [_event(at) for at in MONTHS])
    return clickhouse


@pytest.fixture
def make(postgres: asyncpg.Connection) -> Make:
    """A function that stores an experiment with at most one exposure and returns its id."""

    async def one(
        status: str,
        *,
        ends_at: datetime | None = None,
        ended_at: datetime | None = None,
        updated_at: datetime = NOW,
        exposed_at: datetime | None = None,
    ) -> int:
        async with postgres.transaction():
            await postgres.execute("INSERT INTO projects (key, name) VALUES ('p', 'Test') ON CONFLICT DO NOTHING")
            experiment_id: int = await postgres.fetchval(
                EXPERIMENT, uuid4().hex[:8], status, ends_at, ended_at, updated_at
            )
            await postgres.execute(VARIANTS, experiment_id)
        if exposed_at is not None:
            await postgres.execute(ASSIGN, experiment_id, exposed_at)
        return experiment_id

    return one


async def test_enforce__nobody_needs_them__drops_old_months_and_keeps_the_others(
    history: ClickHouse, retention: HistoryRetention, postgres: asyncpg.Connection, clock: Clock
) -> None:
    await _enforce_twice(retention, postgres, clock)

    assert await _months(history) == ["202703", "202704", "202705", "202706"]


async def test_enforce__decided_a_moment_ago__has_recorded_but_not_dropped(
    history: ClickHouse, retention: HistoryRetention, postgres: asyncpg.Connection, clock: Clock
) -> None:
    for _ in range(2):
        await retention.enforce(postgres)
        clock.advance(minutes=4)

    assert set(OLD) <= set(await _months(history))
    assert await column(history, "SELECT max(ingested_before) FROM dropped_history") == [
        datetime(2027, 3, 1, tzinfo=UTC)
    ]


async def test_enforce__process_that_decided_is_gone__another_one_drops(
    history: ClickHouse, retention: HistoryRetention, postgres: asyncpg.Connection, clock: Clock
) -> None:
    await retention.enforce(postgres)
    clock.advance(minutes=11)

    await HistoryRetention(history, RETENTION_DAYS, clock=clock).enforce(postgres)

    assert set(OLD).isdisjoint(await _months(history))


@pytest.mark.parametrize(
    "experiment",
    [
        {"status": "running"},
        {"status": "paused"},
        {"status": "draft"},
        {"status": "running", "ends_at": LATELY},
        {"status": "draft", "ends_at": LONG_AGO},
        {"status": "completed", "ended_at": LATELY},
        {"status": "archived", "ended_at": LATELY},
        {"status": "archived", "updated_at": LATELY},
    ],
)
async def test_enforce__experiment_that_may_be_asked_for__keeps_all_since_its_earliest_exposure(
    history: ClickHouse,
    retention: HistoryRetention,
    postgres: asyncpg.Connection,
    clock: Clock,
    make: Make,
    experiment: dict[str, datetime],
) -> None:
    await make(**experiment, exposed_at=datetime(2027, 1, 20, tzinfo=UTC))

    await _enforce_twice(retention, postgres, clock)

    assert (await _months(history))[0] == "202701"


@pytest.mark.parametrize(
    "experiment",
    [
        {"status": "running", "ends_at": LONG_AGO},
        {"status": "paused", "ends_at": LONG_AGO},
        {"status": "completed", "ended_at": LONG_AGO},
        {"status": "archived", "ended_at": LONG_AGO},
        {"status": "archived", "updated_at": LONG_AGO},
    ],
)
async def test_enforce__experiment_that_ended_long_ago__keeps_nothing(
    history: ClickHouse,
    retention: HistoryRetention,
    postgres: asyncpg.Connection,
    clock: Clock,
    make: Make,
    experiment: dict[str, datetime],
) -> None:
    await make(**experiment, exposed_at=MONTHS[0])

    await _enforce_twice(retention, postgres, clock)

    assert set(OLD).isdisjoint(await _months(history))


async def test_enforce__exposure_just_after_midnight_of_a_month__keeps_the_month_before(
    history: ClickHouse, retention: HistoryRetention, postgres: asyncpg.Connection, clock: Clock, make: Make
) -> None:
    """An event of that moment may have been ingested up to a day before its time."""
    await make("running", exposed_at=datetime(2027, 2, 1, 23, 59, tzinfo=UTC))

    await _enforce_twice(retention, postgres, clock)

    assert (await _months(history))[0] == "202701"


@pytest.mark.parametrize(("removed", "kept"), [(False, "202612"), (True, "202703")])
async def test_enforce__override__counts_as_long_as_it_is_in_force(
    history: ClickHouse,
    retention: HistoryRetention,
    postgres: asyncpg.Connection,
    clock: Clock,
    make: Make,
    *,
    removed: bool,
    kept: str,
) -> None:
    await postgres.execute(OVERRIDE, await make("running"), MONTHS[0], removed)

    await _enforce_twice(retention, postgres, clock)

    assert (await _months(history))[0] == kept


async def test_enforce__experiment_ends_later__drops_what_it_kept(
    history: ClickHouse, retention: HistoryRetention, postgres: asyncpg.Connection, clock: Clock, make: Make
) -> None:
    experiment_id = await make("running", exposed_at=MONTHS[0])
    await _enforce_twice(retention, postgres, clock)
    assert (await _months(history))[0] == "202612"

    await postgres.execute(
        "UPDATE experiments SET status = 'completed', ended_at = $2 WHERE id = $1", experiment_id, LONG_AGO
    )
    clock.advance(days=1)
    await _enforce_twice(retention, postgres, clock)

    assert set(OLD).isdisjoint(await _months(history))


async def test_maintenance__with_retention__enforces_it(
    history: ClickHouse,
    database: Database,
    postgres: asyncpg.Connection,
    pipeline_settings: PipelineSettings,
    retention: HistoryRetention,
    clock: Clock,
) -> None:
    maintenance = Maintenance(database, pipeline_settings, delivered_by_relay(history), history=retention)
    await maintenance.tidy(postgres)
    clock.advance(minutes=11)

    await maintenance.tidy(postgres)

    assert set(OLD).isdisjoint(await _months(history))


async def test_reconciliation__events_given_up_that_postgresql_still_has__sends_none_and_misses_none(
    history: ClickHouse,
    database: Database,
    postgres: asyncpg.Connection,
    metrics: Metrics,
    pipeline_settings: PipelineSettings,
) -> None:
    old, young = (datetime.now(UTC) - timedelta(hours=hours) for hours in (9, 3))
    reconciliation = Reconciliation(
        database, history, Loader(history, metrics), pipeline_settings, metrics, margin=timedelta(0)
    )
    await store_events_at(postgres, [old, young])
    given_up = {"ingested_before": old + timedelta(hours=2), "decided_at": old}
    await history.insert_json("dropped_history", [msgspec.json.encode(given_up)])
    await history.command("TRUNCATE TABLE events")
    await Heartbeat(database, history, pipeline_settings).beat(postgres)
    await drain(database, history)
    await history.command(f"DELETE FROM events WHERE ingested_at < '{old + timedelta(hours=2):%Y-%m-%d %H:%M:%S}'")

    rounds = [await reconciliation.round(postgres) for _ in range(2)]

    assert [done.repaired for done in rounds] == [0, 0]
    assert await postgres.fetchval("SELECT sum(missing_rows) FROM reconciled_hours") == 0
    assert await column(history, "SELECT ingested_at FROM events FINAL") == [young]


async def _enforce_twice(retention: HistoryRetention, postgres: asyncpg.Connection, clock: Clock) -> None:
    await retention.enforce(postgres)
    clock.advance(minutes=11)
    await retention.enforce(postgres)


async def _months(clickhouse: ClickHouse) -> list[str]:
    return [
        str(month)
        for month in await column(
            clickhouse, "SELECT DISTINCT toYYYYMM(ingested_at) AS month FROM events ORDER BY month"
        )
    ]


def _event(at: datetime) -> bytes:
    return msgspec.json.encode(
        {
            "project_id": 1,
            "event_id": uuid4(),
            "experiment_id": None,
            "user_id": "u",
            "event_type": "buy",
            "ts": at,
            "value": None,
            "properties": {},
            "ingested_at": at,
        }
    )
