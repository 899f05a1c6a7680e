"""A real randomised experiment gives the published numbers (Dehejia, Wahba, JASA 94, 1999)."""

import csv
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.results.answer import Results
from app.results.service import ResultsService
from app.results.values import Metric, Question, Source
from tests.integration.results.services import Bench, running_service
from tests.integration.results.world import Assigned, Happened, History, World

_FILE = Path(__file__).parents[2] / "fixtures" / "nsw.csv"
_ASSIGNED = datetime(2026, 2, 1, tzinfo=UTC)
_YEAR = timedelta(days=20)
# Half of the men come to PostgreSQL after the watermark, so that both stores answer.
_WATERMARK = _ASSIGNED + timedelta(seconds=222)


def _men() -> History:
    assignments, events = [], []
    with _FILE.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file)):
            man, ingested_at = f"man-{number}", _ASSIGNED + timedelta(seconds=number)
            assignments.append(Assigned(man, int(float(row["treat"])), _ASSIGNED, ingested_at))
            before, after = float(row["re75"]), float(row["re78"])
            events.append(Happened(man, "earned", _ASSIGNED - _YEAR, ingested_at, before))
            events.append(Happened(man, "earned", _ASSIGNED + _YEAR, ingested_at, after))
            if after > 0:
                events.append(Happened(man, "employed", _ASSIGNED + _YEAR, ingested_at))
    return History(assignments, (), events)


@pytest.fixture(scope="module")
async def service(world: World) -> AsyncIterator[ResultsService]:
    async with running_service(world, Bench(watermark=_WATERMARK), clickhouse=world.clickhouse) as running:
        yield running


async def _results(world: World, service: ResultsService, *allocations: str, **question: object) -> Results:
    experiment = await world.experiment(allocations)
    await world.store(experiment, _men())
    return await service.results(
        experiment.project_id,
        str(experiment.id),
        Question(**question),  # type: ignore[arg-type]
    )


async def test_results__earnings_after_the_programme__as_published(world: World, service: ResultsService) -> None:
    found = await _results(
        world, service, "58.43", "41.57", event_types=("earned",), metrics=(Metric.VALUE_PER_USER, Metric.AVG_VALUE)
    )

    control, treated = (variant.metrics[Metric.VALUE_PER_USER] for variant in found.variants)
    assert found.metadata.source is Source.BOTH
    assert (control.sample_size, treated.sample_size) == (260, 185)
    assert treated.value == pytest.approx(6349.1435, abs=5e-5)
    assert control.value == pytest.approx(4554.8011, abs=5e-5)
    comparison = found.comparisons[0]
    assert comparison.difference == pytest.approx(1794.3424, abs=5e-5)
    assert comparison.difference_ci_lower == pytest.approx(474.0105, abs=5e-5)
    assert comparison.difference_ci_upper == pytest.approx(3114.6743, abs=5e-5)
    assert comparison.statistic == pytest.approx(2.674145, abs=5e-7)
    assert comparison.df == pytest.approx(307.1325, abs=5e-5)
    assert comparison.p_value == pytest.approx(0.007892978, abs=5e-10)
    assert not found.srm.mismatch
    assert found.summary.winning_variant == "treatment_1"


async def test_results__employment_against_an_even_plan__as_counted_and_flagged(
    world: World, service: ResultsService
) -> None:
    found = await _results(world, service, "50", "50", event_types=("employed",))

    control, treated = (variant.metrics for variant in found.variants)
    assert (control[Metric.UNIQUE_USERS].value, treated[Metric.UNIQUE_USERS].value) == (168, 140)
    assert treated[Metric.CONVERSION_RATE].value == 140 / 185
    assert found.srm.mismatch
    assert found.summary.winning_variant is None
