"""Post-stratified estimates from both stores, against a calculation from the users themselves."""

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from app.experiments.values import Experiment
from app.metrics.repository import MetricRepository
from app.metrics.values import Direction, Kind, MetricSpec, Recipe, Selection
from app.results.answer import Results
from app.results.part_values import PoststratifiedResult
from app.results.service import ResultsService
from app.results.values import Question, Source, SourceChoice
from tests.integration.results.services import Bench, running_service
from tests.integration.results.world import FAR, Assigned, Happened, History, World

_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_BUY = (Selection(("buy",)),)
_RECIPES = {
    "spend": Recipe(kind=Kind.SUM, selections=_BUY),
    "bought": Recipe(kind=Kind.CONVERSION, selections=_BUY),
    "per_event": Recipe(kind=Kind.MEAN, selections=_BUY),
    "cut": Recipe(kind=Kind.SUM, selections=_BUY, winsorize=0.9),
    "median": Recipe(kind=Kind.QUANTILE, selections=_BUY, quantile=0.5),
}
_METRICS = (*_RECIPES, "value_per_user", "conversion_rate", "avg_value", "unique_users")
_USERS = 240


def _history(seed: int = 5) -> History:
    """Return users of two countries and of none, who buy the more the later their country's name stands."""
    rng = random.Random(seed)
    users, events = [], []
    for number in range(_USERS):
        place = rng.choice((0, 0, 1, 2))
        context = ({"country": "DE"}, {"country": "FR"}, {})[place]
        user = Assigned(f"user-{number}", rng.randrange(2), _T0 + number * _HOUR / 10, _T0, context)
        users.append(user)
        for _ in range(rng.choice((0, 1, 1, 2)) + place):
            at = user.at + rng.randrange(1, 90) * _HOUR
            value = rng.randrange(1, 40) / 8 + 3 * place + user.variant
            events.append(Happened(user.user_id, "buy", at, _T0 + rng.randrange(200) * _HOUR, value))
    return History(users, (), events)


def _by_hand(history: History, experiment: Experiment) -> dict[str, tuple[float, float]]:
    """Return difference and standard error of spend and of the rate, by numpy from users' rows."""
    spend = {user.user_id: 0.0 for user in history.assignments}
    for event in history.events:
        spend[event.user_id] += event.value or 0
    places = [str((user.context or {}).get("country")) for user in history.assignments]
    arms = np.array([user.variant for user in history.assignments])
    values = np.array([spend[user.user_id] for user in history.assignments])
    assert len(experiment.variants) == 2
    found = {}
    for key, numbers in (("spend", values), ("bought", (values > 0).astype(float))):
        difference = variance = 0.0
        for name in sorted(set(places)):
            inside = np.array([place == name for place in places])
            control, treatment = (numbers[inside & (arms == which)] for which in (0, 1))
            weight = inside.mean()
            difference += weight * (treatment.mean() - control.mean())
            variance += weight**2 * (control.var(ddof=1) / len(control) + treatment.var(ddof=1) / len(treatment))
        found[key] = difference, variance**0.5
    return found


@pytest.fixture
def bench() -> Bench:
    return Bench(watermark=FAR)


@pytest.fixture
async def service(world: World, bench: Bench) -> AsyncIterator[ResultsService]:
    async with running_service(world, bench, clickhouse=world.clickhouse) as running:
        yield running


async def _stored(world: World, hot: History, cold: History) -> Experiment:
    experiment = await world.experiment()
    async with world.database.begin() as connection:
        for key, recipe in _RECIPES.items():
            spec = MetricSpec(key=key, name=key, description=None, recipe=recipe, direction=Direction.UP, unit=None)
            await MetricRepository(connection).insert(experiment.project_id, spec, 1)
    await world.store_hot(experiment, hot)
    await world.store_cold(experiment, cold)
    return experiment


async def _ask(service: ResultsService, experiment: Experiment, source: SourceChoice) -> Results:
    asked = Question(metrics=_METRICS, breakdown="country", source=source, fresh=True)
    return await service.results(experiment.project_id, experiment.key, asked)


def _estimates(results: Results) -> dict[str, PoststratifiedResult]:
    assert results.breakdown is not None
    return {one.metric: one for one in results.breakdown.poststratified}


async def test_poststratified__hot_cold_and_both__say_the_same_and_what_the_users_say(
    world: World, bench: Bench, service: ResultsService
) -> None:
    history = _history()
    experiment = await _stored(world, history, history)

    answers = [await _ask(service, experiment, source) for source in (SourceChoice.HOT, SourceChoice.COLD)]
    bench.watermark = _T0 + 90 * _HOUR
    answers.append(await _ask(service, experiment, SourceChoice.AUTO))

    assert [found.metadata.source for found in answers] == [Source.HOT, Source.COLD, Source.BOTH]
    hot, cold, both = map(_estimates, answers)
    assert hot == cold == both
    assert list(hot) == list(_METRICS)
    for key, (difference, error) in _by_hand(history, experiment).items():
        assert hot[key].difference == pytest.approx(difference, rel=1e-9)
        assert hot[key].statistic == pytest.approx(difference / error, rel=1e-9)
        assert hot[key].strata == 3
        assert (hot[key].variance_reduction_percent or 0) > 5
    # A built-in metric and the stored one of the same meaning say the same.
    for stored, built_in in (("spend", "value_per_user"), ("bought", "conversion_rate"), ("per_event", "avg_value")):
        assert hot[stored].difference == hot[built_in].difference
        assert hot[stored].p_value == hot[built_in].p_value
    assert hot["cut"].difference not in {None, hot["spend"].difference}
    assert {hot[key].null_reason for key in ("median", "unique_users")} == {"NO_STRATIFIED_FORM"}


async def test_poststratified__rows_in_another_order_and_delivered_again__change_nothing(
    world: World, service: ResultsService
) -> None:
    history = _history(6)
    plain = await _stored(world, history, history)
    users, events = list(history.assignments), list(history.events)
    random.Random(1).shuffle(users)
    random.Random(2).shuffle(events)
    turned = History(users, (), events)
    # PostgreSQL refuses a second copy; ClickHouse is given some.
    again = await _stored(world, turned, History([*users, *users[:50]], (), [*events, *events[:80], *events[:20]]))

    expected = _estimates(await _ask(service, plain, SourceChoice.HOT))
    for source in (SourceChoice.HOT, SourceChoice.COLD):
        assert _estimates(await _ask(service, again, source)) == expected
