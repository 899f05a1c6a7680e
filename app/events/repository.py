"""SQL of events."""

from collections.abc import Sequence
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.events import messages
from app.events.values import Event

Key = tuple[int, UUID]

# Ids first: only rows whose id is new go on to the event and its outbox row. Sorted, so that two processes with
# overlapping batches cannot deadlock. An event without a timestamp happened now, by the database's clock, which
# also dates assignments: so it can never lie before an assignment that was answered earlier.
_RECORD = text(
    f"""
WITH moment AS MATERIALIZED (
    SELECT ingestion_time() AS now
), sent AS (
    SELECT * FROM unnest(
        CAST(:project_ids AS bigint[]), CAST(:event_ids AS uuid[]), CAST(:experiment_ids AS bigint[]),
        CAST(:user_ids AS text[]), CAST(:event_types AS text[]), CAST(:timestamps AS timestamptz[]),
        CAST(:values AS float8[]), CAST(:properties AS text[])
    ) AS asked (project_id, event_id, experiment_id, user_id, event_type, ts, value, properties)
), fresh AS (
    INSERT INTO event_ids (project_id, event_id)
    SELECT project_id, event_id FROM sent ORDER BY project_id, event_id
    ON CONFLICT DO NOTHING
    RETURNING project_id, event_id
), stored AS (
    INSERT INTO events
        (project_id, event_id, experiment_id, user_id, event_type, ts, value, properties, ingested_at)
    SELECT sent.project_id, sent.event_id, sent.experiment_id, sent.user_id, sent.event_type,
           coalesce(sent.ts, moment.now), sent.value, sent.properties::jsonb, moment.now
    FROM sent JOIN fresh USING (project_id, event_id)
    CROSS JOIN moment
    RETURNING *
), shipped AS (
    INSERT INTO outbox_events (id, aggregatetype, aggregateid, type, payload)
    SELECT stored.event_id, '{messages.AGGREGATE}', stored.user_id, '{messages.RECORDED}',
           {messages.RECORDED_PAYLOAD}
    FROM stored
)
SELECT project_id, event_id FROM fresh
"""  # noqa: S608  # Made of constants only.
)
# A copy is counted under the time that it had itself; without one that is now, as for an event.
_COUNT_DROPPED = text(
    """
INSERT INTO dropped_duplicates (project_id, experiment_id, event_type, bucket, dropped_at, events)
SELECT dropped.project_id, dropped.experiment_id, dropped.event_type,
    date_trunc('hour', coalesce(dropped.ts, moment.now), 'UTC') AS bucket, moment.now, count(*)
FROM unnest(
    CAST(:project_ids AS bigint[]), CAST(:experiment_ids AS bigint[]), CAST(:event_types AS text[]),
    CAST(:timestamps AS timestamptz[])
) AS dropped (project_id, experiment_id, event_type, ts)
CROSS JOIN (SELECT clock_timestamp() AS now) AS moment
GROUP BY dropped.project_id, dropped.experiment_id, dropped.event_type, bucket, moment.now
"""
)


class EventRepository:
    """Writes events, many at a time."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def record(self, events: Sequence[Event]) -> set[Key]:
        """Store events with distinct ids, each with its outbox row; returns the ids that were new."""
        rows = await self._connection.execute(
            _RECORD,
            {
                "project_ids": [event.project_id for event in events],
                "event_ids": [event.event_id for event in events],
                "experiment_ids": [event.experiment_id for event in events],
                "user_ids": [event.user_id for event in events],
                "event_types": [event.event_type for event in events],
                "timestamps": [event.timestamp for event in events],
                "values": [event.value for event in events],
                "properties": [
                    msgspec.json.encode(event.properties).decode() if event.properties else None for event in events
                ],
            },
        )
        return {(row.project_id, row.event_id) for row in rows}

    async def count_dropped(self, events: Sequence[Event]) -> None:
        """Remember that these were dropped because their ids were known: how many of them, not which."""
        await self._connection.execute(
            _COUNT_DROPPED,
            {
                "project_ids": [event.project_id for event in events],
                "experiment_ids": [event.experiment_id for event in events],
                "event_types": [event.event_type for event in events],
                "timestamps": [event.timestamp for event in events],
            },
        )
