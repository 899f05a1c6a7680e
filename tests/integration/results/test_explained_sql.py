"""The SQL that explains a number, pasted into both servers as it is: it gives the numbers that results give."""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import msgspec
import pytest
import structlog
from sqlalchemy import delete, insert, update

from app.core.changes import Changes
from app.core.clickhouse import ClickHouse, ClickHouseRefused
from app.core.db import Database, StoreUnavailable
from app.events.models import dropped_duplicates
from app.experiments.models import experiments
from app.experiments.population import ContextValue, ExposureRule, Population
from app.experiments.registry import ExperimentRegistry
from app.experiments.repository import population_column
from app.experiments.values import Experiment
from app.explain.service import ExplainService
from app.explain.statements import in_clickhouse, in_postgres
from app.explain.values import Explanation, Part
from app.measurement.plan import compiled
from app.measurement.stores import measure_hot
from app.measurement.values import Exposed
from app.metrics.repository import MetricRepository
from app.metrics.values import Direction, Kind, MetricSpec, Operator, PropertyFilter, Recipe, Selection, ValueSource
from app.pipeline.models import dropped_partitions
from app.results.answer import Results
from app.results.chosen import chosen, names_of, to_look_up
from app.results.exposed_hot import exposed_in_postgres
from app.results.hot import HotStore
from app.results.measuring import asked_of
from app.results.service import ResultsService
from app.results.values import CohortWidth, ContextFilter, Granularity, Metric, Question, SourceChoice, Subject, Wanted
from tests.integration.results.pasted_answers import answer_of, from_psql, paste
from tests.integration.results.services import Bench, BrokenClickHouse, running_service
from tests.integration.results.world import FAR, Assigned, Happened, History, Overridden, World
from tests.psql import pasted

_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_NASTY = "O'Brien \\' -- {x:String} :x %(y)s"
_HOUR = timedelta(hours=1)
Row = Mapping[str, Any]


@pytest.fixture(scope="module")
async def experiment(world: World) -> Experiment:
    """Sixty users of two countries, one of them with a name full of quotes, who buy, view and pay by card."""
    made = await world.experiment()
    countries = ("DE", _NASTY)
    assignments = [
        Assigned(f"user'{number}", number % 2, _T0 + number * _HOUR, _T0, context)
        for number in range(60)
        # More sizes than a page shows, and one user without one.
        for context in [{"country": countries[number % 3 == 0], **({"size": number / 2} if number != 10 else {})}]
    ]
    events = [
        Happened(
            f"user'{number}",
            event_type,
            _T0 + (number + hours) * _HOUR,
            _T0 + timedelta(days=9),
            value=number * 0.1 - 1,
            properties={"card": _NASTY if number % 4 else "none", "seconds": number / 3},
        )
        for number in range(50)
        for event_type, hours in (("buy", 5), (_NASTY, 30), ("buy", 60), ("buy", -3))
    ]
    await world.store(made, History(assignments, (), events))
    return made


@pytest.fixture(scope="module")
def url(server_url: str, world: World) -> str:
    return server_url.rpartition("/")[0] + f"/{world.database.engine.url.database}"


_ALL = tuple(Metric)
_EVERYTHING = Question(metrics=_ALL)
_QUESTIONS = {
    "everything": (_EVERYTHING, Population()),
    "range and types": (
        replace(_EVERYTHING, start=_T0 + 7 * _HOUR, end=_T0 + 50 * _HOUR, event_types=("buy", _NASTY)),
        Population(),
    ),
    "a nasty context": (replace(_EVERYTHING, context=(ContextFilter("country", _NASTY),)), Population()),
    "overrides": (replace(_EVERYTHING, include_overrides=True), Population()),
    "somebody left out": (
        _EVERYTHING,
        Population(exclude_users=("user'3", _NASTY), exclude_context=(ContextValue("country", _NASTY),)),
    ),
    "exposed by events": (_EVERYTHING, Population(exposure=ExposureRule.EVENT, exposure_event_type=_NASTY)),
}


def _numbers(rows: Sequence[Row]) -> dict[int, dict[str, Fraction]]:
    """Read the numbers as the notes say that they are to be read."""
    found: dict[int, dict[str, Fraction]] = defaultdict(lambda: defaultdict(Fraction))
    for row in rows:
        arm = found[int(row["variant_id"])]
        if row["kind"] == "entry":
            arm["exposed"] += int(row["users"])
        if row["kind"] == "arm":
            unit = Fraction(2) ** -int(row["exponent"])
            arm["users"] = Fraction(int(row["users"]))
            arm["events"] = Fraction(int(row["events"]))
            arm["valued"] = Fraction(int(row["valued"]))
            arm["total"] = int(row["total"]) * unit
            arm["total_squares"] = int(row["total_squares"]) * unit * unit
    return {variant: dict(numbers) for variant, numbers in found.items()}


@pytest.mark.parametrize("asked", _QUESTIONS, ids=lambda asked: asked.replace(" ", "-"))
async def test_explained__built_in_metrics_pasted__give_what_results_observe(
    world: World, experiment: Experiment, url: str, asked: str
) -> None:
    question, population = _QUESTIONS[asked]
    subject = replace(Subject.of(experiment), population=population)

    hot = _numbers(pasted(url, in_postgres(subject, question).queries[0].sql))
    cold = _numbers(await world.clickhouse.rows(in_clickhouse(subject, question, FAR).sql.strip("\n;")))

    assert hot == cold
    seen, *_ = await HotStore(world.database).observe(subject, question, most_slots=10_000)
    assert hot
    for variant, found in hot.items():
        arm = seen.of(variant)
        assert found.get("exposed", 0) == arm.exposed
        assert (found.get("users", 0), found.get("events", 0)) == (arm.converters, arm.events)
        assert (found.get("total", 0), found.get("total_squares", 0)) == (arm.sums.totals, arm.sums.total_squares)
        assert found.get("valued", 0) == arm.sums.counts


_BUY = Selection(("buy",))
_RECIPES = {
    "buyers": Recipe(kind=Kind.CONVERSION, selections=(_BUY,), window_s=86_400),
    "revenue": Recipe(kind=Kind.SUM, selections=(_BUY,), winsorize=0.9, covariate_days=3),
    "by_card": Recipe(
        kind=Kind.SUM,
        selections=(
            Selection(
                (),
                filters=(PropertyFilter("card", Operator.EQ, _NASTY), PropertyFilter("seconds", Operator.GTE, -0.5)),
                source=ValueSource.PROPERTY,
                property="seconds",
            ),
        ),
    ),
    "per_event": Recipe(kind=Kind.MEAN, selections=(Selection((_NASTY, "buy")),)),
    "funnel": Recipe(kind=Kind.FUNNEL, selections=(_BUY, Selection((_NASTY,)))),
    "second_week": Recipe(kind=Kind.RETENTION, selections=(_BUY,), first_day=1, last_day=3),
    "speed": Recipe(kind=Kind.TIME_TO_FIRST, selections=(_BUY,), cap=7200.5),
    "median": Recipe(kind=Kind.QUANTILE, selections=(_BUY,), quantile=0.5),
}


async def test_explained__stored_metrics_of_every_kind_pasted__give_what_is_measured(
    world: World, experiment: Experiment, url: str
) -> None:
    subject, question = Subject.of(experiment), Question(metrics=(), start=_T0, end=_T0 + 70 * _HOUR)
    asked = asked_of(subject, question)
    plan, wanted = compiled(_RECIPES), Wanted(recipes=_RECIPES)

    own = await paste(in_postgres(subject, question, wanted), lambda sql: from_psql(url, sql), is_hot=True)
    hot = own.seen_by(plan, asked, by_segment=False)
    statement = in_clickhouse(subject, question, FAR, wanted)
    own = await paste(statement, lambda sql: world.clickhouse.rows(sql.strip("\n;")), is_hot=False)
    cold = own.seen_by(plan, asked, by_segment=False)

    assert hot == cold
    async with world.database.read() as connection:
        by_service = await measure_hot(connection, _RECIPES, asked, Exposed(*exposed_in_postgres(subject, question)))
    for key in _RECIPES:
        for variant in experiment.variants:
            one, other = hot.of(key, variant.id), by_service.of(key, variant.id)
            assert (one.sums, one.events, one.reached) == (other.sums, other.events, other.reached), key
            assert (one.quantile is None) == (other.quantile is None)
            if one.quantile is not None and other.quantile is not None:
                assert one.quantile.value == other.quantile.value


def test_explained__both_kinds_of_metrics__are_two_queries_with_their_names_above(experiment: Experiment) -> None:
    subject, wanted = Subject.of(experiment), Wanted(recipes={"buyers": _RECIPES["buyers"]})
    question = Question(metrics=_ALL[:2])

    hot, cold = in_postgres(subject, question, wanted), in_clickhouse(subject, question, FAR, wanted)

    for statement in (hot, cold):
        assert statement.sql.count("-- observed: conversion_rate, unique_users\n") == 1
        assert statement.sql.count("-- measured: buyers\n") == 1
        assert statement.sql.rstrip().endswith(";")
        assert [(query.part, query.metrics) for query in statement.queries][:2] == [
            (Part.OBSERVED, ("conversion_rate", "unique_users")),
            (Part.MEASURED, ("buyers",)),
        ]
    assert hot.settings["TimeZone"] == "UTC"
    assert cold.settings["prefer_column_name_to_alias"] == "1"


_STORED = (*_RECIPES, "p90")
# What the whole answer is compared for, pasted and as results give it.
_WHOLE: dict[str, Question] = {
    "series, covariates and bounds": Question(metrics=_STORED),
    "built-in metrics by day with covariates": Question(metrics=_ALL, cuped_days=3, effect_over_time=True),
    "segments of all kinds": Question(metrics=(*_STORED, *_ALL), cuped_days=3, breakdown="country"),
    "range, types and a confidence level": Question(
        metrics=("revenue", "median", "value_per_user"),
        start=_T0 + 7 * _HOUR,
        end=_T0 + 50 * _HOUR,
        event_types=("buy", _NASTY),
        cuped_days=2,
        confidence_level=80,
        breakdown="size",
    ),
    "a nasty context, with overrides": Question(
        metrics=("revenue", "funnel", "median"),
        context=(ContextFilter("country", _NASTY),),
        include_overrides=True,
        granularity=Granularity.HOUR,
    ),
    "cohorts of all kinds": Question(metrics=(*_STORED, *_ALL), cuped_days=3, cohorts=CohortWidth.DAY),
    "cohorts of weeks, with overrides": Question(
        metrics=("revenue", "median", "value_per_user"),
        end=_T0 + 50 * _HOUR,
        include_overrides=True,
        cohorts=CohortWidth.WEEK,
    ),
    "counts alone": Question(),
}


@pytest.fixture(scope="module")
async def planned(world: World, experiment: Experiment) -> Experiment:
    """The same experiment, whose project has the metrics, with an override and somebody in two variants."""
    recipes = {**_RECIPES, "p90": Recipe(kind=Kind.QUANTILE, selections=(_BUY,), quantile=0.9)}
    async with world.database.begin() as connection:
        for key, recipe in recipes.items():
            spec = MetricSpec(key=key, name=key, description=None, recipe=recipe, direction=Direction.UP, unit=None)
            await MetricRepository(connection).insert(experiment.project_id, spec, 1)
    forced = [Overridden("user'7", 0, _T0 + 3 * _HOUR, _T0 + _HOUR)]
    strayed = Happened(
        "user'8",
        "exposure",
        _T0 + 30 * _HOUR,
        _T0 + timedelta(days=9),
        names="this",
        properties={"variant": "treatment_1"},
    )
    await world.store(experiment, History((), forced, [strayed]))
    async with world.database.begin() as connection:
        row = {"project_id": experiment.project_id, "event_type": "buy", "bucket": _T0 + 8 * _HOUR, "events": 17}
        await connection.execute(insert(dropped_duplicates), {**row, "dropped_at": _T0})
    return experiment


@dataclass
class _Bench:
    """The two services; `made` makes an explaining one whose stores are others."""

    results: ResultsService
    explain: ExplainService
    made: Callable[[Database, ClickHouse], ExplainService]


@pytest.fixture
async def services(world: World) -> AsyncIterator[_Bench]:
    bench = Bench(watermark=_WATERMARK)
    changes = Changes(world.database)
    registry = ExperimentRegistry(world.database, changes)
    await changes.start()

    def made(database: Database, clickhouse: ClickHouse) -> ExplainService:
        return ExplainService(
            database=database, clickhouse=clickhouse, registry=registry, watermark=bench.read_watermark
        )

    async with running_service(world, bench, clickhouse=world.clickhouse) as results:
        yield _Bench(results, made(world.database, world.clickhouse), made)
    await changes.stop()


_WATERMARK = _T0 + timedelta(days=20)


async def _compare(world: World, experiment: Experiment, url: str, services: _Bench, question: Question) -> Results:
    """Paste every query of one store, put an answer together, compare it with the one of results, and return that."""
    results = await services.results.results(experiment.project_id, experiment.key, question)
    explained = await services.explain.explain(experiment.project_id, experiment.key, question)

    is_hot = question.source is SourceChoice.HOT
    statement, other = explained.postgresql, explained.clickhouse
    if not is_hot:
        statement, other = other, statement
    assert statement is not None
    assert other is None

    async def one(sql: str) -> Sequence[Row]:
        return await from_psql(url, sql) if is_hot else await world.clickhouse.rows(sql.strip("\n;"))

    names = names_of(experiment, question.metrics)
    async with world.database.read() as connection:
        found = await MetricRepository(connection).latest_by_key(experiment.project_id, to_look_up(experiment, names))
    metrics = chosen(experiment, names, found, question.metrics)
    rows = await paste(statement, one, is_hot=is_hot)
    until = results.metadata.complete_until if is_hot else _WATERMARK
    own = answer_of(experiment, replace(question, metrics=names), metrics, rows, results, until)

    assert results.metadata.total_users > 0
    assert (own.variants, own.comparisons, own.srm) == (results.variants, results.comparisons, results.srm)
    assert (own.breakdown, own.cohorts) == (results.breakdown, results.cohorts)
    assert own.effect_over_time == results.effect_over_time
    assert own.exposures_over_time == results.exposures_over_time
    assert own.summary == results.summary
    assert own.provenance.users_excluded == results.provenance.users_excluded
    assert own.provenance.events_counted == results.provenance.events_counted
    assert own.provenance.late_events == results.provenance.late_events
    for row in rows.of(Part.DUPLICATES):
        assert (row["dropped"], row["lacks"]) == (results.provenance.duplicates_dropped, False)
    assert len(rows.of(Part.DUPLICATES)) == is_hot
    return results


@pytest.mark.parametrize("source", [SourceChoice.HOT, SourceChoice.COLD])
@pytest.mark.parametrize("asked", _WHOLE, ids=lambda asked: asked.replace(" ", "-").replace(",", ""))
async def test_explained__every_query_pasted__gives_the_whole_answer(
    world: World, planned: Experiment, url: str, services: _Bench, asked: str, source: SourceChoice
) -> None:
    question = replace(_WHOLE[asked], source=source, fresh=True)

    results = await _compare(world, planned, url, services, question)

    assert results.metadata.total_users > 0
    assert results.provenance.duplicates_dropped == 17


@pytest.mark.parametrize("source", [SourceChoice.HOT, SourceChoice.COLD])
async def test_explained__absurd_values_under_limits__have_queries_in_the_units_that_results_use(
    world: World, url: str, services: _Bench, source: SourceChoice
) -> None:
    experiment = await world.experiment()
    users = [
        Assigned(f"user-{number}", number % 2, _T0, _T0, {"country": ("DE", "SE")[number % 3 == 0]})
        for number in range(24)
    ]
    events = [
        Happened(user.user_id, "buy", _T0 + hours * _HOUR, _T0 + hours * _HOUR, 0.1 * number + hours)
        for number, user in enumerate(users)
        for hours in (-5, 3, 30)
    ]
    absurd = [Happened(f"user-{number}", "buy", _T0 + _HOUR, _T0 + _HOUR, 1e21) for number in (4, 9)]
    await world.store(experiment, History(users, (), [*events, *absurd]))
    recipes = {
        "bought": Recipe(kind=Kind.COUNT, selections=(_BUY,)),
        "capped": Recipe(kind=Kind.SUM, selections=(_BUY,), cap=40.5, covariate_days=1),
        "cut": Recipe(kind=Kind.MEAN, selections=(_BUY,), winsorize=0.75),
    }
    await _add_metrics(world, experiment, recipes)
    question = Question(metrics=tuple(recipes), breakdown="country", source=source)

    results = await _compare(world, experiment, url, services, question)

    assert all(variant.metrics["capped"].value is not None for variant in results.variants)
    explained = await services.explain.explain(experiment.project_id, experiment.key, question)
    statement = explained.postgresql if source is SourceChoice.HOT else explained.clickhouse
    assert statement is not None
    assert [query.metrics for query in statement.queries if query.part is Part.MEASURED] == [
        ("bought",),
        ("capped", "cut"),
    ] * 2
    assert any("in finer units" in note and ": capped, cut." in note for note in explained.notes)


async def _add_metrics(world: World, experiment: Experiment, recipes: Mapping[str, Recipe]) -> None:
    async with world.database.begin() as connection:
        for key, recipe in recipes.items():
            spec = MetricSpec(key=key, name=key, description=None, recipe=recipe, direction=Direction.UP, unit=None)
            await MetricRepository(connection).insert(experiment.project_id, spec, 1)


@pytest.mark.parametrize("source", [SourceChoice.HOT, SourceChoice.COLD])
async def test_explained__absurd_values_without_limits__have_queries_of_the_variants_that_they_hide(
    world: World, url: str, services: _Bench, source: SourceChoice
) -> None:
    experiment = await world.experiment(["40", "30", "30"])
    users = [
        Assigned(f"user-{number}", number % 3, _T0, _T0, {"country": ("DE", "SE")[number % 4 == 0]})
        for number in range(36)
    ]
    events = [
        Happened(user.user_id, kind, _T0 + hours * _HOUR, _T0 + hours * _HOUR, 0.1 * number + hours)
        for number, user in enumerate(users)
        for kind, hours in (("buy", -5), ("buy", 3), ("view", 8), ("buy", 30))
    ]
    # In the second variant an absurd price, in the third a smaller one, which is taken back but in one country.
    odd = [("user-1", 3e38), ("user-2", 1e21), ("user-2", -1e21), ("user-8", 1e21)]
    absurd = [Happened(user, "buy", _T0 + 2 * _HOUR, _T0 + 2 * _HOUR, value) for user, value in odd]
    await world.store(experiment, History(users, (), [*events, *absurd]))
    recipes = {
        "bought": Recipe(kind=Kind.COUNT, selections=(_BUY,)),
        "revenue": Recipe(kind=Kind.SUM, selections=(_BUY,), covariate_days=1),
        "viewed_per_bought": Recipe(kind=Kind.RATIO, selections=(Selection(("view",)),), denominator=_BUY),
    }
    await _add_metrics(world, experiment, recipes)
    question = Question(metrics=tuple(recipes), breakdown="country", source=source)

    results = await _compare(world, experiment, url, services, question)

    values = {variant.key: variant.metrics["revenue"].value for variant in results.variants}
    assert [value is not None and value < 1e6 for value in values.values()] == [True, False, False]
    assert results.breakdown is not None
    smallest = [variant.metrics["revenue"].value for part in results.breakdown.segments for variant in part.variants]
    assert sum(value is not None and value < 1e6 for value in smallest) == 4
    explained = await services.explain.explain(experiment.project_id, experiment.key, question)
    statement = explained.postgresql if source is SourceChoice.HOT else explained.clickhouse
    assert statement is not None
    whole = [query for query in statement.queries if query.part is Part.MEASURED and not query.by_segment]
    assert [query.metrics for query in whole] == [tuple(recipes), *[("revenue", "viewed_per_bought")] * 2]
    first, _, third = (variant.id for variant in experiment.variants)
    assert f"of variant_id {first}, {third} alone" in whole[1].sql
    assert f"of variant_id {first} alone" in whole[2].sql
    assert any("some variants alone: revenue, viewed_per_bought." in note for note in explained.notes)


@pytest.fixture
async def by_events(world: World, planned: Experiment) -> AsyncIterator[Experiment]:
    """The same experiment with another population, until the test ends; to be asked for before the services."""
    population = Population(
        exposure=ExposureRule.EVENT,
        exposure_event_type=_NASTY,
        exclude_users=("user'3", _NASTY),
        exclude_context=(ContextValue("size", "2.5"),),
    )
    await _set_population(world, planned, population)
    yield replace(planned, population=population)
    await _set_population(world, planned, Population())


@pytest.mark.parametrize("source", [SourceChoice.HOT, SourceChoice.COLD])
async def test_explained__population_exposed_by_events__is_the_same_in_every_query(
    world: World, by_events: Experiment, url: str, services: _Bench, source: SourceChoice
) -> None:
    question = replace(_WHOLE["segments of all kinds"], source=source, fresh=True)

    results = await _compare(world, by_events, url, services, question)

    excluded = results.provenance.users_excluded
    assert (excluded["EXCLUDED_USER"], excluded["EXCLUDED_CONTEXT"]) == (1, 1)
    assert 0 < results.metadata.total_users < 50


async def _set_population(world: World, experiment: Experiment, population: Population) -> None:
    async with world.database.begin() as connection:
        await connection.execute(
            update(experiments)
            .where(experiments.c.id == experiment.id)
            .values(population=population_column(population))
        )


async def test_explained__everything_asked__has_a_query_for_each_part_and_says_how_it_is_read(
    planned: Experiment, services: _Bench, url: str
) -> None:
    question = _WHOLE["segments of all kinds"]
    explained = await services.explain.explain(planned.project_id, planned.key, question)
    assert explained.postgresql is not None
    # All queries in one text can be pasted as well.
    assert len(pasted(url, explained.postgresql.sql)) > 100

    for statement in (explained.postgresql, explained.clickhouse):
        assert statement is not None
        parts = (Part.OBSERVED, Part.MEASURED, Part.BOUNDS)
        assert [(query.part, query.by_segment) for query in statement.queries] == [
            *((part, by_segment) for by_segment in (False, True) for part in parts),
            *([(Part.DUPLICATES, False)] if statement is explained.postgresql else []),
        ]
        assert all(f"-- {part}, by segment: " in statement.sql for part in parts)
        of_bounds = {query.metrics for query in statement.queries if query.part is Part.BOUNDS}
        assert of_bounds == {("median", "p90")}
    said = "\n".join(explained.notes)
    for phrase in ("is a cell", "2026-03-01 in PostgreSQL", "2026-03-01 in ClickHouse", "`m<number>_z`", "at 95 %"):
        assert phrase in said


async def test_explained__history_given_up__says_so_and_leaves_out_what_results_leave_out(
    world: World, planned: Experiment, services: _Bench
) -> None:
    question = Question(metrics=("revenue",))

    async def explained(before: datetime) -> Explanation:
        await world.clickhouse.command("TRUNCATE TABLE dropped_history")
        row = {"ingested_before": before, "decided_at": before}
        await world.clickhouse.insert_json("dropped_history", [msgspec.json.encode(row)])
        try:
            return await services.explain.explain(planned.project_id, planned.key, question)
        finally:
            await world.clickhouse.command("TRUNCATE TABLE dropped_history")

    # The exposures begin at T0, covariates three days and an arrival of a day before it.
    some, none = await explained(_T0 - timedelta(days=2)), await explained(_T0 + timedelta(days=2))

    assert some.clickhouse is not None
    assert "m0_z" not in some.clickhouse.sql
    assert "ClickHouse has given up events from before the exposures" in "\n".join(some.notes)
    assert some.postgresql is not None
    assert "'covariate'" in some.postgresql.sql
    assert none.clickhouse is None
    assert "There is no SQL for ClickHouse: it has given up events that count." in none.notes


async def test_explained__partitions_dropped__says_so_and_leaves_out_what_results_leave_out(
    world: World, planned: Experiment, services: _Bench
) -> None:
    async def explained(before: datetime) -> Explanation:
        async with world.database.begin() as connection:
            row = {"name": "events_p20260301", "upper_bound": before, "row_count": 1}
            await connection.execute(insert(dropped_partitions), row)
        try:
            return await services.explain.explain(planned.project_id, planned.key, Question(metrics=("revenue",)))
        finally:
            async with world.database.begin() as connection:
                await connection.execute(delete(dropped_partitions))

    some, none = await explained(_T0 - timedelta(days=2)), await explained(_T0 + timedelta(days=2))

    assert some.postgresql is not None
    assert "'covariate'" not in some.postgresql.sql
    assert "PostgreSQL has given up events from before the exposures" in "\n".join(some.notes)
    assert none.postgresql is None
    assert "There is no SQL for PostgreSQL: it has given up events that count." in none.notes


async def test_explained__store_away__gives_the_other_ones_sql(
    world: World, planned: Experiment, services: _Bench
) -> None:
    nobody = Database.connect("postgresql+asyncpg://nobody@127.0.0.1:1/none", pool_size=1)
    question = Question(metrics=("conversion_rate",), effect_over_time=True)
    without_store = services.made(nobody, world.clickhouse)
    without_history = services.made(world.database, BrokenClickHouse())

    cold = await without_store.explain(planned.project_id, planned.key, question)
    hot = await without_history.explain(planned.project_id, planned.key, question)

    assert (cold.postgresql, hot.clickhouse) == (None, None)
    assert cold.clickhouse is not None
    assert hot.postgresql is not None
    assert "There is no SQL for PostgreSQL now: it does not answer." in cold.notes
    assert "There is no SQL for ClickHouse now: it does not answer." in hot.notes
    with pytest.raises(StoreUnavailable):
        await without_store.explain(planned.project_id, planned.key, replace(question, source=SourceChoice.HOT))
    await nobody.close()


class _RefusingClickHouse(BrokenClickHouse):
    """A ClickHouse to which every query is wrong."""

    async def rows(self, *_args: Any, **_options: Any) -> list[dict[str, Any]]:
        raise ClickHouseRefused("Unknown identifier", code=47)


async def test_explained__clickhouse_refusing__is_logged_as_a_fault_and_not_called_away(
    world: World, planned: Experiment, services: _Bench
) -> None:
    refused = services.made(world.database, _RefusingClickHouse())

    with structlog.testing.capture_logs() as logs:
        found = await refused.explain(planned.project_id, planned.key, Question(metrics=("conversion_rate",)))

    assert found.clickhouse is None
    assert found.postgresql is not None
    (note,) = [note for note in found.notes if "no SQL for ClickHouse" in note]
    assert "it refused a query" in note
    assert [(log["log_level"], log["code"]) for log in logs if log["event"] == "explain.history_refused"] == [
        ("error", 47)
    ]
