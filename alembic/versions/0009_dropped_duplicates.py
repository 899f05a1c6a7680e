"""How many events were dropped where they arrived, because their ids were known.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET lock_timeout = '5s'")
    op.create_table(
        "dropped_duplicates",
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("experiment_id", sa.BigInteger(), nullable=True),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=False),
        sa.Column("dropped_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("events > 0", name=op.f("ck_dropped_duplicates_events_positive")),
    )
    op.create_index(
        "ix_dropped_duplicates_project_id_bucket", "dropped_duplicates", ["project_id", "bucket"], unique=False
    )
    op.create_index(
        "ix_dropped_duplicates_project_id_dropped_at", "dropped_duplicates", ["project_id", "dropped_at"], unique=False
    )


def downgrade() -> None:
    op.execute("SET lock_timeout = '5s'")
    op.drop_table("dropped_duplicates")
