"""Which steps hold: manifests and invalidations in ClickHouse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

import msgspec

from app.core.clickhouse import ClickHouse
from app.rollups.steps import Step, valid_steps

# One row, also where there is nothing yet.
_NEWEST = """
SELECT max(version) AS highest, argMax(content, version) AS newest,
    (SELECT groupArray((since, times)) FROM (
        SELECT since, sum(rollup_invalidations.times) AS times FROM rollup_invalidations GROUP BY since
    )) AS invalidated
FROM rollup_manifests
"""


class Retired(msgspec.Struct, frozen=True):
    """A step that no longer counts; whoever has just read the manifest before may still look at its rows."""

    id: int
    at: datetime


class Manifest(msgspec.Struct, frozen=True):
    """The steps that count, in order and without gaps from the origin on."""

    steps: tuple[Step, ...] = ()
    retired: tuple[Retired, ...] = ()


@dataclass(frozen=True, slots=True)
class Rollups:
    """The newest manifest as it stands.

    steps: those of its steps that are valid. invalidated: how many invalidations there are from a moment on.
    """

    version: int
    manifest: Manifest
    steps: Sequence[Step]
    invalidated: Mapping[datetime, int]


class RollupRepository:
    """Reads and writes what says which steps hold."""

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._clickhouse = clickhouse

    async def get(self) -> Rollups:
        """Return what holds now.

        Raises:
            ClickHouseUnavailable: it cannot be reached.
        """
        (row,) = await self._clickhouse.rows(_NEWEST)
        manifest = msgspec.json.decode(row["newest"], type=Manifest) if row["newest"] else Manifest()
        invalidated = dict(row["invalidated"])
        return Rollups(row["highest"], manifest, valid_steps(manifest.steps, invalidated), invalidated)

    async def put(self, version: int, manifest: Manifest) -> None:
        """Let a manifest hold, unless there is one with a higher version."""
        record = {"version": version, "content": msgspec.json.encode(manifest).decode()}
        await self._clickhouse.insert_json("rollup_manifests", [msgspec.json.encode(record)])

    async def invalidate(self, since: datetime) -> None:
        """Void every step with rows that were ingested from `since` on."""
        record = {"id": uuid4(), "since": since}
        await self._clickhouse.insert_json("rollup_invalidations", [msgspec.json.encode(record)])
