"""What is known of ClickHouse's histories, hour by hour, and which partitions PostgreSQL has given up.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET lock_timeout = '5s'")
    op.create_table(
        "histories",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column(
            "adopted_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("proven_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reconciled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reconciled_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("repairing_since", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_histories")),
    )
    op.create_table(
        "reconciled_hours",
        sa.Column("history_id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("row_count", sa.BigInteger(), nullable=False),
        sa.Column("checksum", sa.Numeric(precision=20, scale=0), nullable=False),
        sa.Column("missing_rows", sa.BigInteger(), nullable=False),
        sa.Column("extra_rows", sa.BigInteger(), nullable=False),
        sa.Column("repaired_rows", sa.BigInteger(), nullable=False),
        sa.Column("differences", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "outcome",
            sa.Text(),
            sa.Computed(
                "CASE WHEN missing_rows + extra_rows > 0 THEN 'open' WHEN repaired_rows > 0 THEN 'repaired'"
                " ELSE 'equal' END",
                persisted=True,
            ),
            nullable=True,
        ),
        sa.Column("compared_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "subject IN ('events', 'exposures', 'overrides', 'experiments')",
            name=op.f("ck_reconciled_hours_known_subject"),
        ),
        sa.ForeignKeyConstraint(
            ["history_id"], ["histories.id"], name=op.f("fk_reconciled_hours_history_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("history_id", "subject", "hour", name=op.f("pk_reconciled_hours")),
    )
    op.create_index(
        "ix_reconciled_hours_history_id_compared_at", "reconciled_hours", ["history_id", "compared_at"], unique=False
    )
    op.create_index("ix_reconciled_hours_subject_hour", "reconciled_hours", ["subject", "hour"], unique=False)
    op.create_table(
        "dropped_partitions",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("upper_bound", sa.DateTime(timezone=True), nullable=False),
        sa.Column("row_count", sa.BigInteger(), nullable=False),
        sa.Column(
            "dropped_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_dropped_partitions")),
    )
    op.create_table(
        "given_up_events",
        sa.Column("ingested_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "decided_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("ingested_before", name=op.f("pk_given_up_events")),
    )


def downgrade() -> None:
    for table in ("given_up_events", "dropped_partitions", "reconciled_hours", "histories"):
        op.drop_table(table)
