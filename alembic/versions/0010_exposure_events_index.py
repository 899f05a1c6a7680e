"""An index that finds the exposure events of an experiment, in place of one that found all events that name it.

Every partition gets its index concurrently, so that writers go on. The index of the whole table then takes these over
at once, which waits for writers alone, and the former one is dropped, which waits for readers, too: an export reads for
up to an hour, and there may always be one. So this is tried for a moment only, and then left to maintenance. Cut short,
it can be run again.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa

from alembic import op
from app.core.online_schema import build_index, drop_or_supersede, insist, take_back

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_WHERE = "WHERE experiment_id IS NOT NULL"
_PARTITIONS = """
SELECT child.relname AS name FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
WHERE inhparent = 'events'::regclass ORDER BY name
"""
# Enough between two questions; a longer one is not waited for.
_PATIENCE_S = 4.0


def upgrade() -> None:
    _exchange("ix_events_experiment_id_event_type", "experiment_id, event_type", former="ix_events_experiment_id")


def downgrade() -> None:
    _exchange("ix_events_experiment_id", "experiment_id", former="ix_events_experiment_id_event_type")


def _exchange(index: str, columns: str, *, former: str) -> None:
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        take_back(connection, index)
        for partition in connection.scalars(sa.text(_PARTITIONS)).all():
            name = f"{partition}_{columns.replace(', ', '_')}_idx"
            build_index(connection, name, f"{partition} ({columns}) {_WHERE}")
        insist(connection, f"CREATE INDEX IF NOT EXISTS {index} ON events ({columns}) {_WHERE}")
        drop_or_supersede(connection, former, patience_s=_PATIENCE_S)
