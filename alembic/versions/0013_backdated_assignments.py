"""An index that finds the earliest of the assignments that are older than their ingestion: the imported ones.

All others are found by their ingestion, so that writing them costs no more than before. Cut short, it can be run again.

Revision ID: 0013
Revises: 0012
"""

from alembic import op
from app.core.online_schema import build_index

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_INDEX = "ix_assignments_experiment_id_assigned_at"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        build_index(op.get_bind(), _INDEX, "assignments (experiment_id, assigned_at) WHERE assigned_at <> ingested_at")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_INDEX}")
