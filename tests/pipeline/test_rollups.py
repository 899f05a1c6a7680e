"""The builder of rollups: what it counts holds, whoever is killed, comes late or sets the clock back."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from app.core.clickhouse import ClickHouse, ClickHouseTooSlow, ClickHouseUnavailable
from app.core.db import Database
from app.core.metrics import Metrics
from app.core.settings import PipelineSettings
from app.pipeline.rollups import RollupBuilder, invalidate_rollups
from app.results.cold import ColdStore
from app.results.values import Granularity, Observations, Question, Subject
from app.rollups.repository import RollupRepository
from app.rollups.steps import DAY, HOUR, ORIGIN, Step

_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_FAR = datetime(2100, 1, 1, tzinfo=UTC)
# An hour is taken for over ten minutes after its end.
_SOON = timedelta(minutes=10)


class Bench:
    """A ClickHouse with two variants' users, and a builder whose watermark and clock the test holds."""

    def __init__(self, clickhouse: ClickHouse, database: Database, postgres: asyncpg.Connection) -> None:
        self.clickhouse = clickhouse
        self.database = database
        self.postgres = postgres
        self.watermark: datetime | None = None
        self.now = datetime.now(UTC)
        self.metrics = Metrics()

    def builder(self, clickhouse: ClickHouse | None = None, *, rollup_s: float = 60, **sizes: int) -> RollupBuilder:
        async def watermark() -> datetime | None:
            return self.watermark

        return RollupBuilder(
            self.database,
            clickhouse or self.clickhouse,
            PipelineSettings(ROLLUP_SECONDS=rollup_s),
            self.metrics,
            watermark,
            clock=lambda: self.now,
            **sizes,
        )

    async def start(self) -> RollupBuilder:
        builder = self.builder()
        await builder.take_over(self.postgres)
        return builder

    async def build(self, builder: RollupBuilder, watermark: datetime) -> list[Step]:
        self.watermark = watermark
        while await builder.build_next(self.postgres):
            pass
        return await self.steps()

    async def steps(self) -> list[Step]:
        return list((await RollupRepository(self.clickhouse).get()).steps)

    async def store(self, *rows: Mapping[str, Any]) -> None:
        for row in rows:
            await self.clickhouse.insert_json(row["table"], [msgspec.json.encode({**row, "table": None})])

    async def assert_equal(self) -> Observations:
        """See that answers with rollups are those without, and return them."""
        cold, steps = ColdStore(self.clickhouse), await self.steps()
        for question in (Question(granularity=Granularity.HOUR), Question(), Question(with_series=False)):
            raw = await cold.observe(Subject(1, 1), question, _FAR, most_slots=1000)
            assert await cold.observe(Subject(1, 1), question, _FAR, most_slots=1000, steps=steps) == raw
        return raw


def experiment() -> dict[str, Any]:
    return {
        "table": "experiments",
        "experiment_id": 1,
        "project_id": 1,
        "key": "checkout",
        "status": "running",
        "version": 1,
        "definition": "{}",
        "ingested_at": _T0 - DAY,
    }


def exposure(number: int, at: datetime, **fields: Any) -> dict[str, Any]:
    return {
        "table": "exposures",
        "experiment_id": 1,
        "user_id": f"user-{number}",
        "variant_id": 1 + number % 2,
        "source": "hash",
        "experiment_version": 1,
        "context": "{}",
        "exposed_at": at,
        "ingested_at": at,
        **fields,
    }


def event(number: int, at: datetime, *, event_id: UUID | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "table": "events",
        "project_id": 1,
        "event_id": event_id or uuid4(),
        "experiment_id": None,
        "user_id": f"user-{number}",
        "event_type": "buy",
        "ts": at,
        "value": None,
        "properties": "{}",
        "ingested_at": at,
        **fields,
    }


@pytest.fixture
async def bench(clickhouse: ClickHouse, database: Database, postgres: asyncpg.Connection) -> Bench:
    return await _bench(clickhouse, database, postgres)


async def _bench(clickhouse: ClickHouse, database: Database, postgres: asyncpg.Connection) -> Bench:
    made = Bench(clickhouse, database, postgres)
    await made.store(experiment(), *(exposure(number, _T0 + number * HOUR) for number in range(4)))
    await made.store(*(event(number % 4, _T0 + (number + 4) * HOUR) for number in range(8)))
    return made


async def test_build__hours_over__are_counted_and_the_day_is_merged_when_it_ends(bench: Bench) -> None:
    builder = await bench.start()

    hours = await bench.build(builder, _T0 + 5 * HOUR + _SOON)
    more = await bench.build(builder, _T0 + 8 * HOUR)
    assert [(step.since, step.until) for step in hours] == [(ORIGIN, _T0), (_T0, _T0 + 5 * HOUR)]
    assert more[-1].until == _T0 + 7 * HOUR
    assert (await bench.assert_equal()).of(1).events == 4

    days = await bench.build(builder, _T0 + DAY + _SOON)
    assert [(step.since, step.until, step.rows) for step in days] == [(ORIGIN, _T0, 0), (_T0, _T0 + DAY, 12)]
    assert (await bench.assert_equal()).of(1).events == 4
    assert bench.metrics.rollups_built_until._value.get() == (_T0 + DAY).timestamp()


async def test_build__watermark_unknown__does_nothing(bench: Bench) -> None:
    assert not await (await bench.start()).build_next(bench.postgres)


async def test_build__late_and_redelivered_events__are_counted_once_in_their_hour(bench: Bench) -> None:
    builder = await bench.start()
    await bench.build(builder, _T0 + 10 * HOUR)
    late = event(1, _T0 + 2 * HOUR, ingested_at=_T0 + 20 * HOUR)
    await bench.store(late, late, exposure(9, _T0, ingested_at=_T0 + 21 * HOUR), event(9, _T0 + HOUR))
    await bench.store(late)

    await bench.build(builder, _T0 + DAY)

    assert (await bench.assert_equal()).of(2).events == 6


def override(number: int, at: datetime, **fields: Any) -> dict[str, Any]:
    return {
        "table": "overrides",
        "experiment_id": 1,
        "user_id": f"user-{number}",
        "variant_id": 1,
        "exposed_at": at,
        "removed": False,
        "epoch": 1,
        "ingested_at": at,
        **fields,
    }


# Of users 0 to 3, who are in the variants 1, 2, 1, 2, each has two events in hours that are counted.
@pytest.mark.parametrize(
    ("rows", "exposed", "converters", "events"),
    [
        ([], 2, 2, 4),
        ([override(1, _T0 + 30 * HOUR)], 1, 1, 2),
        ([override(1, _T0), event(1, _T0 + 30 * HOUR)], 1, 1, 2),
        ([override(1, _T0), override(1, _T0, removed=True, epoch=2)], 2, 2, 4),
        ([override(1, _T0), override(3, _T0)], 0, 0, 0),
        ([event(1, _T0 + 30 * HOUR), event(1, _T0 + 9 * HOUR, ingested_at=_T0 + 30 * HOUR)], 2, 2, 6),
        ([event(1, _T0, ingested_at=_T0 + 30 * HOUR)], 2, 2, 4),
        ([exposure(5, _T0 + 30 * HOUR), event(5, _T0 + 31 * HOUR), event(5, _T0 + 29 * HOUR)], 3, 3, 5),
        ([exposure(7, _T0 + HOUR, ingested_at=_T0 + 30 * HOUR)], 3, 3, 6),
        ([exposure(7, _T0 + HOUR, ingested_at=_T0 + 30 * HOUR), override(7, _T0)], 2, 2, 4),
    ],
    ids=[
        "nothing",
        "override of somebody counted",
        "override, and a recent event",
        "override that was removed",
        "overrides of all",
        "recent and late events",
        "late event from before the exposure",
        "new user, with an event from before",
        "import of somebody with old events",
        "import of somebody with an override",
    ],
)
async def test_observe__rows_came_after_the_rollups__count_as_they_should(
    bench: Bench, rows: list[dict[str, Any]], exposed: int, converters: int, events: int
) -> None:
    # Stored before there is an exposure of theirs.
    await bench.store(event(7, _T0 + 2 * HOUR), event(7, _T0 + 3 * HOUR))
    await bench.build(await bench.start(), _T0 + DAY + _SOON)

    await bench.store(*rows)

    seen = (await bench.assert_equal()).of(2)
    assert (seen.exposed, seen.converters, seen.events) == (exposed, converters, events)


async def test_build__experiment_not_there_yet__waits_for_it(bench: Bench) -> None:
    await bench.store(exposure(1, _T0 + HOUR, experiment_id=2))
    builder = await bench.start()

    assert [step.until for step in await bench.build(builder, _T0 + 5 * HOUR)] == [_T0]
    await bench.store({**experiment(), "experiment_id": 2})
    assert (await bench.build(builder, _T0 + 5 * HOUR + _SOON))[-1].until == _T0 + 5 * HOUR


class Dying(ClickHouse):
    """A ClickHouse that is gone after so many inserts, the last of which it has done all the same."""

    inserts_left = 0

    async def insert_selected(self, sql: str, parameters: Any = None, *, settings: Any = None) -> None:
        await super().insert_selected(sql, parameters, settings=settings)
        self.inserts_left -= 1
        if self.inserts_left <= 0:
            raise ClickHouseUnavailable("gone")


@pytest.mark.parametrize("inserts", range(1, 9))
async def test_build__killed_at_any_insert__nothing_is_counted_twice(
    make_clickhouse: Callable[..., Any], database: Database, postgres: asyncpg.Connection, inserts: int
) -> None:
    dying: Dying = await make_clickhouse(Dying)
    bench = Bench(dying, database, postgres)
    await bench.store(experiment(), exposure(1, _T0), exposure(2, _T0 + HOUR))
    await bench.store(*(event(1 + number % 2, _T0 + (number + 1) * HOUR) for number in range(30)))
    builder = await bench.start()
    dying.inserts_left = inserts

    with pytest.raises(ClickHouseUnavailable):
        await _build_a_day(bench, builder)
    await bench.assert_equal()
    dying.inserts_left = 1000
    steps = await bench.build(await bench.start(), _T0 + DAY + 3 * HOUR)

    assert steps[-1].until == _T0 + DAY + 2 * HOUR
    assert (await bench.assert_equal()).of(1).converters == 1


async def test_build__one_who_lost_the_lock_goes_on__changes_nothing(bench: Bench) -> None:
    first = await bench.start()
    await bench.build(first, _T0 + 3 * HOUR)
    second = await bench.start()

    ahead = await bench.build(second, _T0 + 6 * HOUR)
    # What the first one does before it notices.
    await bench.store(exposure(7, _T0 + 6 * HOUR), event(7, _T0 + 6 * HOUR))
    bench.watermark = _T0 + 8 * HOUR
    await first.build_next(bench.postgres)

    assert await bench.steps() == ahead
    await bench.build(second, _T0 + 8 * HOUR)
    assert (await bench.assert_equal()).of(2).exposed == 3


async def test_invalidate__rows_repaired_in_a_closed_hour__are_counted_anew(bench: Bench) -> None:
    builder = await bench.start()
    await bench.build(builder, _T0 + 10 * HOUR)
    await bench.build(builder, _T0 + 2 * DAY)
    await bench.store(exposure(8, _T0, ingested_at=_T0 + 90 * timedelta(minutes=1)), event(8, _T0 + 5 * HOUR))

    await invalidate_rollups(bench.clickhouse, _T0 + 90 * timedelta(minutes=1))

    assert (await bench.steps())[-1].until == _T0
    assert (await bench.assert_equal()).of(1).converters == 3
    assert (await bench.build(builder, _T0 + 2 * DAY + HOUR))[-1].until == _T0 + 2 * DAY
    await bench.assert_equal()


class Interrupted(ClickHouse):
    """A ClickHouse in which somebody else does something, once, after some rows were counted."""

    interruption: Callable[[], Awaitable[None]] | None = None

    async def insert_selected(self, sql: str, parameters: Any = None, *, settings: Any = None) -> None:
        await super().insert_selected(sql, parameters, settings=settings)
        if (interrupt := self.interruption) is not None and "events FINAL" in sql:
            self.interruption = None
            await interrupt()


async def test_build__invalidated_while_it_counts__step_is_void(
    make_clickhouse: Callable[..., Any], database: Database, postgres: asyncpg.Connection
) -> None:
    interrupted: Interrupted = await make_clickhouse(Interrupted)
    bench = await _bench(interrupted, database, postgres)
    builder = await bench.start()

    async def repair() -> None:
        await bench.store(event(1, _T0 + 2 * HOUR))
        await invalidate_rollups(bench.clickhouse, _T0 + 2 * HOUR)

    interrupted.interruption = repair
    bench.watermark = _T0 + 5 * HOUR + _SOON
    assert await builder.build_next(bench.postgres)
    assert await builder.build_next(bench.postgres)

    assert [step.until for step in await bench.steps()] == [_T0]
    assert (await bench.build(builder, bench.watermark))[-1].until == _T0 + 5 * HOUR
    assert (await bench.assert_equal()).of(2).events == 5


async def test_build__clock_set_back__hours_are_counted_anew(bench: Bench) -> None:
    builder = await bench.start()
    await bench.build(builder, _T0 + 10 * HOUR)

    back = await bench.build(builder, _T0 + 4 * HOUR + _SOON)
    await bench.store(event(1, _T0 + 4 * HOUR + _SOON))

    assert back[-1].until == _T0 + 4 * HOUR
    assert (await bench.build(builder, _T0 + 11 * HOUR))[-1].until == _T0 + 10 * HOUR
    assert (await bench.assert_equal()).of(2).events == 5


async def test_check__rows_came_to_a_closed_hour_unnoticed__are_counted_anew(bench: Bench) -> None:
    builder = await bench.start()
    before = await bench.build(builder, _T0 + 10 * HOUR)
    await builder.check()
    assert await bench.steps() == before

    await bench.store(event(1, _T0 + 4 * HOUR))
    await builder.check()

    assert [step.until for step in await bench.steps()] == [_T0]
    await bench.build(builder, _T0 + 10 * HOUR)
    assert (await bench.assert_equal()).of(2).events == 5


async def test_clean__steps_retired_for_a_while__their_rows_are_deleted(bench: Bench) -> None:
    builder = await bench.start()
    await bench.build(builder, _T0 + 10 * HOUR)
    (hours,) = [step.id for step in (await bench.steps()) if step.rows]
    (day,) = [step.id for step in await bench.build(builder, _T0 + DAY + _SOON) if step.rows]

    await builder.clean()
    assert await _stored_steps(bench.clickhouse) >= {hours, day}
    bench.now += timedelta(hours=2)
    await builder.clean()
    async with asyncio.timeout(10):
        while await _stored_steps(bench.clickhouse) != {day}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    await bench.assert_equal()
    assert (await RollupRepository(bench.clickhouse).get()).manifest.retired == ()


async def test_build__imports_with_events_of_long_ago__read_those_in_pieces(bench: Bench) -> None:
    days = [_T0 - number * DAY for number in (300, 200, 100, 10, 1)]
    await bench.store(*(event(number, day, ingested_at=day) for number in range(4, 8) for day in days))
    builder = bench.builder(slice_rows=2, read_rows=3)
    await builder.take_over(bench.postgres)
    await bench.build(builder, _T0 + 10 * HOUR)
    moment = _T0 + 11 * HOUR
    # All but the last are dated back, the first one to before all of its events.
    dated = [exposure(4 + n, at, ingested_at=moment) for n, at in enumerate([days[0], days[1], days[2], moment])]
    await bench.store(*dated, *dated)

    await bench.build(builder, _T0 + 13 * HOUR)

    seen = await bench.assert_equal()
    assert (seen.of(1).events, seen.of(2).events) == (4 + 5 + 3, 4 + 4)


class Slow(ClickHouse):
    """A ClickHouse that takes too long to read old events, so many times, and had stored something by then."""

    slow_left = 0
    too_slow_at_s = 0.0
    asked_at_s: list[float]

    async def insert_selected(self, sql: str, parameters: Any = None, *, settings: Any = None) -> None:
        self.asked_at_s.append(time.monotonic())
        await super().insert_selected(sql, parameters, settings=settings)
        if self.slow_left > 0 and "happened" in sql:
            self.slow_left -= 1
            await asyncio.sleep(0.1)
            self.too_slow_at_s = time.monotonic()
            raise ClickHouseTooSlow("too slow")


async def test_run__step_takes_too_long__rests_and_leaves_nothing_behind(
    make_clickhouse: Callable[..., Any], database: Database, postgres: asyncpg.Connection
) -> None:
    slow: Slow = await make_clickhouse(Slow)
    slow.asked_at_s, slow.slow_left = [], 1
    bench = await _bench(slow, database, postgres)
    bench.watermark = _T0 + 6 * HOUR
    running = asyncio.create_task(bench.builder(rollup_s=0.05).run())
    async with asyncio.timeout(30):
        while slow.slow_left or await _stored_steps(slow):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        while not (steps := await bench.steps()) or steps[-1].until < _T0 + 5 * HOUR:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    again_at_s = min(moment for moment in slow.asked_at_s if moment > slow.too_slow_at_s)
    assert again_at_s - slow.too_slow_at_s > 0.9
    assert await _stored_steps(slow) == {step.id for step in steps if step.rows}
    await bench.assert_equal()


async def test_run__another_clickhouse_of_the_same_postgresql__is_built_as_well(
    bench: Bench, make_clickhouse: Callable[..., Any]
) -> None:
    other = await _bench(await make_clickhouse(), bench.database, bench.postgres)
    bench.watermark = other.watermark = _T0 + 6 * HOUR
    running = [asyncio.create_task(each.builder(rollup_s=0.05).run()) for each in (bench, other)]
    async with asyncio.timeout(20):
        while not all([await each.steps() for each in (bench, other)]):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for task in running:
        task.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*running, return_exceptions=True)
    )


async def test_invalidate__same_hour_again_and_again__is_kept_as_one_row(bench: Bench) -> None:
    builder = await bench.start()
    for _ in range(5):
        await bench.build(builder, _T0 + 10 * HOUR)
        await invalidate_rollups(bench.clickhouse, _T0 + 2 * HOUR)
        assert [step.until for step in await bench.steps()] == [_T0]
    steps = await bench.build(builder, _T0 + 11 * HOUR)

    await bench.clickhouse.command("OPTIMIZE TABLE rollup_invalidations FINAL")

    assert await bench.clickhouse.rows("SELECT since, times FROM rollup_invalidations") == [
        {"since": _T0 + 2 * HOUR, "times": 5}
    ]
    assert await bench.steps() == steps
    await bench.assert_equal()


async def test_run__until_cancelled__builds_when_an_hour_is_over(bench: Bench) -> None:
    running = asyncio.create_task(bench.builder(rollup_s=0.05).run())
    bench.watermark = _T0 + 6 * HOUR
    async with asyncio.timeout(20):
        while not (steps := await bench.steps()) or steps[-1].until < _T0 + 5 * HOUR:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    await bench.assert_equal()


async def _build_a_day(bench: Bench, builder: RollupBuilder) -> None:
    await bench.build(builder, _T0 + DAY)
    await bench.build(builder, _T0 + DAY + _SOON)


async def _stored_steps(clickhouse: ClickHouse) -> set[int]:
    rows = await clickhouse.rows("SELECT step FROM rollups UNION DISTINCT SELECT step FROM rollup_units")
    return {row["step"] for row in rows}
