"""What the outbox says about assignments: one message per row, built by the statement that stores the row."""

AGGREGATE = "assignment"
ASSIGNED = "assignment.created"
OVERRIDE_AGGREGATE = "override"
OVERRIDDEN = "override.changed"

# Keys are ClickHouse's columns. `stored` is the alias of the stored assignment or override.
ASSIGNED_PAYLOAD = (
    "jsonb_build_object('schema_version', 1, 'experiment_id', stored.experiment_id, 'user_id', stored.user_id,"
    " 'variant_id', stored.variant_id, 'source', stored.source, 'experiment_version', stored.experiment_version,"
    " 'context', coalesce(stored.context, '{}'::jsonb), 'exposed_at', stored.assigned_at,"
    " 'ingested_at', stored.ingested_at)"
)
OVERRIDDEN_PAYLOAD = (
    "jsonb_build_object('schema_version', 1, 'experiment_id', stored.experiment_id, 'user_id', stored.user_id,"
    " 'variant_id', coalesce(stored.variant_id, 0), 'exposed_at', stored.exposed_at, 'removed', stored.removed,"
    " 'epoch', stored.change_epoch, 'ingested_at', stored.ingested_at)"
)
