"""What the outbox says about events: one message per row, built by the statement that stores the row."""

AGGREGATE = "event"
RECORDED = "event.recorded"

# Keys are ClickHouse's columns. `row` is the alias of the stored event.
RECORDED_PAYLOAD = (
    "jsonb_build_object('schema_version', 1, 'project_id', row.project_id, 'event_id', row.event_id,"
    " 'experiment_id', row.experiment_id, 'user_id', row.user_id, 'event_type', row.event_type,"
    " 'ts', row.ts, 'value', row.value, 'properties', coalesce(row.properties, '{}'::jsonb),"
    " 'ingested_at', row.ingested_at)"
)
