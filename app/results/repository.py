"""SQL about how new PostgreSQL's rows are."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.results.values import FRESHNESS_LOOK_BACK, Freshness, Subject

# Each part reads the end of an index: of the experiment's own assignments, of the few overrides, of the counts of
# duplicates, and of the events in their order of ingestion, among which those of a busy project are found at once. In a
# quiet one the look ends where no kept answer can be older.
_FRESHNESS = text(
    """
SELECT clock_timestamp() AS now,
    greatest(
        (
            SELECT ingested_at FROM events
            WHERE ingested_at > now() - CAST(:look_back AS interval) AND project_id = :project_id
                AND (experiment_id IS NULL OR experiment_id = :experiment_id)
            ORDER BY ingested_at DESC LIMIT 1
        ),
        (SELECT max(ingested_at) FROM assignments WHERE experiment_id = :experiment_id),
        (
            SELECT dropped_at FROM dropped_duplicates
            WHERE project_id = :project_id AND dropped_at > now() - CAST(:look_back AS interval)
                AND (experiment_id IS NULL OR experiment_id = :experiment_id)
            ORDER BY dropped_at DESC LIMIT 1
        )
    ) AS newest,
    (SELECT max(change_epoch) FROM overrides WHERE experiment_id = :experiment_id) AS override_epoch
"""
)


class FreshnessRepository:
    """Reads what an answer's cache key says about its data."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, subject: Subject) -> Freshness:
        values = {
            "project_id": subject.project_id,
            "experiment_id": subject.experiment_id,
            "look_back": FRESHNESS_LOOK_BACK,
        }
        row = (await self._connection.execute(_FRESHNESS, values)).one()
        return Freshness(newest=row.newest, override_epoch=row.override_epoch, now=row.now)
