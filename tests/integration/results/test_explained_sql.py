"""The SQL that explains a number, pasted into both servers as it is: it gives the numbers that results give."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest

from app.experiments.population import ContextValue, ExposureRule, Population
from app.experiments.values import Experiment
from app.explain.statements import Numbers, in_clickhouse, in_postgres
from app.measurement.answers import measured
from app.measurement.plan import compiled
from app.measurement.reading import read_cold, read_hot
from app.measurement.stores import measure_hot
from app.measurement.values import Asked, Exposed
from app.metrics.values import Kind, Operator, PropertyFilter, Recipe, Selection, ValueSource
from app.results.exposed_hot import exposed_in_postgres
from app.results.hot import HotStore
from app.results.values import ContextFilter, Metric, Question, Subject
from tests.integration.results.world import FAR, Assigned, Happened, History, World
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
        Assigned(f"user'{number}", number % 2, _T0 + number * _HOUR, _T0, {"country": countries[number % 3 == 0]})
        for number in range(60)
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
    numbers = Numbers(_ALL, {})

    hot = _numbers(pasted(url, in_postgres(subject, question, numbers).sql))
    cold = _numbers(await world.clickhouse.rows(in_clickhouse(subject, question, numbers, FAR).sql.strip("\n;")))

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
    subject, question = Subject.of(experiment), Question(start=_T0, end=_T0 + 70 * _HOUR)
    asked = Asked(project_id=subject.project_id, experiment_id=subject.experiment_id, start=question.start)
    asked = replace(asked, end=question.end)
    plan, numbers = compiled(_RECIPES), Numbers((), _RECIPES)

    rows = [_typed(row) for row in pasted(url, in_postgres(subject, question, numbers).sql)]
    hot = measured(plan, asked, read_hot(plan, rows))
    text = in_clickhouse(subject, question, numbers, FAR).sql.strip("\n;")
    cold = measured(plan, asked, read_cold(plan, await world.clickhouse.rows(text)))

    assert hot == cold
    async with world.database.read() as connection:
        by_service = await measure_hot(connection, _RECIPES, asked, Exposed(*exposed_in_postgres(subject, question)))
    for key in _RECIPES:
        for variant in experiment.variants:
            own, other = hot.of(key, variant.id), by_service.of(key, variant.id)
            assert (own.sums, own.events, own.reached) == (other.sums, other.events, other.reached), key
            assert (own.quantile is None) == (other.quantile is None)
            if own.quantile is not None and other.quantile is not None:
                assert own.quantile.value == other.quantile.value


def _typed(row: Row) -> dict[str, Any]:
    """Give the texts of a CSV their types."""
    whole = {name: int(text) if text else None for name, text in row.items() if name not in {"kind", "value"}}
    return {**whole, "kind": row["kind"], "value": float(row["value"]) if row["value"] else None}


def test_explained__both_kinds_of_metrics__are_two_statements_with_their_names_above(experiment: Experiment) -> None:
    subject, numbers = Subject.of(experiment), Numbers(_ALL[:2], {"buyers": _RECIPES["buyers"]})

    hot, cold = in_postgres(subject, Question(), numbers), in_clickhouse(subject, Question(), numbers, FAR)

    for statement in (hot, cold):
        assert statement.sql.count("-- conversion_rate, unique_users\n") == 1
        assert statement.sql.count("-- buyers\n") == 1
        assert statement.sql.rstrip().endswith(";")
    assert hot.settings["TimeZone"] == "UTC"
    assert cold.settings["prefer_column_name_to_alias"] == "1"
