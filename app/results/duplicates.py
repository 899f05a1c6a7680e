"""How many events were dropped because their ids were known: what is told of it in an answer's provenance.

The counts are PostgreSQL's alone, whichever store answers. They are by hours, so an hour that the question cuts counts
whole; and so does the hour of the experiment's first assignment, before which no event counts. Overrides are looked at
where the answer has them. That users may be exposed later than assigned, by events, is not looked at.
"""

from collections.abc import Mapping
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.core.db import Database, StoreUnavailable, was_cut_short
from app.core.patience import within
from app.results.provenance import EVENTS_DROPPED, STORE_UNAVAILABLE, Duplicates
from app.results.values import Question, Subject

log = structlog.get_logger()

# An answer does not wait longer for a number beside it.
_PATIENCE_S = 2.0
# An assignment is as old as its ingestion, or older if it was imported, and each kind has an index of its own: so the
# first one is found however many there are.
_COUNT = """
WITH found AS MATERIALIZED (
    SELECT bucket, sum(events) AS events FROM dropped_duplicates
    WHERE project_id = CAST(:project_id AS bigint)
      AND (experiment_id IS NULL OR experiment_id = CAST(:experiment_id AS bigint))
      AND bucket >= coalesce(date_trunc('hour', CAST(:since AS timestamptz), 'UTC'), '-infinity')
      AND bucket < coalesce(CAST(:until AS timestamptz), 'infinity')
      AND (CAST(:event_types AS text[]) IS NULL OR event_type = ANY (CAST(:event_types AS text[])))
    GROUP BY bucket
), earliest AS MATERIALIZED (
    SELECT date_trunc('hour', least(
        (SELECT min(ingested_at) FROM assignments WHERE experiment_id = CAST(:experiment_id AS bigint)),
        (
            SELECT min(assigned_at) FROM assignments
            WHERE experiment_id = CAST(:experiment_id AS bigint) AND assigned_at <> ingested_at
        ),
        (
            SELECT min(exposed_at) FROM overrides
            WHERE experiment_id = CAST(:experiment_id AS bigint) AND NOT removed
                AND CAST(:include_overrides AS boolean)
        )
    ), 'UTC') AS hour
), given_up AS MATERIALIZED (
    SELECT max(upper_bound) AS before FROM dropped_partitions
)
SELECT coalesce(sum(events) FILTER (WHERE bucket >= (SELECT hour FROM earliest)), 0)::bigint AS dropped,
    CASE WHEN (SELECT before FROM given_up) > coalesce(CAST(:since AS timestamptz), '-infinity')
        THEN coalesce((SELECT hour FROM earliest) < (SELECT before FROM given_up), false)
        ELSE false
    END AS lacks
FROM found
"""


class DroppedDuplicates:
    """Reads how many duplicates were dropped; no answer fails, or waits for long, because it cannot."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(self, subject: Subject, question: Question) -> Duplicates:
        """Return how many of the events that might have counted were dropped so far."""
        try:
            return await within(_PATIENCE_S, self._count(subject, question))
        except (StoreUnavailable, TimeoutError) as error:
            return _unknown(subject, error)
        except DBAPIError as error:
            if not was_cut_short(error):
                raise
            return _unknown(subject, error)

    async def _count(self, subject: Subject, question: Question) -> Duplicates:
        sql, values = statement_for(subject, question)
        async with self._database.read() as connection:
            row = (await connection.execute(text(sql), values)).one()
        return Duplicates(None, EVENTS_DROPPED) if row.lacks else Duplicates(row.dropped, None)


def statement_for(subject: Subject, question: Question) -> tuple[str, Mapping[str, Any]]:
    """Return the statement that counts them: `dropped`, unless PostgreSQL `lacks` counts of the question's time."""
    return _COUNT, {
        "project_id": subject.project_id,
        "experiment_id": subject.experiment_id,
        "since": question.start,
        "until": question.end,
        "event_types": list(question.event_types) or None,
        "include_overrides": question.include_overrides,
    }


def _unknown(subject: Subject, error: Exception) -> Duplicates:
    log.warning("results.duplicates_not_counted", experiment_id=subject.experiment_id, error=type(error).__name__)
    return Duplicates(None, STORE_UNAVAILABLE)
