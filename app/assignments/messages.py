"""What the outbox says about assignments: one message per row, built by the statement that stores the row."""

AGGREGATE = "assignment"
ASSIGNED = "assignment.created"
OVERRIDE_AGGREGATE = "override"
OVERRIDDEN = "override.changed"

# Keys are ClickHouse's columns. `row` is the alias of the stored assignment or override.
ASSIGNED_PAYLOAD = (
    "jsonb_build_object('schema_version', 1, 'experiment_id', row.experiment_id, 'user_id', row.user_id,"
    " 'variant_id', row.variant_id, 'source', row.source, 'experiment_version', row.experiment_version,"
    " 'context', coalesce(row.context, '{}'::jsonb), 'exposed_at', row.assigned_at,"
    " 'ingested_at', row.ingested_at)"
)
OVERRIDDEN_PAYLOAD = (
    "jsonb_build_object('schema_version', 1, 'experiment_id', row.experiment_id, 'user_id', row.user_id,"
    " 'variant_id', row.variant_id, 'exposed_at', row.exposed_at, 'removed', row.removed,"
    " 'epoch', row.change_epoch, 'ingested_at', row.ingested_at)"
)
