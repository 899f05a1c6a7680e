"""SQL of calibrations."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.calibration.places import Place
from app.calibration.values import Calibration, CalibrationResult, Status, Wanted

# Of one experiment: the newest.
MOST_KEPT = 100
# A process that works says so every few seconds; one that has not for so long is gone.
SILENT_FOR = timedelta(seconds=30)
_KNOWN = frozenset(Status)
_GONE = "The process that worked on it has ended. Ask for the calibration again."

_INSERT = text(
    "INSERT INTO calibrations (id, experiment_id, status, wanted) VALUES (:id, :experiment_id, 'running', :wanted)"
)
# Rows that somebody else is removing are left to him, so that two never wait for each other.
_REMOVE_SURPLUS = text(
    """
DELETE FROM calibrations WHERE id IN (
    SELECT id FROM calibrations WHERE experiment_id = :experiment_id AND status <> 'running'
    ORDER BY created_at DESC OFFSET :most_kept FOR UPDATE SKIP LOCKED
)
"""
)
_SEEN = text(
    "UPDATE calibrations SET progress = :progress, seen_at = clock_timestamp() WHERE id = :id AND status = 'running'"
)
_FINISH = text(
    "UPDATE calibrations SET status = 'done', progress = 1, result = :result, ended_at = clock_timestamp()"
    " WHERE id = :id AND status = 'running'"
)
_FAIL = text(
    "UPDATE calibrations SET status = 'failed', reason = :reason, ended_at = clock_timestamp()"
    " WHERE id = :id AND status = 'running'"
)
_CANCEL = text(
    "UPDATE calibrations SET status = 'cancelled', ended_at = clock_timestamp()"
    " WHERE id = :id AND experiment_id = :experiment_id AND status = 'running'"
)
_FAIL_IF_SILENT = text(
    "UPDATE calibrations SET status = 'failed', reason = :reason, ended_at = clock_timestamp()"
    " WHERE id = :id AND status = 'running' AND seen_at < clock_timestamp() - CAST(:silent_for AS interval)"
)
_FAIL_SILENT_ONES = text(
    "UPDATE calibrations SET status = 'failed', reason = :reason, ended_at = clock_timestamp()"
    " WHERE experiment_id = :experiment_id AND status = 'running'"
    " AND seen_at < clock_timestamp() - CAST(:silent_for AS interval)"
)
_LIST = text(
    """
SELECT * FROM calibrations
WHERE experiment_id = :experiment_id
  AND (CAST(:created_at AS timestamptz) IS NULL
    OR (created_at, id) < (CAST(:created_at AS timestamptz), CAST(:id AS uuid)))
ORDER BY created_at DESC, id DESC LIMIT :limit
"""
)
_FIND = text("SELECT * FROM calibrations WHERE id = :id AND experiment_id = :experiment_id")


class CalibrationRepository:
    """Reads and writes calibrations; what has ended stays as it is."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(self, calibration_id: UUID, experiment_id: int, wanted: Wanted) -> None:
        """Store one that is running, and remove the oldest ones of the experiment."""
        values = {"id": calibration_id, "experiment_id": experiment_id, "wanted": msgspec.json.encode(wanted).decode()}
        await self._connection.execute(_INSERT, values)
        await self._connection.execute(_REMOVE_SURPLUS, {"experiment_id": experiment_id, "most_kept": MOST_KEPT})

    async def seen(self, calibration_id: UUID, progress: float) -> bool:
        """Note that somebody works on it, and how far it is; tell whether it is still running, and not cancelled."""
        noted = await self._connection.execute(_SEEN, {"id": calibration_id, "progress": progress})
        return noted.rowcount > 0

    async def finish(self, calibration_id: UUID, result: CalibrationResult) -> bool:
        """Store what came out; tell whether it was running, and not cancelled or given up for lost meanwhile."""
        written = msgspec.json.encode(result).decode()
        noted = await self._connection.execute(_FINISH, {"id": calibration_id, "result": written})
        return noted.rowcount > 0

    async def fail(self, calibration_id: UUID, reason: str) -> bool:
        """Store why nothing came out; tell whether it was running, as `finish`."""
        noted = await self._connection.execute(_FAIL, {"id": calibration_id, "reason": reason})
        return noted.rowcount > 0

    async def cancel(self, experiment_id: int, calibration_id: UUID) -> bool:
        """Note that nobody wants it any more; tell whether that is new. What is not running stays as it is."""
        noted = await self._connection.execute(_CANCEL, {"id": calibration_id, "experiment_id": experiment_id})
        return noted.rowcount > 0

    async def find(self, experiment_id: int, calibration_id: UUID) -> Calibration | None:
        """Return the experiment's calibration; one that nobody works on any more has failed."""
        silent = {"id": calibration_id, "reason": _GONE, "silent_for": SILENT_FOR}
        await self._connection.execute(_FAIL_IF_SILENT, silent)
        values = {"id": calibration_id, "experiment_id": experiment_id}
        row = (await self._connection.execute(_FIND, values)).one_or_none()
        return None if row is None else _calibration(row)

    async def list_(self, experiment_id: int, after: Place | None, limit: int) -> list[Calibration]:
        """Return the experiment's calibrations after a place, newest first; of those that nobody works on as `find`."""
        silent = {"experiment_id": experiment_id, "reason": _GONE, "silent_for": SILENT_FOR}
        await self._connection.execute(_FAIL_SILENT_ONES, silent)
        place = {"created_at": None, "id": None} if after is None else {"created_at": after.created_at, "id": after.id}
        rows = await self._connection.execute(_LIST, {"experiment_id": experiment_id, "limit": limit, **place})
        return [_calibration(row) for row in rows]


def _calibration(row: Row[Any]) -> Calibration:
    status, reason = _status_and_reason(row)
    return Calibration(
        id=row.id,
        experiment_id=row.experiment_id,
        status=status,
        progress=row.progress,
        wanted=msgspec.json.decode(row.wanted, type=Wanted),
        result=None if row.result is None else msgspec.json.decode(row.result, type=CalibrationResult),
        reason=reason,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


def _status_and_reason(row: Row[Any]) -> tuple[Status, str | None]:
    """Return them as this release knows them: a newer one, beside it or before a downgrade, may have other statuses."""
    if row.status in _KNOWN:
        return Status(row.status), row.reason
    if row.ended_at is None:
        return Status.RUNNING, None
    return Status.FAILED, row.reason or f"A newer release ended it with the status {row.status}, unknown to this one."
