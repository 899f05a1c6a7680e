"""Months of events leave PostgreSQL only when ClickHouse has them for sure; results then come from there."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import PipelineSettings
from app.pipeline.events_retention import EventsRetention
from app.pipeline.history_retention import HistoryRetention, given_up_before
from app.pipeline.ledger import keep_floor
from app.pipeline.loader import Loader
from app.pipeline.maintenance import Maintenance, delivered_by_relay
from app.pipeline.marker import Standing, find_marker
from app.pipeline.reconciliation import Reconciliation
from app.pipeline.soundings import Soundings
from app.pipeline.watermark import Heartbeat, watermark
from app.results.errors import NoSourceAvailable, StoreDropped
from app.results.values import Metric, Question, Source, SourceChoice
from tests.integration.results.services import Bench, BrokenClickHouse, running_service
from tests.integration.results.world import World
from tests.pipeline.outbox_run import column, drain
from tests.pipeline.stored import store_assignments_at, store_events_at, store_experiment

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
THIS_MONTH = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
# The day before this month began, so that few hours have to be compared.
OLD = THIS_MONTH - DAY
OLD_MONTH = f"events_p{OLD:%Y%m}"
# Late enough for any retention.
LATER = THIS_MONTH + 400 * DAY

PARTITIONS = "SELECT array_agg(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'events'::regclass"


@pytest.fixture
def retention(clickhouse: ClickHouse) -> EventsRetention:
    return EventsRetention(clickhouse, 90, clock=lambda: LATER)


@pytest.fixture
async def old_events(postgres: asyncpg.Connection) -> list[Any]:
    await postgres.execute(
        "SELECT make_partition('events', $1, $2, $3, 'ingested_at')",
        OLD_MONTH,
        OLD.replace(day=1),
        THIS_MONTH,
    )
    return await store_events_at(postgres, [OLD + n * HOUR / 2 for n in range(20)])


@pytest.fixture
def reconcile(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    loader: Loader,
    metrics: Metrics,
    pipeline_settings: PipelineSettings,
) -> Callable[[], Awaitable[None]]:
    reconciliation = Reconciliation(database, clickhouse, loader, pipeline_settings, metrics, margin=timedelta(0))

    async def run() -> None:
        """Bring everything by the stream and compare until nothing is left to compare."""
        more = True
        while more:
            await Heartbeat(database, clickhouse, pipeline_settings).beat(postgres)
            await drain(database, clickhouse)
            done = await reconciliation.round(postgres)
            more = done.more or not done.proven

    return run


async def test_enforce__month_reconciled_and_old__drops_it_and_knows_since_when_events_are_there(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    retention: EventsRetention,
    old_events: list[Any],
    reconcile: Callable[[], Awaitable[None]],
) -> None:
    await reconcile()

    await retention.enforce(postgres)

    assert OLD_MONTH not in await postgres.fetchval(PARTITIONS)
    async with database.read() as connection:
        assert await Soundings(connection).events_kept_since() is not None
    assert await postgres.fetchval("SELECT row_count FROM dropped_partitions WHERE name = $1", OLD_MONTH) == 20
    assert await postgres.fetchval("SELECT count(*) FROM event_ids WHERE event_id = ANY($1)", old_events) == 0
    assert await column(clickhouse, "SELECT count() FROM events FINAL") == [20]


async def test_enforce__month_dropped_or_kept__counts_of_duplicates_go_or_stay_with_it(
    postgres: asyncpg.Connection,
    retention: EventsRetention,
    old_events: list[Any],  # noqa: ARG001
    reconcile: Callable[[], Awaitable[None]],
) -> None:
    await postgres.execute(
        "INSERT INTO dropped_duplicates (project_id, event_type, bucket, dropped_at, events)"
        " SELECT 1, 'purchase', bucket, clock_timestamp(), 1 FROM unnest($1::timestamptz[]) AS hours (bucket)",
        [OLD - 400 * DAY, OLD, THIS_MONTH - HOUR, THIS_MONTH, THIS_MONTH + HOUR],
    )
    hours = "SELECT array_agg(bucket ORDER BY bucket) FROM dropped_duplicates"
    await retention.enforce(postgres)
    assert len(await postgres.fetchval(hours)) == 5
    await reconcile()

    await retention.enforce(postgres)

    assert await postgres.fetchval(hours) == [THIS_MONTH, THIS_MONTH + HOUR]
    # Of a time that is given up, some may come later.
    await postgres.execute(
        "INSERT INTO dropped_duplicates (project_id, event_type, bucket, dropped_at, events)"
        " VALUES (1, 'purchase', $1, clock_timestamp(), 1)",
        OLD,
    )
    await retention.enforce(postgres)
    assert await postgres.fetchval(hours) == [THIS_MONTH, THIS_MONTH + HOUR]


async def test_enforce__month_not_old_enough__keeps_it(
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    old_events: list[Any],  # noqa: ARG001
    reconcile: Callable[[], Awaitable[None]],
) -> None:
    await reconcile()

    await EventsRetention(clickhouse, 90, clock=lambda: THIS_MONTH + 89 * DAY).enforce(postgres)

    assert OLD_MONTH in await postgres.fetchval(PARTITIONS)


async def test_enforce__never_compared__keeps_it(
    postgres: asyncpg.Connection,
    retention: EventsRetention,
    old_events: list[Any],  # noqa: ARG001
) -> None:
    await retention.enforce(postgres)

    assert OLD_MONTH in await postgres.fetchval(PARTITIONS)


async def test_enforce__hour_differs__keeps_it(
    postgres: asyncpg.Connection,
    retention: EventsRetention,
    old_events: list[Any],
    reconcile: Callable[[], Awaitable[None]],
) -> None:
    await reconcile()
    await postgres.execute("DELETE FROM events WHERE event_id = $1", old_events[3])
    await reconcile()

    await retention.enforce(postgres)

    assert OLD_MONTH in await postgres.fetchval(PARTITIONS)


async def test_enforce__row_came_after_the_comparison__keeps_it(
    postgres: asyncpg.Connection,
    retention: EventsRetention,
    old_events: list[Any],  # noqa: ARG001
    reconcile: Callable[[], Awaitable[None]],
) -> None:
    await reconcile()
    await store_events_at(postgres, [OLD])

    await retention.enforce(postgres)

    assert OLD_MONTH in await postgres.fetchval(PARTITIONS)


async def test_enforce__clickhouse_lost_a_row_after_the_comparison__keeps_it(
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    retention: EventsRetention,
    old_events: list[Any],
    reconcile: Callable[[], Awaitable[None]],
) -> None:
    await reconcile()
    await clickhouse.command(f"DELETE FROM events WHERE event_id = '{old_events[7]}'")

    await retention.enforce(postgres)

    assert OLD_MONTH in await postgres.fetchval(PARTITIONS)


async def test_enforce__tables_being_rebuilt__keeps_it_until_they_are(
    postgres: asyncpg.Connection,
    connect: Callable[..., Any],
    retention: EventsRetention,
    old_events: list[Any],  # noqa: ARG001
    reconcile: Callable[[], Awaitable[None]],
) -> None:
    await reconcile()

    async with keep_floor(await connect()):
        await retention.enforce(postgres)
        assert OLD_MONTH in await postgres.fetchval(PARTITIONS)

    await retention.enforce(postgres)
    assert OLD_MONTH not in await postgres.fetchval(PARTITIONS)


async def test_round__history_begins_anew_after_both_dropped_a_month__is_proven_without_it(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    retention: EventsRetention,
    old_events: list[Any],  # noqa: ARG001
    reconcile: Callable[[], Awaitable[None]],
) -> None:
    young = await store_events_at(postgres, [THIS_MONTH + HOUR / 2])
    await reconcile()
    await retention.enforce(postgres)
    # It gives up this month, too, which PostgreSQL still has.
    await HistoryRetention(clickhouse, 90, clock=lambda: LATER).enforce(postgres)
    for table in ("history_marker", "dropped_history", "events", "exposures", "overrides", "experiments"):
        await clickhouse.command(f"TRUNCATE TABLE {table}")

    async with asyncio.timeout(60):
        await reconcile()

    assert await Standing(database).is_proven(await find_marker(clickhouse))
    assert await given_up_before(clickhouse) == THIS_MONTH
    assert await column(clickhouse, "SELECT event_id FROM events FINAL") == young


async def test_enforce__clickhouse_emptied__keeps_it(
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    retention: EventsRetention,
    old_events: list[Any],  # noqa: ARG001
    reconcile: Callable[[], Awaitable[None]],
) -> None:
    await reconcile()
    await clickhouse.command("TRUNCATE TABLE history_marker")

    await retention.enforce(postgres)

    assert OLD_MONTH in await postgres.fetchval(PARTITIONS)


async def test_tidy__writer_at_work_in_the_old_month__postpones_the_drop(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    connect: Callable[..., Any],
    pipeline_settings: PipelineSettings,
    retention: EventsRetention,
    old_events: list[Any],  # noqa: ARG001
    reconcile: Callable[[], Awaitable[None]],
) -> None:
    await reconcile()
    maintenance = Maintenance(database, pipeline_settings, delivered_by_relay(clickhouse), events=retention)
    writer = await connect()
    transaction = writer.transaction()
    await transaction.start()
    await store_events_at(writer, [OLD])

    await maintenance.tidy(postgres)

    assert OLD_MONTH in await postgres.fetchval(PARTITIONS)
    await transaction.rollback()
    await maintenance.tidy(postgres)
    assert OLD_MONTH not in await postgres.fetchval(PARTITIONS)


async def test_round__history_loses_rows_that_postgresql_has_dropped__finds_it_and_takes_back_the_watermark(
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    retention: EventsRetention,
    old_events: list[Any],
    database: Database,
    loader: Loader,
    metrics: Metrics,
    pipeline_settings: PipelineSettings,
    reconcile: Callable[[], Awaitable[None]],
) -> None:
    await reconcile()
    await retention.enforce(postgres)
    reconciliation = Reconciliation(database, clickhouse, loader, pipeline_settings, metrics, margin=timedelta(0))
    assert (await reconciliation.round(postgres)).proven
    await clickhouse.command(f"DELETE FROM events WHERE event_id = '{old_events[0]}'")

    while (await reconciliation.round(postgres)).proven:
        pass

    marker = await find_marker(clickhouse)
    assert marker is not None
    missing = "SELECT hour, missing_rows FROM reconciled_hours WHERE outcome = 'open'"
    assert [tuple(row) for row in await postgres.fetch(missing)] == [(OLD, 1)]


# --- Results ---


@pytest.fixture
def bench() -> Bench:
    return Bench(now=datetime.now(UTC))


async def test_results__events_dropped__history_answers_as_before_and_postgresql_alone_is_refused(
    database: Database,
    clickhouse: ClickHouse,
    postgres: asyncpg.Connection,
    retention: EventsRetention,
    old_events: list[Any],  # noqa: ARG001
    bench: Bench,
    reconcile: Callable[[], Awaitable[None]],
) -> None:
    experiment = await store_experiment(database)
    users = [row["user_id"] for row in await postgres.fetch("SELECT DISTINCT user_id FROM events")]
    await store_assignments_at(postgres, experiment, users, OLD)
    younger = await store_experiment(database, "younger")
    await store_assignments_at(postgres, younger, users, THIS_MONTH + 2 * DAY)
    await reconcile()
    bench.watermark = await watermark(clickhouse)

    async def ask(source: SourceChoice, key: str = experiment.key, **question: Any) -> Any:
        wanted = Question(source=source, fresh=True, metrics=(Metric.CONVERSION_RATE, Metric.AVG_VALUE), **question)
        answer = await service.results(experiment.project_id, key, wanted)
        return answer.metadata.source, [variant.metrics for variant in answer.variants]

    async with running_service(World(database, clickhouse), bench, clickhouse=clickhouse) as service:
        before = {source: await ask(source) for source in SourceChoice}
        assert before[SourceChoice.HOT][1] == before[SourceChoice.COLD][1] == before[SourceChoice.AUTO][1]
        assert before[SourceChoice.HOT][1][0][Metric.CONVERSION_RATE].value == 1.0

        await retention.enforce(postgres)

        assert OLD_MONTH not in await postgres.fetchval(PARTITIONS)
        with pytest.raises(StoreDropped):
            await ask(SourceChoice.HOT)
        assert await ask(SourceChoice.AUTO) == before[SourceChoice.AUTO]
        assert await ask(SourceChoice.COLD) == before[SourceChoice.COLD]
        # Whose exposures are younger than what was dropped, and questions about later events, need nothing of it.
        assert (await ask(SourceChoice.HOT, younger.key))[0] is Source.HOT
        assert (await ask(SourceChoice.HOT, start=THIS_MONTH + 2 * DAY))[0] is Source.HOT
        bench.watermark = None
        with pytest.raises(NoSourceAvailable, match="EVENTS_RETENTION_DAYS"):
            await ask(SourceChoice.AUTO)
    async with running_service(World(database, clickhouse), bench, clickhouse=BrokenClickHouse()) as service:
        with pytest.raises(NoSourceAvailable, match="EVENTS_RETENTION_DAYS"):
            await ask(SourceChoice.AUTO)
