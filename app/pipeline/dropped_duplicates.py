"""Counts of events that were dropped as duplicates: kept few, and given up together with the events of their time."""

from datetime import datetime

import asyncpg

# Hours of projects in which something is counted by several rows. The next round finds what is beyond these.
_SEVERAL = """
SELECT DISTINCT project_id, bucket FROM (
    SELECT project_id, bucket FROM dropped_duplicates
    GROUP BY project_id, experiment_id, event_type, bucket HAVING count(*) > 1
) AS counted ORDER BY project_id, bucket LIMIT $1
"""
_MOST_AT_ONCE = 10_000
# Only rows that this very statement deletes are added up: so nothing is lost and nothing counted twice, whoever else
# adds or folds meanwhile, and who reads sees all of it or nothing. No experiment has the id 0, which can be compared
# by its hash where NULL cannot.
_FOLD = """
WITH several AS (
    SELECT coalesce(experiment_id, 0) AS experiment_id, event_type FROM dropped_duplicates
    WHERE project_id = $1 AND bucket = $2
    GROUP BY coalesce(experiment_id, 0), event_type HAVING count(*) > 1
), taken AS (
    DELETE FROM dropped_duplicates AS counted USING several
    WHERE counted.project_id = $1 AND counted.bucket = $2
        AND counted.event_type = several.event_type
        AND coalesce(counted.experiment_id, 0) = several.experiment_id
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
    """Make one row of all rows that count the same: each batch with duplicates adds its own.

    An hour of a project at a time, so that what is done stays done when it is cut short.
    """
    for row in await connection.fetch(_SEVERAL, _MOST_AT_ONCE, timeout=_TIMEOUT_S):
        await connection.execute(_FOLD, row["project_id"], row["bucket"], timeout=_TIMEOUT_S)


async def forget_duplicates(connection: asyncpg.Connection, before: datetime) -> None:
    """Remove what counts events of an earlier time.

    Counts of that time are not told any more, so it does no harm that rows of it may still come.
    """
    await connection.execute(_FORGET, before, timeout=_TIMEOUT_S)
