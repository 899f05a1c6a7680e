"""Built-in metrics of values beside one value that is far beyond all others, from each store."""

import statistics
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from app.results.answer import Results
from app.results.comparison_values import ComparisonResult
from app.results.service import ResultsService
from app.results.values import Question, SourceChoice
from tests.integration.results.services import Bench, running_service
from tests.integration.results.world import FAR, Assigned, Happened, History, World

_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_METRICS = ("value_per_user", "avg_value")
_SOURCES = [SourceChoice.HOT, SourceChoice.COLD]


@pytest.fixture
async def service(world: World) -> AsyncIterator[ResultsService]:
    async with running_service(world, Bench(watermark=FAR), clickhouse=world.clickhouse) as running:
        yield running


def _values(number: int) -> list[float]:
    return [round(20 + 7.3 * number + 0.01 * place, 2) for place in range(number % 4)]


def _history(absurd: float) -> History:
    """Return 60 users in turns of two variants and two countries; a user of variant 1 in DE sends `absurd`."""
    users = [
        Assigned(f"user-{number}", number % 2, _T0, _T0, {"country": "DE" if number % 3 else "FR"})
        for number in range(60)
    ]
    at = _T0 + timedelta(hours=1)
    events = [
        Happened(user.user_id, "buy", at, at, value) for number, user in enumerate(users) for value in _values(number)
    ]
    return History(users, (), [*events, Happened("user-1", "buy", at, at, absurd)])


@pytest.mark.parametrize("absurd", [1.7e18, 1e21, -1e30])
@pytest.mark.parametrize("source", _SOURCES)
async def test_results__absurd_value_in_one_arm__the_other_s_numbers_are_its_own(
    world: World, service: ResultsService, source: SourceChoice, absurd: float
) -> None:
    experiment = await world.experiment()
    await world.store(experiment, _history(absurd))
    question = Question(metrics=_METRICS, source=source, breakdown="country")
    results = await service.results(experiment.project_id, experiment.key, question)

    control = [_values(number) for number in range(0, 60, 2)]
    totals = [sum(values) for values in control]
    per_user, per_event = (results.variants[0].metrics[name] for name in _METRICS)
    assert per_user.value == pytest.approx(statistics.fmean(totals), rel=1e-9)
    assert per_event.value == pytest.approx(statistics.fmean([v for values in control for v in values]), rel=1e-9)
    assert per_user.ci_upper is not None
    half = per_user.ci_upper - statistics.fmean(totals)
    # Student's t at 29 degrees of freedom.
    assert half == pytest.approx(2.045229642132703 * statistics.stdev(totals) / len(totals) ** 0.5, rel=1e-9)
    # Who has no absurd value in the same segment, either.
    assert results.breakdown is not None
    french = next(found for found in results.breakdown.segments if found.value == "FR")
    expected = [sum(_values(number)) for number in range(3, 60, 6)]
    assert french.variants[1].metrics["value_per_user"].value == pytest.approx(statistics.fmean(expected), rel=1e-9)
    treatment = results.variants[1].metrics["value_per_user"].value
    assert treatment == pytest.approx((sum(sum(_values(n)) for n in range(1, 60, 2)) + absurd) / 30, rel=1e-9)


async def test_results__absurd_value_in_one_arm__stores_agree(world: World, service: ResultsService) -> None:
    experiment = await world.experiment()
    await world.store(experiment, _history(1e21))

    async def ask(source: SourceChoice) -> Results:
        question = Question(metrics=_METRICS, source=source)
        return await service.results(experiment.project_id, experiment.key, question)

    found: list[tuple[ComparisonResult, ...]] = [(await ask(source)).comparisons for source in _SOURCES]
    assert found[0] == found[1]


@pytest.mark.parametrize("source", _SOURCES)
async def test_results__ordinary_values__are_observed_once(
    world: World, service: ResultsService, source: SourceChoice
) -> None:
    experiment = await world.experiment()
    await world.store(experiment, _history(50.0))
    question = Question(metrics=_METRICS, source=source)
    results = await service.results(experiment.project_id, experiment.key, question)
    # What is measured has days of its own.
    assert all(series.points == () for series in results.effect_over_time)
    values = [sum(_values(number)) for number in range(0, 60, 2)]
    assert results.variants[0].metrics["value_per_user"].value == pytest.approx(statistics.fmean(values), rel=1e-9)
