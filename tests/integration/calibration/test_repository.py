"""Calibrations as they are stored: what has ended stays as it is, and what another release wrote can be shown."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.calibration.repository import CalibrationRepository
from app.calibration.values import CalibrationResult, Status, Wanted
from app.core.db import Database
from tests.integration.results.world import World

_RESULT = CalibrationResult(users=40, units=40, alpha=0.05, metrics=())


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction that comes to nothing."""
    async with database.begin() as opened:
        yield opened
        await opened.rollback()


@pytest.fixture(scope="module")
async def experiment_id(world: World) -> int:
    return (await world.experiment()).id


async def _begun(repository: CalibrationRepository, experiment_id: int) -> UUID:
    calibration_id = uuid4()
    await repository.insert(calibration_id, experiment_id, Wanted())
    return calibration_id


async def test_finish__running__is_told_apart_from_one_that_was_cancelled_meanwhile(
    connection: AsyncConnection, experiment_id: int
) -> None:
    repository = CalibrationRepository(connection)
    done, failed, cancelled = [await _begun(repository, experiment_id) for _ in range(3)]
    assert await repository.cancel(experiment_id, cancelled)

    assert await repository.finish(done, _RESULT)
    assert await repository.fail(failed, "No reason.")
    assert not await repository.finish(cancelled, _RESULT)
    assert not await repository.fail(cancelled, "No reason.")

    found = {one.id: one for one in await repository.list_(experiment_id, None, 3)}
    assert (found[done].status, found[done].result) == (Status.DONE, _RESULT)
    assert (found[failed].status, found[failed].reason) == (Status.FAILED, "No reason.")
    assert (found[cancelled].status, found[cancelled].result, found[cancelled].reason) == (Status.CANCELLED, None, None)


@pytest.mark.parametrize(
    ("ended_at", "status", "reason"),
    [
        ("NULL", Status.RUNNING, None),
        ("now()", Status.FAILED, "A newer release ended it with the status shelved, unknown to this one."),
    ],
)
async def test_find__status_of_a_newer_release__is_shown_as_the_nearest_that_this_one_knows(
    connection: AsyncConnection, experiment_id: int, ended_at: str, status: Status, reason: str | None
) -> None:
    repository = CalibrationRepository(connection)
    shelved = await _begun(repository, experiment_id)
    await connection.execute(text("ALTER TABLE calibrations DROP CONSTRAINT ck_calibrations_status_is_known"))
    await connection.execute(text("ALTER TABLE calibrations DROP CONSTRAINT ck_calibrations_ended_when_not_running"))
    await connection.execute(text(f"UPDATE calibrations SET status = 'shelved', ended_at = {ended_at}"))

    found = await repository.find(experiment_id, shelved)

    assert found is not None
    assert (found.status, found.reason, found.result) == (status, reason, None)
    assert await repository.list_(experiment_id, None, 1) == [found]
