"""An index that finds the exposure events of an experiment, in place of one that found all events that name it.

Every partition gets its index concurrently, so that writers go on. The index of the whole table then takes these over
at once; only this last step locks the table, for an instant, and asks again rather than make writers queue behind it.
Cut short, it can be run again.

Revision ID: 0010
Revises: 0009
"""

import time

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_WHERE = "WHERE experiment_id IS NOT NULL"
_PARTITIONS = """
SELECT child.relname AS name FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
WHERE inhparent = 'events'::regclass ORDER BY name
"""
_IS_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
_EXCHANGE = """
DO $$ BEGIN
    PERFORM set_config('lock_timeout', '200ms', true);
    CREATE INDEX IF NOT EXISTS {index} ON events ({columns}) {where};
    DROP INDEX IF EXISTS {former};
END $$
"""
_LOCK_NOT_AVAILABLE = "55P03"
_PAUSE_S = 0.5
# Longer than any question to the table may take.
_PATIENCE_S = 60.0


def upgrade() -> None:
    _exchange("ix_events_experiment_id_event_type", "experiment_id, event_type", former="ix_events_experiment_id")


def downgrade() -> None:
    _exchange("ix_events_experiment_id", "experiment_id", former="ix_events_experiment_id_event_type")


def _exchange(index: str, columns: str, *, former: str) -> None:
    with op.get_context().autocommit_block():
        # Building concurrently waits for others, and nobody waits for it.
        op.execute("SET lock_timeout = 0")
        connection = op.get_bind()
        for partition in connection.scalars(sa.text(_PARTITIONS)).all():
            _build(connection, f"{partition}_{columns.replace(', ', '_')}_idx", f"{partition} ({columns})")
        _insist(connection, _EXCHANGE.format(index=index, columns=columns, where=_WHERE, former=former))


def _build(connection: sa.Connection, name: str, of: str) -> None:
    is_valid = connection.scalar(sa.text(_IS_VALID), {"name": name})
    if is_valid is False:  # Left behind when it was cut short.
        connection.execute(sa.text(f"DROP INDEX CONCURRENTLY {name}"))
    if not is_valid:
        connection.execute(sa.text(f"CREATE INDEX CONCURRENTLY {name} ON {of} {_WHERE}"))


def _insist(connection: sa.Connection, statement: str) -> None:
    """Execute it, again and again where somebody keeps the table."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            connection.execute(sa.text(statement))
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE or time.monotonic() > until:
                raise
            time.sleep(_PAUSE_S)
        else:
            return
