"""Metrics that are archived.

Revision ID: 0012
Revises: 0011
"""

from alembic import op
from app.core.online_schema import insist

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        insist(op.get_bind(), "ALTER TABLE metrics ADD COLUMN IF NOT EXISTS archived_at timestamptz")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        insist(op.get_bind(), "ALTER TABLE metrics DROP COLUMN IF EXISTS archived_at")
