"""Built-in metrics of values beside one value that is far beyond all others, from each store."""

import statistics
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog

from app.core.clickhouse import ClickHouse, ClickHouseUnavailable
from app.results.answer import Results
from app.results.comparison_values import ComparisonResult
from app.results.service import ResultsService
from app.results.values import Question, SourceChoice
from tests.integration.results.services import Bench, BrokenClickHouse, running_service
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


async def _looks(world: World, service: ResultsService, history: History, **question: Any) -> int:
    """Return how often the stores were looked at for one answer."""
    experiment = await world.experiment()
    await world.store(experiment, history)
    with structlog.testing.capture_logs() as logs:
        await service.results(experiment.project_id, experiment.key, Question(metrics=_METRICS, **question))
    return sum(entry["event"] == "results.routed" for entry in logs)


@pytest.mark.parametrize("source", _SOURCES)
async def test_results__ordinary_values__are_observed_once(
    world: World, service: ResultsService, source: SourceChoice
) -> None:
    assert await _looks(world, service, _history(50.0), source=source, breakdown="country") == 1
    assert await _looks(world, service, _history(1e21), source=source, breakdown="country") == 2


async def test_results__large_values_and_a_segment_of_zeros__are_observed_once(
    world: World, service: ResultsService
) -> None:
    history = _history(50.0)
    french = {user.user_id for user in history.assignments if user.context == {"country": "FR"}}
    events = [
        replace(event, value=0.0 if event.user_id in french else 1e9 * (event.value or 0.0)) for event in history.events
    ]
    assert await _looks(world, service, replace(history, events=events), breakdown="country") == 1


class _WithoutMeasures(BrokenClickHouse):
    """A ClickHouse that is gone whenever values are to be measured."""

    def __init__(self, whole: ClickHouse) -> None:
        self._whole = whole

    async def rows(self, sql: str, *args: Any, **options: Any) -> list[dict[str, Any]]:
        if "x0_exponent" in sql:
            raise ClickHouseUnavailable("gone")
        return list(await self._whole.rows(sql, *args, **options))


async def test_results__second_look_fails__what_was_seen_stands_and_lost_numbers_are_null(world: World) -> None:
    experiment = await world.experiment()
    await world.store(experiment, _history(1e21))
    question = Question(metrics=("conversion_rate", *_METRICS), source=SourceChoice.COLD)
    clickhouse = _WithoutMeasures(world.clickhouse)
    async with running_service(world, Bench(watermark=FAR), clickhouse=clickhouse) as service:
        results = await service.results(experiment.project_id, experiment.key, question)

    control, treatment = results.variants
    lost = [control.metrics[name] for name in _METRICS]
    assert [(found.value, found.null_reason) for found in lost] == [(None, "PRECISION_LOST")] * 2
    assert control.metrics["conversion_rate"].value == pytest.approx(0.5)
    assert treatment.metrics["value_per_user"].value == pytest.approx(1e21 / 30, rel=1e-9)
    assert {found.null_reason for found in results.comparisons if found.metric in _METRICS} == {"PRECISION_LOST"}
