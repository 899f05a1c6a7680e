"""What a calibration that cannot be made leaves behind for whoever asks how far it is."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime

import pytest

from app.calibration.service import CalibrationService
from app.calibration.values import Calibration, Status, Wanted
from app.core.changes import Changes
from app.experiments.registry import ExperimentRegistry
from app.experiments.values import Experiment
from tests.integration.calibration import test_drawing
from tests.integration.results.world import FAR, World

given_up = test_drawing.given_up

_WITHIN_S = 20.0


async def _watermark() -> datetime | None:
    return FAR


@pytest.fixture
async def service(world: World) -> AsyncIterator[CalibrationService]:
    changes = Changes(world.database)
    registry = ExperimentRegistry(world.database, changes)
    await changes.start()
    world.followers.append(changes)
    running = CalibrationService(
        database=world.database, clickhouse=world.clickhouse, registry=registry, watermark=_watermark
    )
    yield running
    await running.stop()
    world.followers.remove(changes)
    await changes.stop()


async def _ended(service: CalibrationService, experiment: Experiment, begun: Calibration) -> Calibration:
    async with asyncio.timeout(_WITHIN_S):
        while True:
            found = await service.get(experiment.project_id, experiment.key, begun.id)
            if found.status is not Status.RUNNING:
                return found
            await asyncio.sleep(0.05)


async def test_calibration__history_has_more_than_can_be_held__has_failed_with_the_reason(
    service: CalibrationService, given_up: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.calibration.sizes.MOST_NUMBERS", 1)

    begun = await service.begin(given_up.project_id, given_up.key, Wanted(metrics=("p95_value",)))
    ended = await _ended(service, given_up, begun)

    assert (ended.status, ended.result) == (Status.FAILED, None)
    assert ended.reason is not None
    assert "more than 1 numbers" in ended.reason
