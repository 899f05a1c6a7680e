"""What the outbox says about events: one message per row, built by the statement that stores the row."""

AGGREGATE = "event"
RECORDED = "event.recorded"

# Keys are ClickHouse's columns. `stored` is the alias of the stored event.
RECORDED_PAYLOAD = (
    "jsonb_build_object('schema_version', 1, 'project_id', stored.project_id, 'event_id', stored.event_id,"
    " 'experiment_id', stored.experiment_id, 'user_id', stored.user_id, 'event_type', stored.event_type,"
    " 'ts', stored.ts, 'value', stored.value, 'properties', coalesce(stored.properties, '{}'::jsonb),"
    " 'ingested_at', stored.ingested_at)"
)
