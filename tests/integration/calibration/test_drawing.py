"""The control's users as PostgreSQL and as ClickHouse know them: the same numbers, the same splits, the same result."""

import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from sqlalchemy import text

from app.calibration.choosing import Chosen, chosen
from app.calibration.drawing import Drawing, Route
from app.calibration.errors import CannotCalibrate
from app.calibration.reading import read_users
from app.calibration.resplits import UserNumbers, Users, UserValues, calibrate
from app.calibration.sizes import VALUE_COSTS
from app.calibration.values import COVARIATE_DROPPED, CalibrationResult, Job, Wanted
from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.experiments.values import Experiment
from app.measurement.stores import measure_hot
from app.measurement.values import Asked, Exposed
from app.metrics.values import Direction, Kind, Metric, Recipe, Selection, ValueSource
from app.results.errors import HistoryDropped, NoSourceAvailable
from app.results.exposed_hot import exposed_in_postgres
from app.results.reach import Watermark
from app.results.values import Question, Source, Subject
from tests.integration.results.services import BrokenClickHouse
from tests.integration.results.world import FAR, Assigned, Happened, History, Overridden, World

_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_BUYING, _VIEWING = Selection(("buy",)), Selection(("view",))
_PRICE = Selection(("buy",), source=ValueSource.PROPERTY, property="price")
_RECIPES: Mapping[str, Recipe] = {
    "buyers": Recipe(kind=Kind.CONVERSION, selections=(_BUYING,), covariate_days=7),
    "half_buyers": Recipe(kind=Kind.CONVERSION, selections=(_BUYING,), cap=0.5),
    "orders": Recipe(kind=Kind.COUNT, selections=(_BUYING,), covariate_days=7),
    "spend": Recipe(kind=Kind.SUM, selections=(_BUYING,), covariate_days=7),
    "capped": Recipe(kind=Kind.SUM, selections=(_BUYING,), cap=30.25, covariate_days=3),
    "winsorized": Recipe(kind=Kind.SUM, selections=(_PRICE,), winsorize=0.9, covariate_days=7),
    "per_order": Recipe(kind=Kind.MEAN, selections=(_BUYING,)),
    "orders_by_views": Recipe(
        kind=Kind.RATIO, selections=(replace(_BUYING, source=ValueSource.ONE),), denominator=_VIEWING
    ),
    "median": Recipe(kind=Kind.QUANTILE, selections=(_BUYING,), quantile=0.5),
    "price_p90": Recipe(kind=Kind.QUANTILE, selections=(_PRICE,), quantile=0.9),
    "came_back": Recipe(kind=Kind.RETENTION, selections=(_VIEWING,), first_day=1, last_day=2),
    "funnel": Recipe(kind=Kind.FUNNEL, selections=(_VIEWING, _BUYING)),
    "first_view": Recipe(kind=Kind.TIME_TO_FIRST, selections=(_VIEWING,)),
}


def _metrics(recipes: Mapping[str, Recipe]) -> list[Metric]:
    common = {"project_id": 1, "version": 1, "name": "", "description": None, "direction": Direction.UP, "unit": None}
    return [Metric(id=9, key=key, recipe=recipe, **common) for key, recipe in recipes.items()]  # type: ignore[arg-type]  # Fields of several types.


_CHOSEN = chosen(_metrics(_RECIPES), Wanted())


async def _watermark() -> datetime | None:
    return FAR


@pytest.fixture(scope="module")
async def shop(world: World) -> Experiment:
    """150 users of the control, in households, who buy and look; some of them already did before."""
    experiment = await world.experiment(["90", "10"])
    chance = random.Random(4)
    users = [f"user {number} é" for number in range(170)]
    assigned = [
        Assigned(
            user,
            0 if number < 150 else 1,
            _T0 + chance.randrange(48) * _HOUR,
            _T0,
            {"home": number // 3} if number % 10 else {"home": None},
        )
        for number, user in enumerate(users)
    ]
    events = [
        Happened(
            one.user_id,
            chance.choice(["buy", "view"]),
            at := one.at + chance.randrange(-200, 100) * _HOUR,
            at,
            chance.choice([None, round(chance.lognormvariate(2, 1), 2), -1.5, 1e-300]),
            properties=chance.choice([None, {"price": round(chance.uniform(0, 90), 3)}, {"price": "9"}]),
        )
        for one in assigned
        for _ in range(chance.choice([0, 1, 3, 9]))
    ]
    # The last one is forced into the control, and does not count.
    forced = Overridden(users[-1], 0, _T0, _T0)
    history = History(assigned, [forced], events)
    await world.store_hot(experiment, history)
    await world.store_cold(experiment, replace(history, events=events[::-1]))
    # Some are delivered again, later.
    await world.store_cold(experiment, History(events=events[:40]))
    return experiment


def _drawing(world: World, *, clickhouse: ClickHouse | None = None, watermark: Watermark = _watermark) -> Drawing:
    return Drawing(database=world.database, clickhouse=clickhouse or world.clickhouse, watermark=watermark)


async def _drawn(
    world: World,
    experiment: Experiment,
    source: Source,
    *,
    of: Chosen = _CHOSEN,
    split_by: str | None = None,
    clickhouse: ClickHouse | None = None,
) -> Users:
    pieces: list[bytes] = []

    async def write(piece: bytes) -> None:
        pieces.append(piece)

    route = Route(source, FAR if source is Source.COLD else None, of)
    await _drawing(world, clickhouse=clickhouse).draw(experiment, route, Wanted(split_by=split_by), write)
    return read_users(Job(resplits=100, seed=5, alpha=0.1, columns=of.columns, split_by=split_by), pieces)


def _calibrated(users: Users) -> CalibrationResult:
    return calibrate(Job(resplits=100, seed=5, alpha=0.1, columns=_CHOSEN.columns), users)


@pytest.mark.parametrize("split_by", [None, "home"])
async def test_draw__either_store__gives_the_same_users_numbers_and_splits(
    world: World, shop: Experiment, split_by: str | None
) -> None:
    hot = await _drawn(world, shop, Source.HOT, split_by=split_by)
    cold = await _drawn(world, shop, Source.COLD, split_by=split_by)

    assert len(hot.units) == 150
    # Everybody without a home is alone, and nobody else.
    assert hot.n_units == (150 if split_by is None else 50 + 15)
    for key, from_hot, from_cold in zip(_RECIPES, hot.numbers, cold.numbers, strict=True):
        match from_hot, from_cold:
            case UserNumbers(x, y, z), UserNumbers(u, v, w):
                assert np.array_equal(x, u), key
                assert np.array_equal(y, v), key
                assert (z is None) == (w is None) == (_RECIPES[key].covariate_days is None)
                assert z is None or w is None or np.array_equal(z, w), key
                assert x.any()
                assert z is None or z.any()
            case UserValues(), UserValues():
                # Values that are alike may be in any order.
                assert sorted(zip(from_hot.values, from_hot.users, strict=True)) == sorted(
                    zip(from_cold.values, from_cold.users, strict=True)
                ), key
    assert np.array_equal(hot.units, cold.units)
    assert _calibrated(hot) == _calibrated(cold)


# Values that are one text in a breakdown, and after them those that are none there.
_ALIKE: tuple[tuple[Any, ...], ...] = (
    (1, 1.0, "1"),
    (0, -0.0),
    (2**64, float(2**64)),
    (2**53, 2**53 + 1),
    (0.1,),
    (1e-7, "1e-7"),
    (True, "true"),
    ("", ""),
    ("é", "é"),
    ("{}", "{}"),
)
_NO_VALUE: tuple[Any, ...] = ({}, {"a": 1}, {"a": 1}, [], [1], [1], None, None, 10**301, 10**301)


async def test_draw__split_by_any_value__has_the_groups_of_a_breakdown_in_either_store(world: World) -> None:
    experiment = await world.experiment()
    values = [value for group in (*_ALIKE, _NO_VALUE) for value in group]
    contexts = [*({"home": value} for value in values), {}, None]
    assigned = [Assigned(f"user {number}", 0, _T0, _T0, context) for number, context in enumerate(contexts)]
    await world.store(experiment, History(assigned))

    hot = await _drawn(world, experiment, Source.HOT, split_by="home")
    cold = await _drawn(world, experiment, Source.COLD, split_by="home")
    async with world.database.read() as connection:
        sql, parameters = exposed_in_postgres(Subject.of(experiment), Question(breakdown="home"))
        counted = text(f"{sql} SELECT count(DISTINCT value), count(*) FILTER (WHERE value IS NULL) FROM candidates")
        n_values, n_without = (await connection.execute(counted, parameters)).one()

    assert np.array_equal(hot.units, cold.units)
    assert (n_values, n_without) == (len(_ALIKE), len(_NO_VALUE) + 2)
    assert hot.n_units == n_values + n_without


async def test_draw__every_kind__adds_up_to_what_results_measure(world: World, shop: Experiment) -> None:
    recipes = {key: recipe for key, recipe in _RECIPES.items() if recipe.winsorize is None}
    subject = Subject.of(shop)
    asked = Asked(project_id=shop.project_id, experiment_id=shop.id)
    async with world.database.read() as connection:
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        exposed = Exposed(*exposed_in_postgres(subject, Question()))
        measured = await measure_hot(connection, recipes, asked, exposed)

    users = await _drawn(world, shop, Source.COLD)
    found = {one.metric: one for one in _calibrated(users).metrics}

    for key in recipes:
        arm = measured.of(key, shop.control.id)
        numbers = users.numbers[list(_RECIPES).index(key)]
        if isinstance(numbers, UserValues):
            assert arm.quantile is not None
            assert len(numbers.values) == arm.quantile.counts.values
            assert found[key].value == pytest.approx(float(arm.quantile.value), rel=1e-12)
            continue
        assert len(users.units) == arm.sums.n
        assert numbers.numerator.sum() == pytest.approx(float(arm.sums.numerator), rel=1e-12)
        assert numbers.denominator.sum() == pytest.approx(float(arm.sums.denominator), rel=1e-12)
        if numbers.covariate is not None:
            assert numbers.covariate @ numbers.numerator == pytest.approx(float(arm.sums.covariate_products), rel=1e-12)
        per = arm.sums.denominator or Fraction(arm.sums.n)
        assert found[key].value == pytest.approx(float(arm.sums.numerator / per), rel=1e-12)


_ODD: Mapping[str, Recipe] = {
    "capped": _RECIPES["capped"],
    "winsorized": Recipe(kind=Kind.SUM, selections=(_BUYING,), winsorize=0.9, covariate_days=7),
    "capped_order": replace(_RECIPES["per_order"], cap=30.25),
    "spend": _RECIPES["spend"],
    "views_by_spend": Recipe(kind=Kind.RATIO, selections=(_VIEWING,), denominator=_BUYING),
}
_CHOSEN_ODD = chosen(_metrics(_ODD), Wanted())


@pytest.fixture(scope="module")
async def odd(world: World) -> Experiment:
    """60 users who buy, before they come and afterwards; two of the control have absurd values, another arm worse ones.

    One of the two had it before, and the other has one twice as well, of which one is taken back.
    """
    experiment = await world.experiment()
    assigned = [Assigned(f"user {number}", number % 2, _T0, _T0) for number in range(60)]
    common = [
        Happened(one.user_id, kind, _T0 + hours * _HOUR, _T0 + hours * _HOUR, 0.1 * number + 7)
        for number, one in enumerate(assigned)
        for kind, hours in (("buy", -5), ("buy", 5), ("view", 6))
    ]
    absurd = [
        ("user 0", 5, 1e21),
        ("user 2", -5, 1.7e25),
        ("user 4", 5, 1e19),
        ("user 4", 6, -1e19),
        ("user 1", 5, 1e60),
    ]
    events = [
        Happened(user, "buy", _T0 + hours * _HOUR, _T0 + hours * _HOUR, value, properties={})
        for user, hours, value in absurd
    ]
    await world.store(experiment, History(assigned, events=[*common, *events]))
    return experiment


@pytest.mark.parametrize("source", [Source.HOT, Source.COLD])
async def test_draw__absurd_values_under_limits__are_as_fine_as_in_results(
    world: World, odd: Experiment, source: Source
) -> None:
    users = await _drawn(world, odd, source, of=_CHOSEN_ODD)

    numbers = dict(zip(_ODD, users.numbers, strict=True))
    capped, winsorized, per_order = (numbers[key] for key in ("capped", "winsorized", "capped_order"))
    assert isinstance(capped, UserNumbers)
    assert isinstance(winsorized, UserNumbers)
    assert isinstance(per_order, UserNumbers)
    # Of the users with even numbers, 30 in all; the first one is at the cap.
    own = sorted([30.25, *(0.1 * number + 7 for number in range(2, 60, 2))])
    assert sorted(capped.numerator) == pytest.approx(own, rel=1e-12)
    assert sorted(per_order.numerator) == pytest.approx(own, rel=1e-12)
    before = sorted([30.25, *(0.1 * number + 7 for number in range(0, 60, 2) if number != 2)])
    assert capped.covariate is not None
    assert sorted(capped.covariate) == pytest.approx(before, rel=1e-12)
    # The 27th of 30, in their order.
    assert max(winsorized.numerator) == pytest.approx(sorted([1e21, *own[:-1]])[26], rel=1e-12)
    assert winsorized.covariate is not None
    assert max(winsorized.covariate) < 13


async def test_calibrate__absurd_values__are_no_harm_under_limits_and_lose_ratios_that_they_hide(
    world: World, odd: Experiment
) -> None:
    job = Job(resplits=100, seed=5, alpha=0.1, columns=_CHOSEN_ODD.columns)

    hot = calibrate(job, await _drawn(world, odd, Source.HOT, of=_CHOSEN_ODD))
    cold = calibrate(job, await _drawn(world, odd, Source.COLD, of=_CHOSEN_ODD))

    assert hot == cold
    found = {one.metric: one for one in hot.metrics}
    for key in ("capped", "winsorized", "capped_order"):
        assert (found[key].undefined, found[key].null_reason) == (0, None)
        adjusted = found[key].adjusted
        assert adjusted is not None
        assert (adjusted.undefined > 0) == (key == "capped_order")
    # Without a limit the largest value decides the mean, and there is no other.
    assert (found["spend"].undefined, found["spend"].false_positives) == (0, 0)
    assert found["views_by_spend"].null_reason == "PRECISION_LOST"


@pytest.mark.parametrize("value", [1e11, 1.7e18, 1e300])
async def test_calibrate__absurd_value_before_the_exposure__leaves_the_metrics_own_test_alone(
    world: World, value: float
) -> None:
    experiment = await world.experiment()
    assigned = [Assigned(f"user {number}", number % 2, _T0, _T0) for number in range(60)]
    events = [
        Happened(one.user_id, "buy", _T0 + hours * _HOUR, _T0 + hours * _HOUR, 0.1 * number + 7 + hours % 3)
        for number, one in enumerate(assigned)
        for hours in (-5, 5)
    ]
    before = Happened("user 2", "buy", _T0 - 4 * _HOUR, _T0 - 4 * _HOUR, value, properties={})
    await world.store_hot(experiment, History(assigned, events=[*events, before]))
    of = chosen(_metrics({"spend": _RECIPES["spend"]}), Wanted())

    users = await _drawn(world, experiment, Source.HOT, of=of)
    (found,) = calibrate(Job(resplits=100, seed=5, alpha=0.1, columns=of.columns), users).metrics

    assert found.adjusted is not None
    assert (found.undefined, found.null_reason, found.inside) == (0, None, True)
    assert found.value == pytest.approx(np.mean([0.1 * number + 9 for number in range(0, 60, 2)]))
    expected = (100, "OUT_OF_RANGE") if value == 1e300 else (0, None)
    assert (found.adjusted.undefined, found.adjusted.null_reason) == expected


@pytest.mark.parametrize("value", [1e11, 1e13, 1.7e18])
async def test_calibrate__absurd_value_after_the_exposure__is_tested_in_every_split(world: World, value: float) -> None:
    experiment = await world.experiment()
    assigned = [Assigned(f"user {number}", number % 2, _T0, _T0) for number in range(60)]
    events = [
        Happened(one.user_id, "buy", _T0 + 5 * _HOUR, _T0 + 5 * _HOUR, 0.1 * number + 7)
        for number, one in enumerate(assigned)
    ]
    absurd = Happened("user 2", "buy", _T0 + 6 * _HOUR, _T0 + 6 * _HOUR, value, properties={})
    await world.store_hot(experiment, History(assigned, events=[*events, absurd]))
    of = chosen(_metrics({"spend": replace(_RECIPES["spend"], covariate_days=None)}), Wanted())

    users = await _drawn(world, experiment, Source.HOT, of=of)
    (found,) = calibrate(Job(resplits=100, seed=5, alpha=0.1, columns=of.columns), users).metrics

    # The one value decides everything, so that nothing is ever found.
    assert (found.undefined, found.false_positives) == (0, 0)
    assert found.value == pytest.approx(value / 30)


class _Watched(ClickHouse):
    """A ClickHouse of which is known how many lines its longest answer had."""

    def __init__(self, watched: ClickHouse) -> None:
        """Open nothing: what is watched is open."""
        self._watched = watched
        self.most_lines = 0

    async def rows(self, *args: Any, **options: Any) -> list[dict[str, Any]]:
        found = await self._watched.rows(*args, **options)
        lines = sum(str(row["lines"]).count("\n") + 1 for row in found if "lines" in row)
        self.most_lines = max(self.most_lines, lines)
        return found


async def test_draw__very_many_users__come_in_parts(
    world: World, shop: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _calibrated(await _drawn(world, shop, Source.COLD))
    monkeypatch.setattr("app.calibration.drawing._LINES_AT_ONCE", 40)
    watched = _Watched(world.clickhouse)

    assert _calibrated(await _drawn(world, shop, Source.COLD, clickhouse=watched)) == whole
    # Hashes cut about evenly.
    assert 0 < watched.most_lines < 2 * 40


_MEDIAN = chosen(_metrics({"median": _RECIPES["median"]}), Wanted())


@pytest.fixture(scope="module")
async def busy(world: World) -> Experiment:
    """30 users of the control; one has 1,000 values and another 1,000 times the same one."""
    experiment = await world.experiment()
    assigned = [Assigned(f"user {number}", 0, _T0, _T0) for number in range(30)]
    at = _T0 + _HOUR
    events = [
        Happened(one.user_id, "buy", at, at, value)
        for one, own in zip(assigned, ([x / 7 for x in range(1000)], [9.5] * 1000), strict=False)
        for value in own
    ]
    await world.store(experiment, History(assigned, events=events))
    return experiment


async def test_draw__few_users_with_very_many_values__come_in_parts(
    world: World, busy: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hot,) = (await _drawn(world, busy, Source.HOT, of=_MEDIAN)).numbers
    monkeypatch.setattr("app.calibration.drawing._LINES_AT_ONCE", 100)
    watched = _Watched(world.clickhouse)

    (cold,) = (await _drawn(world, busy, Source.COLD, of=_MEDIAN, clickhouse=watched)).numbers

    assert isinstance(hot, UserValues)
    assert isinstance(cold, UserValues)
    assert len(cold.values) == 2000
    assert np.array_equal(hot.values, cold.values)
    assert np.array_equal(np.bincount(hot.users), np.bincount(cold.users))
    assert 0 < watched.most_lines < 2 * 100


@pytest.mark.parametrize(
    ("name", "limit", "resplits", "reason"),
    [
        # Users alone are too many, and only then their values.
        ("MOST_NUMBERS", 59, 1000, "more than 59 numbers"),
        ("MOST_NUMBERS", 2059, 1000, "more than 2,059 numbers"),
        (
            "MOST_WORK",
            1000 * (60 + VALUE_COSTS * 2000),
            1001,
            r"60 numbers of users and 2,000 values .* at most 1,000 resplits",
        ),
    ],
)
async def test_draw__too_much__is_refused_before_anything_is_read(
    world: World,
    busy: Experiment,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    limit: int,
    resplits: int,
    reason: str,
) -> None:
    monkeypatch.setattr(f"app.calibration.sizes.{name}", limit)
    watched = _Watched(world.clickhouse)

    async def write(_piece: bytes) -> None:
        pytest.fail("Something was read.")

    with pytest.raises(CannotCalibrate, match=reason):
        await _drawing(world, clickhouse=watched).draw(
            busy, Route(Source.COLD, FAR, _MEDIAN), Wanted(resplits=resplits), write
        )
    assert watched.most_lines == 0


@pytest.mark.parametrize("route", [Route(Source.COLD, None, _MEDIAN), Route(Source.BOTH, FAR, _MEDIAN)])
async def test_draw__no_store_alone_or_no_watermark__reads_neither(
    world: World, busy: Experiment, route: Route
) -> None:
    async def write(_piece: bytes) -> None:
        pytest.fail("Something was read.")

    with pytest.raises(AssertionError, match="Route"):
        await _drawing(world, clickhouse=BrokenClickHouse()).draw(busy, route, Wanted(), write)


@pytest.fixture
async def given_up(world: World) -> AsyncIterator[Experiment]:
    """An experiment of which PostgreSQL has dropped events."""
    experiment = await world.experiment()
    await world.store(experiment, History([Assigned("a", 0, _LONG_AGO, _LONG_AGO)]))
    async with world.database.begin() as connection:
        await connection.execute(
            text("INSERT INTO dropped_partitions (name, upper_bound, row_count) VALUES ('of-a-test', :until, 1)"),
            {"until": _LONG_AGO + timedelta(days=1)},
        )
    yield experiment
    async with world.database.begin() as connection:
        await connection.execute(text("DELETE FROM dropped_partitions WHERE name = 'of-a-test'"))
    # What a test had ClickHouse give up is of no other test.
    await world.clickhouse.command("TRUNCATE TABLE dropped_history")


async def test_route__postgresql_has_everything__is_postgresql(world: World, shop: Experiment) -> None:
    assert await _drawing(world).route(shop, _CHOSEN) == Route(Source.HOT, None, _CHOSEN)


async def test_route__postgresql_dropped_events__is_the_history_below_the_watermark(
    world: World, given_up: Experiment, shop: Experiment
) -> None:
    assert await _drawing(world).route(given_up, _CHOSEN) == Route(Source.COLD, FAR, _CHOSEN)
    assert (await _drawing(world).route(shop, _CHOSEN)).source is Source.HOT


async def test_route__history_cannot_stand_in__says_so(world: World, given_up: Experiment) -> None:
    async def none() -> datetime | None:
        return None

    with pytest.raises(NoSourceAvailable, match="EVENTS_RETENTION_DAYS"):
        await _drawing(world, clickhouse=BrokenClickHouse()).route(given_up, _CHOSEN)
    with pytest.raises(NoSourceAvailable, match="EVENTS_RETENTION_DAYS"):
        await _drawing(world, watermark=none).route(given_up, _CHOSEN)


async def test_route__only_what_was_before_is_gone__leaves_the_covariates_out(
    world: World, given_up: Experiment, database: Database
) -> None:
    # Both stores have given up what was before the exposures, and nothing since.
    before = _LONG_AGO - timedelta(days=2)
    async with database.begin() as connection:
        await connection.execute(
            text("UPDATE dropped_partitions SET upper_bound = :until WHERE name = 'of-a-test'"), {"until": before}
        )
    await _give_up(world, before)

    route = await _drawing(world).route(given_up, _CHOSEN)

    assert route.source is Source.HOT
    assert all(recipe.covariate_days is None for recipe in route.chosen.recipes.values())
    by_metric = {column.metric: column.without_covariate for column in route.chosen.columns}
    assert (by_metric["spend"], by_metric["per_order"]) == (COVARIATE_DROPPED, "NO_COVARIATE")


async def test_route__both_dropped_events__is_an_error(world: World, given_up: Experiment) -> None:
    await _give_up(world, _LONG_AGO + timedelta(days=1))

    with pytest.raises(HistoryDropped, match="Neither"):
        await _drawing(world).route(given_up, _CHOSEN)


async def _give_up(world: World, before: datetime) -> None:
    record = {"ingested_before": before, "decided_at": before}
    await world.clickhouse.insert_json("dropped_history", [msgspec.json.encode(record)])
