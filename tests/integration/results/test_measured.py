"""Stored metrics in the results service: split at a watermark, with a store away, and with old events given up."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import msgspec
import pytest

from app.core.db import Database, StoreUnavailable
from app.experiments.values import Experiment
from app.metrics.repository import MetricRepository
from app.metrics.values import Direction, Kind, MetricSpec, Recipe, Selection, ValueSource
from app.results.answer import Results
from app.results.comparison_values import ComparisonResult
from app.results.service import ResultsService
from app.results.values import Question, Source, SourceChoice
from app.results.variant_values import VariantResult
from tests.integration.results.services import Bench, BrokenClickHouse, running_service
from tests.integration.results.world import FAR, Assigned, Happened, History, World

_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)
_BUY = (Selection(("buy",)),)
_RECIPES = {
    "spend": Recipe(kind=Kind.SUM, selections=_BUY, covariate_days=7),
    "bought": Recipe(kind=Kind.CONVERSION, selections=_BUY),
    "median": Recipe(kind=Kind.QUANTILE, selections=_BUY, quantile=0.5),
}


@pytest.fixture
def bench() -> Bench:
    return Bench(watermark=FAR)


@pytest.fixture
async def service(world: World, bench: Bench) -> AsyncIterator[ResultsService]:
    async with running_service(world, bench, clickhouse=world.clickhouse) as running:
        yield running


async def _with_metrics(world: World, experiment: Experiment, recipes: dict[str, Recipe]) -> None:
    async with world.database.begin() as connection:
        for key, recipe in recipes.items():
            spec = MetricSpec(key=key, name=key, description=None, recipe=recipe, direction=Direction.UP, unit=None)
            await MetricRepository(connection).insert(experiment.project_id, spec, 1)


def _history() -> History:
    """Return users who spend before and after; half of what they send arrives late, and before the exposures, too."""
    users = [
        Assigned(f"user-{number}", number % 2, _T0 + number % 5 * _DAY, _T0 + number % 5 * _DAY, {"country": "DE"})
        for number in range(60)
    ]
    events = []
    for number, user in enumerate(users):
        for at, value in ((-_DAY, number % 7), (_DAY, number % 7 + number % 2), (3 * _DAY, number % 3)):
            arrived = user.at + at + (9 * _DAY if number % 4 == 0 else timedelta(0))
            events.append(Happened(user.user_id, "buy", user.at + at, arrived, float(value)))
    return History(users, (), events)


@pytest.fixture
async def some(world: World) -> Experiment:
    experiment = await world.experiment()
    await _with_metrics(world, experiment, _RECIPES)
    await world.store(experiment, _history())
    return experiment


async def _ask(service: ResultsService, experiment: Experiment, *metrics: str, **question: Any) -> Results:
    asked = Question(metrics=metrics or tuple(_RECIPES), **question)
    return await service.results(experiment.project_id, experiment.key, asked)


def _compared(results: Results, metric: str) -> ComparisonResult:
    return next(found for found in results.comparisons if found.metric == metric)


@pytest.mark.parametrize("hours", [0, 30, 100, 150, 10_000])
async def test_results__split_at_a_watermark__are_those_of_postgresql_alone(
    service: ResultsService, bench: Bench, some: Experiment, hours: int
) -> None:
    bench.watermark = _T0 + hours * _HOUR
    metrics = (*_RECIPES, "value_per_user", "p95_value")
    question: dict[str, Any] = {"cuped_days": 3, "breakdown": "country"}

    both = await _ask(service, some, *metrics, **question)
    alone = await _ask(service, some, *metrics, source=SourceChoice.HOT, **question)

    assert (both.metadata.source, alone.metadata.source) == (Source.BOTH, Source.HOT)
    assert (both.variants, both.comparisons) == (alone.variants, alone.comparisons)
    assert (both.effect_over_time, both.breakdown) == (alone.effect_over_time, alone.breakdown)
    ratio = _compared(both, "spend").cuped.variance_reduction_percent
    assert ratio is not None
    assert ratio > 0
    assert [len(series.points) for series in both.effect_over_time if series.metric == "spend"] == [8]


async def test_results__range_of_time__filters_events_and_not_covariates(
    service: ResultsService, some: Experiment
) -> None:
    dates = {"start": _T0 + 2 * _DAY, "end": _T0 + 6 * _DAY}
    answers = [await _ask(service, some, source=source, **dates) for source in (SourceChoice.HOT, SourceChoice.COLD)]

    assert answers[0].comparisons == answers[1].comparisons
    assert answers[0].effect_over_time == answers[1].effect_over_time
    assert _compared(answers[0], "spend").cuped.theta not in {None, 0.0}
    # A series begins with the range: who entered before is as good as entered then.
    assert answers[0].effect_over_time[0].points[0].time == _T0 + 2 * _DAY


def _one_day_after_the_other() -> History:
    """Return users who buy daily: of the control from the first day on, of the treatment from the second.

    On the fourth day one of the treatment sends a value far beyond all others.
    """
    users, events = [], []
    for number in range(40):
        first = _T0 + number % 2 * _DAY
        users.append(Assigned(f"user-{number}", number % 2, first, first))
        for day in range(4):
            at = first + day * _DAY + _HOUR
            if number % 3 and at < _T0 + 4 * _DAY:
                value = 1e21 if (number, at.day) == (1, 4) else 5.0 + number + day
                events.append(Happened(f"user-{number}", "buy", at, at, value))
    return History(users, (), events)


@pytest.mark.parametrize("source", [SourceChoice.HOT, SourceChoice.COLD, SourceChoice.AUTO])
async def test_results__day_without_a_number__has_its_reason_in_every_store(
    world: World, service: ResultsService, bench: Bench, source: SourceChoice
) -> None:
    experiment = await world.experiment()
    await _with_metrics(world, experiment, _RECIPES)
    await world.store(experiment, _one_day_after_the_other())
    bench.watermark = FAR if source is SourceChoice.COLD else _T0 + 2 * _DAY

    results = await _ask(service, experiment, "spend", "bought", source=source)

    assert results.metadata.source is {"hot": Source.HOT, "cold": Source.COLD, "auto": Source.BOTH}[source.value]
    spend, bought = results.effect_over_time
    assert [(point.difference is None, point.null_reason) for point in spend.points] == [
        (True, "EMPTY_ARM"),
        (True, "PRECISION_LOST"),
        (True, "PRECISION_LOST"),
        (False, None),
    ]
    assert [point.null_reason for point in bought.points[:2]] == ["EMPTY_ARM", None]
    assert all(point.difference is not None for point in bought.points[1:])


async def test_results__clickhouse_away__are_measured_in_postgresql(
    world: World, bench: Bench, service: ResultsService, some: Experiment
) -> None:
    expected = await _ask(service, some)
    async with running_service(world, bench, clickhouse=BrokenClickHouse()) as without_history:
        found = await _ask(without_history, some, fresh=True)

    assert found.metadata.source is Source.HOT
    assert found.comparisons == expected.comparisons


async def test_results__postgresql_away__cannot_look_a_metric_up(world: World, bench: Bench, some: Experiment) -> None:
    nobody = Database.connect("postgresql+asyncpg://nobody@127.0.0.1:1/none", pool_size=1)
    async with running_service(world, bench, clickhouse=world.clickhouse, database=nobody) as without_store:
        with pytest.raises(StoreUnavailable):
            await _ask(without_store, some)
        # What needs no look-up comes from the history.
        assert (await _ask(without_store, some, "p95_value")).metadata.source is Source.COLD
    await nobody.close()


async def test_results__metric_changed__is_computed_anew(
    world: World, service: ResultsService, bench: Bench, some: Experiment
) -> None:
    first = await _ask(service, some, "bought")
    again = await _ask(service, some, "bought")
    assert again.provenance.answer_id == first.provenance.answer_id
    async with world.database.begin() as connection:
        repository = MetricRepository(connection)
        found = await repository.find(some.project_id, "bought")
        assert found is not None
        spec = MetricSpec(
            key="bought",
            name="bought",
            description=None,
            recipe=Recipe(kind=Kind.CONVERSION, selections=(Selection(("nothing",)),)),
            direction=Direction.UP,
            unit=None,
        )
        await repository.insert_version(found.metric.id, 2, spec, 2)

    after = await _ask(service, some, "bought")

    assert after.provenance.metric_versions == {"bought": 2}
    assert after.variants[0].metrics["bought"].value == 0
    assert after.provenance.query_hash != first.provenance.query_hash
    assert bench.cache.redis.kept


async def test_results__events_before_the_exposures_given_up__stand_without_the_adjustment(
    world: World, service: ResultsService, some: Experiment
) -> None:
    before = await _ask(service, some, source=SourceChoice.COLD)
    # An event may be ingested a day before its own time; so two days before the first exposure is what all others need.
    record = {"ingested_before": _T0 - 2 * _DAY, "decided_at": _T0}
    await world.clickhouse.insert_json("dropped_history", [msgspec.json.encode(record)])
    try:
        after = await _ask(service, some, source=SourceChoice.COLD, fresh=True)
        by_default = await _ask(service, some, fresh=True)
    finally:
        await world.clickhouse.command("TRUNCATE TABLE dropped_history")

    assert after.metadata.source is Source.COLD
    assert _compared(before, "spend").cuped.theta is not None
    assert _compared(after, "spend").cuped.null_reason == "NO_COVARIATE"
    assert _compared(after, "spend").p_value == _compared(before, "spend").p_value
    assert "given them up" in after.definitions[0].notes[0]
    # PostgreSQL still has them.
    assert by_default.metadata.source is Source.HOT
    assert _compared(by_default, "spend").cuped == _compared(before, "spend").cuped


_LIMITED = {
    "capped": Recipe(kind=Kind.SUM, selections=_BUY, cap=7.5, covariate_days=7),
    "cut": Recipe(kind=Kind.SUM, selections=_BUY, winsorize=0.9, covariate_days=7),
}


def _with_one_value(value: float) -> History:
    """Return users of two countries, with amounts that no binary fraction is, and one value before and one after."""
    history = _history()
    users = [
        replace(user, context={"country": ("DE", "SE")[number % 3 == 0]})
        for number, user in enumerate(history.assignments)
    ]
    events = [replace(event, value=(event.value or 0) * 1.37) for event in history.events]
    own = [
        Happened(user.user_id, "buy", user.at + at, user.at + _DAY, value)
        for user, at in ((users[0], _DAY), (users[1], -_DAY), (users[3], 2 * _DAY))
    ]
    return History(users, (), [*events, *own])


def _totals(history: History, *, before: bool) -> list[Fraction]:
    """Return every user's sum of values after the exposure, or before it."""
    return [
        sum(
            (
                Fraction(event.value or 0)
                for event in history.events
                if event.user_id == user.user_id and (event.ts < user.at) == before
            ),
            Fraction(0),
        )
        for user in history.assignments
    ]


def _means(history: History, totals: list[Fraction]) -> list[float]:
    arms = [
        [total for user, total in zip(history.assignments, totals, strict=True) if user.variant == arm]
        for arm in (0, 1)
    ]
    return [float(sum(arm, Fraction(0)) / len(arm)) for arm in arms]


def _leaves(found: object, path: str = "") -> dict[str, object]:
    """Return the single values of an answer by their place in it, without the ids of variants."""
    if isinstance(found, dict):
        parts = [(str(name), part) for name, part in found.items() if name != "id"]
    elif isinstance(found, list | tuple):
        parts = [(str(place), part) for place, part in enumerate(found)]
    else:
        return {path: found}
    return {place: leaf for name, part in parts for place, leaf in _leaves(part, f"{path}/{name}").items()}


@pytest.mark.parametrize("source", [SourceChoice.HOT, SourceChoice.COLD])
@pytest.mark.parametrize("absurd", [1.7e18, 1e21])
async def test_results__absurd_values_under_a_limit__are_those_of_values_just_beyond_it(
    world: World, service: ResultsService, source: SourceChoice, absurd: float
) -> None:
    found = []
    for value in (absurd, 1000.0):
        experiment = await world.experiment()
        await _with_metrics(world, experiment, _LIMITED)
        await world.store(experiment, _with_one_value(value))
        found.append(await _ask(service, experiment, *_LIMITED, source=source, breakdown="country"))

    history = _with_one_value(absurd)
    after = _totals(history, before=False)
    cut = sorted(after)[53]  # The 54th of 60 is the smallest that nine in ten do not exceed.
    expected = {
        "capped": _means(history, [min(total, Fraction(15, 2)) for total in after]),
        "cut": _means(history, [min(total, cut) for total in after]),
    }
    results, ordinary = found
    for key, means in expected.items():
        assert [variant.metrics[key].value for variant in results.variants] == pytest.approx(means, rel=1e-9)
    # Not the values alone: every interval, test, adjustment, day and segment is right.
    for part in ("variants", "comparisons", "effect_over_time", "breakdown"):
        of_absurd, of_ordinary = (_leaves(msgspec.to_builtins(getattr(answer, part))) for answer in found)
        numbers = {place for place, leaf in of_ordinary.items() if isinstance(leaf, int | float)}
        assert {place: leaf for place, leaf in of_absurd.items() if place not in numbers} == {
            place: leaf for place, leaf in of_ordinary.items() if place not in numbers
        }
        assert {place: of_absurd[place] for place in numbers} == pytest.approx(
            {place: of_ordinary[place] for place in numbers}, rel=1e-9, abs=1e-12
        )
    assert _compared(results, "cut").cuped.theta is not None
    assert _compared(ordinary, "cut").cuped.theta is not None
    assert results.effect_over_time
    assert not _compared(results, "capped").notes


_UNLIMITED = {
    "spend": Recipe(kind=Kind.SUM, selections=_BUY, covariate_days=7),
    "order": Recipe(kind=Kind.MEAN, selections=_BUY),
    "orders_by_spend": Recipe(
        kind=Kind.RATIO, selections=(replace(_BUY[0], source=ValueSource.ONE),), denominator=_BUY[0]
    ),
}


def _cells(results: Results) -> list[tuple[str | None, VariantResult]]:
    """Return every variant, of all users and of each segment."""
    assert results.breakdown is not None
    parts = [(None, results.variants), *((part.value, part.variants) for part in results.breakdown.segments)]
    return [(value, variant) for value, variants in parts for variant in variants]


@pytest.mark.parametrize("source", [SourceChoice.HOT, SourceChoice.COLD])
@pytest.mark.parametrize("absurd", [1e21, 1e100])
async def test_results__absurd_value_without_a_limit__leaves_other_variants_and_segments_as_they_are(
    world: World, service: ResultsService, source: SourceChoice, absurd: float
) -> None:
    found = []
    for value in (absurd, 1000.0):
        experiment = await world.experiment()
        await _with_metrics(world, experiment, _UNLIMITED)
        history = _with_one_value(7.5)
        user = history.assignments[0]
        one = Happened(user.user_id, "buy", user.at + 2 * _DAY, user.at + 2 * _DAY, value)
        await world.store(experiment, replace(history, events=[*history.events, one]))
        found.append(await _ask(service, experiment, *_UNLIMITED, source=source, breakdown="country"))

    odd, ordinary = found
    for (segment, variant), (_, other) in zip(_cells(odd), _cells(ordinary), strict=True):
        for key in _UNLIMITED:
            seen, expected = variant.metrics[key], other.metrics[key]
            assert seen.null_reason is None
            if variant.is_control and segment in {None, "SE"}:
                assert seen.value is not None
                assert not 1e-9 < seen.value < 1e9
                continue
            numbers = [(one.value, one.ci_lower, one.ci_upper) for one in (seen, expected)]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-9)
    for key in _UNLIMITED:
        compared = _compared(odd, key)
        assert compared.p_value is not None
        assert not any("far beyond" in note for note in compared.notes)
    assert _compared(odd, "spend").cuped.theta is not None


@pytest.mark.parametrize("source", [SourceChoice.HOT, SourceChoice.COLD])
async def test_results__value_beyond_the_finest_units_under_a_limit__say_that_the_others_are_lost(
    world: World, service: ResultsService, source: SourceChoice
) -> None:
    experiment = await world.experiment()
    recipes = {
        "capped": Recipe(kind=Kind.SUM, selections=_BUY, cap=300.0),
        "cut": Recipe(kind=Kind.SUM, selections=_BUY, winsorize=0.9),
        "all": Recipe(kind=Kind.SUM, selections=_BUY),
    }
    await _with_metrics(world, experiment, recipes)
    history = _history()
    absurd = Happened("user-0", "buy", _T0 + _DAY, _T0 + _DAY, 1e100)
    await world.store(experiment, History(history.assignments, (), [*history.events, absurd]))

    results = await _ask(service, experiment, *recipes, source=source)

    for variant in results.variants:
        assert {key: variant.metrics[key].null_reason for key in ("capped", "cut")} == dict.fromkeys(
            ("capped", "cut"), "PRECISION_LOST"
        )
        assert variant.metrics["capped"].value is None
    assert any("far beyond all others" in note for note in _compared(results, "capped").notes)
    # Without a limit it counts as it is, and the other variant is measured without it.
    assert max(variant.metrics["all"].value or 0 for variant in results.variants) > 1e98
    own = [number % 7 + 1 + number % 3 for number in range(1, 60, 2)]
    assert min(variant.metrics["all"].value or 0 for variant in results.variants) == pytest.approx(sum(own) / 30)


@pytest.mark.parametrize("source", [SourceChoice.HOT, SourceChoice.COLD])
async def test_results__value_beyond_the_finest_units_that_is_taken_back__say_that_the_others_are_lost(
    world: World, service: ResultsService, source: SourceChoice
) -> None:
    experiment = await world.experiment()
    await _with_metrics(world, experiment, _UNLIMITED)
    history = _with_one_value(7.5)
    user = history.assignments[0]
    own = [Happened(user.user_id, "buy", user.at + 2 * _DAY, user.at + _DAY, value) for value in (1e100, -1e100)]
    await world.store(experiment, replace(history, events=[*history.events, *own]))

    results = await _ask(service, experiment, *_UNLIMITED, source=source, breakdown="country")

    for key in _UNLIMITED:
        found = {(variant.metrics[key].value, variant.metrics[key].null_reason) for _, variant in _cells(results)}
        assert found == {(None, "PRECISION_LOST")}
        compared = _compared(results, key)
        assert (compared.difference, compared.p_value, compared.null_reason) == (None, None, "PRECISION_LOST")
        assert compared.notes[0].startswith("One value is so far beyond all others")
