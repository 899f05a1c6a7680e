"""What a calibration that cannot be made leaves behind for whoever asks how far it is."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
import structlog
from sqlalchemy import text

from app.calibration.service import CalibrationService
from app.calibration.values import Calibration, Status, Wanted
from app.core.changes import Changes
from app.experiments.registry import ExperimentRegistry
from app.experiments.values import Experiment
from tests.integration.calibration import test_drawing
from tests.integration.results.world import FAR, World

given_up, shop = test_drawing.given_up, test_drawing.shop

_WITHIN_S = 60.0
# Whoever waits for a row in order to store what came of it.
_FINISHING = text(
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    " AND query LIKE 'UPDATE calibrations SET status = ''done''%'"
)
_LOCK = text("SELECT status FROM calibrations WHERE id = :id FOR UPDATE")
_CANCEL = text("UPDATE calibrations SET status = 'cancelled', ended_at = now() WHERE id = :id")


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


async def _until_logged(logs: list[Any], event: str) -> None:
    while True:
        if event in {said["event"] for said in logs}:
            return
        await asyncio.sleep(0.01)


async def _until_finishing(world: World) -> None:
    while True:
        # A transaction sees who does what as it was when it first asked.
        async with world.database.read() as connection:
            if (await connection.execute(_FINISHING)).first() is not None:
                return
        await asyncio.sleep(0.01)


async def test_calibration__has_a_result__is_logged_as_ended(service: CalibrationService, shop: Experiment) -> None:
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(_WITHIN_S):
            begun = await service.begin(shop.project_id, shop.key, Wanted(metrics=("conversion_rate",), resplits=100))
            await _until_logged(logs, "calibration.ended")

    (said,) = [said for said in logs if said["event"] == "calibration.ended"]
    assert (said["calibration_id"], said["has_result"]) == (str(begun.id), True)


async def test_calibration__cancelled_when_its_result_is_about_to_be_stored__is_logged_as_dropped(
    service: CalibrationService, world: World, shop: Experiment
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(_WITHIN_S):
            begun = await service.begin(shop.project_id, shop.key, Wanted(metrics=("conversion_rate",), resplits=100))
            async with world.database.begin() as elsewhere:
                assert (await elsewhere.execute(_LOCK, {"id": begun.id})).scalar_one() == "running"
                await _until_finishing(world)
                await elsewhere.execute(_CANCEL, {"id": begun.id})
            await _until_logged(logs, "calibration.dropped")

    assert "calibration.ended" not in {said["event"] for said in logs}
    assert (await service.get(shop.project_id, shop.key, begun.id)).status is Status.CANCELLED
