"""Answers with rollups equal those from raw rows, whenever rollups were built and whatever came late."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import clickhouse_connect
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import make_url

from app.core.clickhouse import ClickHouse
from app.core.metrics import Metrics
from app.core.settings import ClickHouseSettings, PipelineSettings
from app.experiments.population import ContextValue, Population
from app.experiments.values import Experiment
from app.pipeline.rollups import RollupBuilder, invalidate_rollups
from app.results.answer import Results
from app.results.cold import ColdStore
from app.results.hot import HotStore
from app.results.rollup_use import RollupReason, RollupUse, obstacle
from app.results.values import Granularity, Metric, Question, Source, SourceChoice, Subject
from app.rollups.repository import RollupRepository
from app.rollups.steps import Step, steps_below
from tests.integration.results.services import Bench, running_service
from tests.integration.results.world import FAR, Assigned, Happened, History, Overridden, World
from tests.pipeline import clickhouse_http

_START = datetime(2026, 3, 1, tzinfo=UTC)
_MOST_SLOTS = 20_001
_HISTORY = ("exposures", "overrides", "events", "experiments")
_OF_USERS = ("exposures", "overrides", "events", "rollup_units")
_ROLLUPS = ("rollups", "rollup_units", "rollup_manifests", "rollup_invalidations")

# Few moments on three days, so that rows fall on hours' and days' bounds and on each other.
_hours = st.sampled_from([0, 1, 2, 3, 22, 23, 24, 25, 26, 47, 48, 49])
_moments = st.builds(
    lambda hours, us: _START + timedelta(hours=hours, microseconds=us), _hours, st.sampled_from([-1, 0, 0, 1])
)
_early = st.builds(lambda hours: _START + timedelta(hours=hours), st.sampled_from([0, 1, 2]))
_late = st.builds(lambda hours: _START + timedelta(hours=hours), st.sampled_from([26, 47, 48, 49]))
_bounds = st.builds(lambda hours: _START + timedelta(hours=hours), _hours)
_users = st.sampled_from(["a", "b", "c", "é ü"])
# No event is accepted that lies further ahead of its ingestion.
_AHEAD = timedelta(hours=2)
_seldom = st.sampled_from([False, False, False, True])


def _mostly(usual: st.SearchStrategy[Any], seldom: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual, usual, usual, seldom]).flatmap(lambda chosen: chosen)


_histories = st.builds(
    History,
    st.lists(
        st.builds(
            Assigned,
            _users,
            st.integers(0, 2),
            _mostly(_early, _moments),
            _mostly(_early, _moments),
            st.sampled_from([None, {"country": "DE"}, {"country": "FR"}]),
        ),
        min_size=3,
        max_size=4,
        unique_by=lambda row: row.user_id,
    ),
    st.lists(
        st.builds(Overridden, _users, st.integers(0, 2), _moments, _moments, _seldom),
        max_size=2,
        unique_by=lambda row: row.user_id,
    ),
    st.lists(
        st.builds(
            Happened,
            _users,
            st.sampled_from(["buy", "view"]),
            _moments,
            _moments,
            st.none() | st.integers(-100, 100).map(float),
            st.sampled_from(["none", "none", "this", "another"]),
            _seldom,
            st.uuids(version=4),
            st.sampled_from([None, None, None, {"variant": "control"}, {"variant": "treatment_1"}]),
        ).map(lambda row: replace(row, ts=min(row.ts, row.ingested_at + _AHEAD))),
        min_size=5,
        max_size=30,
        unique_by=lambda row: row.event_id,
    ),
)
# Any event may name a variant, so that some users are in two.
_populations = st.builds(
    Population,
    exposure_event_type=st.sampled_from(["exposure", "view", "view"]),
    exclude_users=_mostly(st.just(()), st.just(("a", "nobody"))),
    exclude_context=_mostly(st.just(()), st.just((ContextValue("country", "DE"),))),
)
_questions = st.builds(
    Question,
    event_types=st.sampled_from([(), (), ("buy",)]),
    start=st.none() | _bounds,
    end=st.none() | _bounds,
    granularity=st.sampled_from([Granularity.DAY, Granularity.HOUR]),
    metrics=st.sampled_from([(Metric.CONVERSION_RATE, Metric.EVENT_COUNT), tuple(Metric)]),
    with_series=st.sampled_from([True, True, False]),
    breakdown=_mostly(st.none(), st.just("country")),
)


@dataclass
class Building:
    """A builder whose watermark and clock the test holds."""

    builder: RollupBuilder
    connection: asyncpg.Connection
    watermark: datetime | None = None

    async def build(self, watermark: datetime) -> None:
        self.watermark = watermark
        while await self.builder.build_next(self.connection):
            pass


@pytest.fixture
async def connection(world: World) -> AsyncIterator[asyncpg.Connection]:
    url = make_url(world.database.engine.url).set(drivername="postgresql")
    opened = await asyncpg.connect(url.render_as_string(hide_password=False))
    yield opened
    await opened.close()


def _building(world: World, connection: asyncpg.Connection, **sizes: int) -> Building:
    async def watermark() -> datetime | None:
        return building.watermark

    builder = RollupBuilder(
        world.database,
        world.clickhouse,
        PipelineSettings(),
        Metrics(),
        watermark,
        **sizes,  # type: ignore[arg-type]
    )
    building = Building(builder, connection)
    return building


MANY = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
ANY_STREAM = given(
    history=_histories,
    questions=st.lists(_questions, min_size=3, max_size=3),
    population=_populations,
    watermarks=st.builds(
        lambda some, last: sorted([*some, last]), st.lists(_moments, max_size=3), _mostly(_late, _moments)
    ),
    split=_moments,
    sizes=st.fixed_dictionaries(
        {"most_step_rows": st.sampled_from([1, 5, 1000]), "slice_rows": st.sampled_from([1, 3, 1000])}
    ),
    repaired=_seldom,
    data=st.data(),
)


@MANY
@ANY_STREAM
async def test_observations__rollups_built_at_any_moments__equal_raw_ones(
    world: World, connection: asyncpg.Connection, **stream: Any
) -> None:
    await build_and_compare(world, connection, **stream)


async def build_and_compare(
    world: World,
    connection: asyncpg.Connection,
    *,
    history: History,
    questions: list[Question],
    population: Population,
    watermarks: list[datetime],
    split: datetime,
    sizes: dict[str, int],
    repaired: bool,
    data: Any,
) -> None:
    """Bring a history to ClickHouse bit by bit, build rollups in between, and ask with them and without."""
    await _empty(world, _HISTORY + _ROLLUPS)
    experiment = replace(await world.experiment(["50", "30", "20"]), population=population)
    await world.store_hot(experiment, history)
    building = _building(world, connection, **sizes)
    await building.builder.take_over(connection)
    late = data.draw(st.sampled_from([*history.assignments, *history.events])) if repaired else None

    for watermark in watermarks:
        await _deliver(world, experiment, history, watermark, data, without=late)
        await building.build(watermark)
    await _deliver(world, experiment, history, FAR, data)
    if late is not None:
        await invalidate_rollups(world.clickhouse, late.ingested_at)
        if data.draw(st.booleans()):
            await building.build(watermarks[-1])

    steps = (await RollupRepository(world.clickhouse).get()).steps
    for question in questions:
        await _assert_equal(world, experiment, question, split, steps)


async def _assert_equal(
    world: World, experiment: Experiment, question: Question, split: datetime, steps: Sequence[Step]
) -> None:
    if question.start is not None and question.end is not None and question.end <= question.start:
        question = replace(question, end=None)
    subject, hot, cold = (
        Subject.of(experiment),
        HotStore(world.database),
        ColdStore(world.clickhouse),
    )
    expected, _ = await hot.observe(subject, question, most_slots=_MOST_SLOTS)
    below_split = steps_below(split, steps)
    assert obstacle(subject, question) is None

    by_cold = await cold.observe(subject, question, FAR, most_slots=_MOST_SLOTS, steps=steps)
    tail, _ = await hot.tail(subject, question, split)
    by_both = await cold.observe(subject, question, split, most_slots=_MOST_SLOTS, tail=tail, steps=below_split)

    assert by_cold == expected
    assert by_both == expected


async def _deliver(
    world: World, experiment: Experiment, history: History, watermark: datetime, data: Any, *, without: object = None
) -> None:
    """Bring all rows below a watermark, and again some that were there; overrides may come with any of them."""
    assignments = [row for row in history.assignments if row.ingested_at < watermark and row is not without]
    events = [row for row in history.events if row.ingested_at < watermark and row is not without]
    overrides = history.overrides if watermark == FAR or data.draw(st.booleans()) else ()
    await world.store_cold(experiment, History(assignments, overrides, events))


async def _empty(world: World, tables: Sequence[str]) -> None:
    for table in tables:
        # A Distributed table has no rows of its own.
        stored = f"{table}_local" if world.clickhouse.cluster and table in _OF_USERS else table
        await world.clickhouse.command(f"TRUNCATE TABLE {stored}")


async def test_build_and_observe__over_http__equals_raw(
    world: World, connection: asyncpg.Connection, engine_folder: Path
) -> None:
    await _empty(world, _HISTORY + _ROLLUPS)
    experiment = await world.experiment()
    users = [Assigned(name, index % 2, _START, _START) for index, name in enumerate(("anna", "bert", "d'ora\\"))]
    events = [
        Happened(user.user_id, "buy", _START + timedelta(hours=hour), _START + timedelta(hours=hour + 1), 2.0)
        for user in users
        for hour in range(30)
    ]
    await world.store(experiment, History(users, [Overridden("anna", 1, _START, _START)], events))

    def connect(**options: Any) -> Any:
        return clickhouse_connect.get_client(interface="chdb", path=str(engine_folder), tz_mode="aware", **options)

    with clickhouse_http.serving(connect) as port:
        server = await ClickHouse.connect_server(
            ClickHouseSettings(
                CLICKHOUSE_HOST="127.0.0.1",
                CLICKHOUSE_PORT=port,
                CLICKHOUSE_DATABASE=world.clickhouse.database,
                CLICKHOUSE_USER=clickhouse_http.USER,
                CLICKHOUSE_PASSWORD=SecretStr(clickhouse_http.PASSWORD),
            )
        )
        over_http = World(world.database, server)
        building = _building(over_http, connection)
        await building.builder.take_over(connection)
        for hours in (5, 25, 29):
            await building.build(_START + timedelta(hours=hours))
        steps = (await RollupRepository(server).get()).steps
        await _assert_equal(over_http, experiment, Question(), _START + timedelta(hours=30), steps)
        await server.close()

    assert len(steps) == 3


async def test_results__rollups_built__answer_says_so_and_equals_the_hot_one(
    world: World, connection: asyncpg.Connection
) -> None:
    await _empty(world, _HISTORY + _ROLLUPS)
    experiment = await world.experiment()
    users = [Assigned(f"user-{number}", number % 2, _START, _START) for number in range(20)]
    events = [
        Happened(user.user_id, "buy", _START, _START + timedelta(hours=hour), 1.0) for user in users for hour in (1, 9)
    ]
    await world.store(experiment, History(users, (), events))
    building = _building(world, connection)
    await building.builder.take_over(connection)
    await building.build(_START + timedelta(hours=5))
    bench = Bench(watermark=_START + timedelta(hours=8))

    async with running_service(world, bench, clickhouse=world.clickhouse) as service:

        async def ask(**question: Any) -> Results:
            return await service.results(experiment.project_id, experiment.key, Question(fresh=True, **question))

        hot = await ask(source=SourceChoice.HOT)
        both = await ask()
        finer = await ask(granularity=Granularity.REALTIME)
        bench.watermark = _START + timedelta(hours=1)
        early = await ask()

    assert (both.variants, both.comparisons, both.summary) == (hot.variants, hot.comparisons, hot.summary)
    assert both.metadata.source is Source.BOTH
    assert both.metadata.rollups == RollupUse(used=True, until=_START + timedelta(hours=4), reason=RollupReason.USED)
    assert hot.metadata.rollups.reason is RollupReason.NOT_FROM_HISTORY
    assert finer.metadata.rollups == RollupUse(used=False, until=None, reason=RollupReason.FINER_THAN_HOURS)
    # Rows of that hour are not proven to be there.
    assert early.metadata.rollups.until == _START
    assert early.variants == hot.variants
