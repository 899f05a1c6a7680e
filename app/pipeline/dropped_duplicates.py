"""Counts of events that were dropped as duplicates: kept few, and given up together with the events of their time."""

from datetime import datetime

import asyncpg

# Only rows that this very statement deletes are added up: so nothing is lost and nothing counted twice, whoever else
# adds or folds meanwhile, and who reads sees all of it or nothing.
_FOLD = """
WITH several AS (
    SELECT project_id, experiment_id, event_type, bucket FROM dropped_duplicates
    GROUP BY project_id, experiment_id, event_type, bucket HAVING count(*) > 1
), taken AS (
    DELETE FROM dropped_duplicates AS counted USING several
    WHERE counted.project_id = several.project_id AND counted.bucket = several.bucket
        AND counted.event_type = several.event_type
        AND counted.experiment_id IS NOT DISTINCT FROM several.experiment_id
    RETURNING counted.*
)
INSERT INTO dropped_duplicates (project_id, experiment_id, event_type, bucket, dropped_at, events)
SELECT project_id, experiment_id, event_type, bucket, max(dropped_at), sum(events) FROM taken
GROUP BY project_id, experiment_id, event_type, bucket
"""
_FORGET = "DELETE FROM dropped_duplicates WHERE bucket < $1"
# After a flood of duplicates there are millions of rows.
_TIMEOUT_S = 300.0


async def fold_duplicates(connection: asyncpg.Connection) -> None:
    """Make one row of all rows that count the same: each batch with duplicates adds its own."""
    await connection.execute(_FOLD, timeout=_TIMEOUT_S)


async def forget_duplicates(connection: asyncpg.Connection, before: datetime) -> None:
    """Remove what counts events of an earlier time.

    Counts of that time are not told any more, so it does no harm that rows of it may still come.
    """
    await connection.execute(_FORGET, before, timeout=_TIMEOUT_S)
