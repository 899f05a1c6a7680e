"""What ClickHouse lacks is found and repaired; what it has too many is reported; no watermark before all is proven."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from app.core.clickhouse import ClickHouse, ClickHouseUnavailable
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import PipelineSettings
from app.pipeline.ledger import history_key
from app.pipeline.loader import Loader
from app.pipeline.marker import Marker, Standing, find_marker, put_new_marker
from app.pipeline.reconciliation import Reconciliation, Round
from app.pipeline.schema import migrate
from app.pipeline.watermark import Heartbeat
from tests.pipeline.outbox_run import column, drain
from tests.pipeline.stored import (
    store_assignments_at,
    store_events_at,
    store_experiment,
    store_one_of_each,
)

HOUR = timedelta(hours=1)
# Some hours ago, within one hour and in several of its minutes.
THEN = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 5 * HOUR
SPREAD = [THEN + timedelta(minutes=7 * number, microseconds=number) for number in range(8)]

OPEN = "SELECT subject, hour, missing_rows, extra_rows, differences FROM reconciled_hours WHERE outcome = 'open'"
REPAIRED = "SELECT subject, hour, repaired_rows FROM reconciled_hours WHERE outcome = 'repaired' ORDER BY subject, hour"

_INVALIDATIONS = "SELECT sum(times) FROM rollup_invalidations"

Reconcile = Callable[[], Awaitable[Round]]


@pytest.fixture
def make_reconciliation(
    database: Database, metrics: Metrics, pipeline_settings: PipelineSettings
) -> Callable[[ClickHouse], Reconciliation]:
    def make(clickhouse: ClickHouse) -> Reconciliation:
        loader = Loader(clickhouse, metrics)
        return Reconciliation(database, clickhouse, loader, pipeline_settings, metrics, margin=timedelta(0))

    return make


@pytest.fixture
def reconcile(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    pipeline_settings: PipelineSettings,
    make_reconciliation: Callable[[ClickHouse], Reconciliation],
) -> Reconcile:
    """Bring everything by the stream, with a beat behind it, and do one round."""
    reconciliation = make_reconciliation(clickhouse)

    async def run() -> Round:
        await Heartbeat(database, clickhouse, pipeline_settings).beat(postgres)
        await drain(database, clickhouse)
        return await reconciliation.round(postgres)

    return run


async def test_round__everything_there__repairs_nothing_and_records_each_hour(
    database: Database, postgres: asyncpg.Connection, reconcile: Reconcile
) -> None:
    await store_one_of_each(database)
    await store_events_at(postgres, SPREAD)

    await reconcile()  # Adopts the history, which is later than the beat.
    done = await reconcile()

    assert done == Round(0, more=False, proven=True)
    rows = await postgres.fetch("SELECT * FROM reconciled_hours")
    assert {row["outcome"] for row in rows} == {"equal"}
    assert {row["hour"] for row in rows if row["subject"] == "events"} >= {THEN + n * HOUR for n in range(5)}
    assert sum(row["row_count"] for row in rows if row["subject"] == "events") == len(SPREAD)
    assert await postgres.fetchval("SELECT reconciled_until FROM histories") >= THEN + 5 * HOUR


async def test_round__events_lost_in_clickhouse__sends_those_and_no_others(
    clickhouse: ClickHouse, postgres: asyncpg.Connection, metrics: Metrics, reconcile: Reconcile
) -> None:
    ids = await store_events_at(postgres, [moment + n * HOUR for n in range(3) for moment in SPREAD])
    await reconcile()
    await clickhouse.command(f"DELETE FROM events WHERE event_id IN ('{ids[3]}', '{ids[4]}', '{ids[20]}')")

    done = await reconcile()

    assert done.repaired == 3
    assert set(await column(clickhouse, "SELECT event_id FROM events FINAL")) == set(ids)
    assert await column(clickhouse, "SELECT count() FROM events") == [len(ids)]
    repaired = [tuple(row) for row in await postgres.fetch(REPAIRED)]
    assert repaired == [("events", THEN, 2), ("events", THEN + 2 * HOUR, 1)]
    assert metrics.registry.get_sample_value("reconciliation_repaired_rows_total") == 3
    assert (await reconcile()).repaired == 0


async def test_round__exposures_lost_in_clickhouse__sends_them_again(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection, reconcile: Reconcile
) -> None:
    one, two = await store_experiment(database, "one"), await store_experiment(database, "two")
    for experiment in (one, two):
        await store_assignments_at(postgres, experiment, [f"user {n} ü" for n in range(10)], THEN + HOUR / 3)
    await reconcile()
    await clickhouse.command(f"DELETE FROM exposures WHERE experiment_id = {two.id}")

    assert (await reconcile()).repaired == 10

    assert await column(clickhouse, "SELECT count() FROM exposures FINAL") == [20]
    differences = "SELECT differences ->> $1 FROM reconciled_hours WHERE subject = 'exposures' AND outcome = 'repaired'"
    assert await postgres.fetchval(differences, str(two.id)) == "[10, 0]"
    assert await postgres.fetchval(differences, str(one.id)) is None


async def test_round__row_differs_in_clickhouse__sends_the_stored_one_and_reports_the_other(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection, reconcile: Reconcile
) -> None:
    experiment = await store_experiment(database)
    await store_assignments_at(postgres, experiment, ["a", "b"], THEN)
    await reconcile()
    await clickhouse.command(
        "ALTER TABLE exposures UPDATE variant_id = 999 WHERE user_id = 'a' SETTINGS mutations_sync=1"
    )

    assert (await reconcile()).repaired == 1

    assert set(await column(clickhouse, "SELECT variant_id FROM exposures FINAL")) == {experiment.variants[0].id}


async def test_round__row_unknown_to_postgresql__reports_it_and_leaves_it(
    clickhouse: ClickHouse, postgres: asyncpg.Connection, reconcile: Reconcile
) -> None:
    ids = await store_events_at(postgres, SPREAD)
    await reconcile()
    await postgres.execute("DELETE FROM events WHERE event_id = $1", ids[2])

    done = await reconcile()

    assert (done.repaired, done.proven) == (0, True)
    assert [tuple(row) for row in await postgres.fetch(OPEN)] == [("events", THEN, 0, 1, '{"": [7, 8]}')]
    assert await column(clickhouse, "SELECT count() FROM events FINAL") == [8]
    assert await postgres.fetchval("SELECT reconciled_until FROM histories") == THEN


async def test_round__overrides_and_experiments_lost__sends_their_present_state(
    database: Database, clickhouse: ClickHouse, reconcile: Reconcile
) -> None:
    await store_one_of_each(database)
    await reconcile()
    before = {table: await _rows(clickhouse, table) for table in ("overrides", "experiments")}
    for table in before:
        await clickhouse.command(f"TRUNCATE TABLE {table}")

    assert (await reconcile()).repaired == 3

    assert await _rows(clickhouse, "overrides") == before["overrides"]
    assert [row["definition"] for row in await _rows(clickhouse, "experiments")] == [
        row["definition"] for row in before["experiments"]
    ]
    assert (await reconcile()).repaired == 0


async def test_round__change_on_its_way__is_not_taken_for_a_loss(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    reconcile: Reconcile,
    make_reconciliation: Callable[[ClickHouse], Reconciliation],
) -> None:
    await store_one_of_each(database)
    await reconcile()
    await postgres.execute(
        "UPDATE overrides SET change_epoch = 9, ingested_at = ingestion_time() WHERE user_id = 'forced'"
    )
    await postgres.execute("UPDATE experiments SET version = 2, updated_at = clock_timestamp()")

    assert (await make_reconciliation(clickhouse).round(postgres)).repaired == 0

    assert await postgres.fetch(OPEN) == []


async def test_round__events_that_the_history_has_given_up__are_not_sent_again(
    clickhouse: ClickHouse, postgres: asyncpg.Connection, reconcile: Reconcile
) -> None:
    await store_events_at(postgres, SPREAD)
    await store_events_at(postgres, [THEN + HOUR], in_outbox=False)
    await reconcile()
    await clickhouse.command("TRUNCATE TABLE events")
    given_up = f"{THEN + HOUR:%Y-%m-%d %H:%M:%S}"
    await clickhouse.command(f"INSERT INTO dropped_history VALUES ('{given_up}', now64(6))")

    assert (await reconcile()).repaired == 1

    assert await column(clickhouse, "SELECT ingested_at FROM events FINAL") == [THEN + HOUR]
    assert await postgres.fetch(OPEN) == []


async def test_round__more_hours_than_one_round_takes__goes_on_where_it_was(
    postgres: asyncpg.Connection, reconcile: Reconcile
) -> None:
    long_ago = THEN - 60 * HOUR
    await store_events_at(postgres, [long_ago, THEN])

    rounds = [await reconcile() for _ in range(4)]

    assert [done.more for done in rounds] == [True, True, False, False]
    assert await postgres.fetchval("SELECT count(*) FROM reconciled_hours WHERE subject = 'events'") >= 65


async def test_round__clickhouse_fails_during_repair__resumes(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    metrics: Metrics,
    pipeline_settings: PipelineSettings,
    reconcile: Reconcile,
) -> None:
    class NoInserts(Loader):
        async def store(self, *_arguments: Any, **_options: Any) -> Any:
            raise ClickHouseUnavailable("gone")

    await store_events_at(postgres, SPREAD)
    await reconcile()
    await clickhouse.command("TRUNCATE TABLE events")
    broken = Reconciliation(
        database, clickhouse, NoInserts(clickhouse, metrics), pipeline_settings, metrics, margin=timedelta(0)
    )
    with pytest.raises(ClickHouseUnavailable):
        await broken.round(postgres)

    assert (await reconcile()).repaired == len(SPREAD)


async def test_round__row_that_no_history_takes__is_sent_seldom_and_voids_nothing(
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    metrics: Metrics,
    reconcile: Reconcile,
    make_reconciliation: Callable[[ClickHouse], Reconciliation],
) -> None:
    ids = await store_events_at(postgres, SPREAD, in_outbox=False)
    await postgres.execute("UPDATE events SET ts = ts + interval '2 days' WHERE event_id = $1", ids[3])
    refused = "dead_letters_total", {"reason": "timestamp"}
    await reconcile()
    await reconcile()
    # The others arrived; it alone was sent once more than they, when that was not known yet.
    assert await column(clickhouse, _INVALIDATIONS) == [1]
    sent = metrics.registry.get_sample_value(*refused)

    reconciliation = make_reconciliation(clickhouse)
    for _ in range(4):
        await reconcile()
        await reconciliation.round(postgres)

    assert metrics.registry.get_sample_value(*refused) == (sent or 0) + 1  # By the one who knows nothing of it.
    assert [tuple(row)[:3] for row in await postgres.fetch(OPEN)] == [("events", THEN, 1)]
    assert [findings async for findings in reconciliation.again(postgres, None, None)]
    assert metrics.registry.get_sample_value(*refused) == (sent or 0) + 2
    assert await column(clickhouse, _INVALIDATIONS) == [1]
    assert await postgres.fetchval("SELECT repairing_since FROM histories") is None

    await postgres.execute("UPDATE events SET ts = ingested_at WHERE event_id = $1", ids[3])
    assert [findings async for findings in reconciliation.again(postgres, None, None)]
    assert await postgres.fetch(OPEN) == []
    assert await column(clickhouse, _INVALIDATIONS) == [2]


async def test_round__cut_short_after_rows_were_sent__has_them_counted_anew(
    clickhouse: ClickHouse,
    database: Database,
    postgres: asyncpg.Connection,
    metrics: Metrics,
    pipeline_settings: PipelineSettings,
    reconcile: Reconcile,
) -> None:
    class LastInserts(Loader):
        async def store(self, *arguments: Any, **options: Any) -> Any:
            await super().store(*arguments, **options)
            raise ClickHouseUnavailable("gone")

    await store_events_at(postgres, SPREAD)
    await reconcile()
    before = await column(clickhouse, _INVALIDATIONS)
    await clickhouse.command("TRUNCATE TABLE events")
    loader = LastInserts(clickhouse, metrics)
    with pytest.raises(ClickHouseUnavailable):
        await Reconciliation(database, clickhouse, loader, pipeline_settings, metrics, margin=timedelta(0)).round(
            postgres
        )

    await reconcile()

    assert await column(clickhouse, _INVALIDATIONS) > before


async def test_round__somebody_else_at_work_on_the_history__does_nothing(
    clickhouse: ClickHouse, connect: Callable[..., Any], reconcile: Reconcile, postgres: asyncpg.Connection
) -> None:
    await store_events_at(postgres, SPREAD)
    other = await connect()
    await other.fetchval("SELECT pg_advisory_lock($1)", await history_key(clickhouse))

    await reconcile()

    assert await postgres.fetchval("SELECT count(*) FROM reconciled_hours") == 0


# --- What a watermark needs ---


async def test_standing__new_installation__is_proven_at_once(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    make_reconciliation: Callable[[ClickHouse], Reconciliation],
) -> None:
    standing = Standing(database)
    assert not await standing.is_proven(await find_marker(clickhouse))

    await make_reconciliation(clickhouse).round(postgres)

    assert await standing.is_proven(await find_marker(clickhouse))


async def test_standing__rows_from_before_the_history__is_proven_when_they_are_compared(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    reconcile: Reconcile,
    make_reconciliation: Callable[[ClickHouse], Reconciliation],
) -> None:
    # None of them in the outbox any more, and some from the hour that is not closed.
    now: datetime = await postgres.fetchval("SELECT clock_timestamp()")
    ids = await store_events_at(postgres, [*SPREAD, THEN + 3 * HOUR, now], in_outbox=False)
    standing = Standing(database)
    assert not (await make_reconciliation(clickhouse).round(postgres)).proven
    assert not await standing.is_proven(await find_marker(clickhouse))

    await reconcile()

    assert await standing.is_proven(await find_marker(clickhouse))
    assert set(await column(clickhouse, "SELECT event_id FROM events FINAL")) == set(ids)


async def test_standing__clickhouse_emptied__is_unproven_until_all_is_back(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection, reconcile: Reconcile
) -> None:
    experiment = await store_one_of_each(database)
    ids = await store_events_at(postgres, [moment - n * HOUR for n in range(40) for moment in SPREAD])
    await store_assignments_at(postgres, experiment, ["x", "y"], THEN)
    while (await reconcile()).more:
        pass
    standing = Standing(database)
    assert await standing.is_proven(await find_marker(clickhouse))
    await postgres.execute("DELETE FROM outbox_events")
    await _empty(clickhouse)

    assert not await standing.is_proven(await find_marker(clickhouse))
    assert not (await reconcile()).proven
    assert not await standing.is_proven(await find_marker(clickhouse))
    while not (await reconcile()).proven:
        pass
    assert await standing.is_proven(await find_marker(clickhouse))
    assert set(ids) <= set(await column(clickhouse, "SELECT event_id FROM events FINAL"))
    assert await column(clickhouse, "SELECT count() FROM exposures FINAL") == [6]
    assert await column(clickhouse, "SELECT count() FROM overrides FINAL") == [2]


async def test_standing__older_copy_of_clickhouse_put_in_place__is_unproven(
    database: Database, clickhouse: ClickHouse, reconcile: Reconcile
) -> None:
    await reconcile()
    old = await find_marker(clickhouse)
    assert old is not None
    await reconcile()
    await clickhouse.command("TRUNCATE TABLE history_marker")
    await clickhouse.command(f"INSERT INTO history_marker VALUES ('{old.id}', {old.generation})")

    assert not await Standing(database).is_proven(await find_marker(clickhouse))
    await reconcile()
    adopted = await find_marker(clickhouse)
    assert adopted is not None
    assert adopted.id != old.id


async def test_standing__older_copy_that_lacks_rows_of_this_hour__is_proven_once_it_has_them(
    database: Database, clickhouse: ClickHouse, postgres: asyncpg.Connection, reconcile: Reconcile
) -> None:
    await reconcile()
    old = await find_marker(clickhouse)
    assert old is not None
    await reconcile()
    now: datetime = await postgres.fetchval("SELECT clock_timestamp()")
    ids = await store_events_at(postgres, [*SPREAD, now], in_outbox=False)
    await clickhouse.command("TRUNCATE TABLE history_marker")
    await clickhouse.command(f"INSERT INTO history_marker VALUES ('{old.id}', {old.generation})")

    while not (await reconcile()).proven:
        assert not await Standing(database).is_proven(await find_marker(clickhouse))

    assert await Standing(database).is_proven(await find_marker(clickhouse))
    assert set(await column(clickhouse, "SELECT event_id FROM events FINAL")) == set(ids)


async def test_standing__new_marker_put__ends_at_once_what_was_proven(
    database: Database, clickhouse: ClickHouse, reconcile: Reconcile
) -> None:
    await reconcile()
    standing = Standing(database)
    assert await standing.is_proven(await find_marker(clickhouse))

    await put_new_marker(clickhouse)

    assert not await standing.is_proven(await find_marker(clickhouse))


async def test_standing__postgresql_away__holds_what_was_known(
    database: Database, clickhouse: ClickHouse, reconcile: Reconcile
) -> None:
    await reconcile()
    standing = Standing(database)
    marker = await find_marker(clickhouse)
    assert marker is not None
    assert await standing.is_proven(marker)
    standing._database = Database.connect("postgresql+asyncpg://nobody@127.0.0.1:9/none", pool_size=2)
    assert standing._record is not None
    standing._record = standing._record._replace(asked_at_s=0.0)

    assert await standing.is_proven(marker)
    assert not await standing.is_proven(Marker(marker.id, marker.generation - 5))
    await standing._database.close()


async def _rows(clickhouse: ClickHouse, table: str) -> list[dict[str, Any]]:
    return await clickhouse.rows(f"SELECT * FROM {table} FINAL ORDER BY ALL")


async def _empty(clickhouse: ClickHouse) -> None:
    """Lose everything, as when the data folder is deleted."""
    await clickhouse.command(f"DROP DATABASE {clickhouse.database} SYNC")
    await migrate(clickhouse)
