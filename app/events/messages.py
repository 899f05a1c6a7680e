"""What the outbox says about events: one message per row, built by the statement that stores the row."""

from datetime import timedelta

AGGREGATE = "event"
RECORDED = "event.recorded"

# No event that lies further ahead of its ingestion gets into ClickHouse, and results look no further. The API refuses
# what is minutes ahead of its own clock, which may differ from the database's; a day is more than any clock is wrong.
MOST_AHEAD = timedelta(days=1)

# Keys are ClickHouse's columns. `stored` is the alias of the stored event.
RECORDED_PAYLOAD = (
    "jsonb_build_object('schema_version', 1, 'project_id', stored.project_id, 'event_id', stored.event_id,"
    " 'experiment_id', stored.experiment_id, 'user_id', stored.user_id, 'event_type', stored.event_type,"
    " 'ts', stored.ts, 'value', stored.value, 'properties', coalesce(stored.properties, '{}'::jsonb),"
    " 'ingested_at', stored.ingested_at)"
)
