"""The table of calibrations."""

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Double, ForeignKey, Index, Table, Text, Uuid, text

from app.core.db import metadata

# `wanted` and `result` are JSON texts: nobody looks for anything in them.
calibrations = Table(
    "calibrations",
    metadata,
    Column("id", Uuid, primary_key=True),
    # Calibrations of a draft are nothing that its deletion has to spare.
    Column("experiment_id", BigInteger, ForeignKey("experiments.id", ondelete="CASCADE"), nullable=False),
    Column("status", Text, nullable=False),
    Column("progress", Double, nullable=False, server_default=text("0")),
    Column("wanted", Text, nullable=False),
    Column("result", Text),
    Column("reason", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    # When the process that works on it last said so.
    Column("seen_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    Column("ended_at", DateTime(timezone=True)),
    CheckConstraint("status IN ('running', 'done', 'failed', 'cancelled')", name="status_is_known"),
    CheckConstraint("progress BETWEEN 0 AND 1", name="progress_is_a_share"),
    CheckConstraint("(status = 'done') = (result IS NOT NULL)", name="done_has_a_result"),
    CheckConstraint("(status = 'failed') = (reason IS NOT NULL)", name="failed_has_a_reason"),
    CheckConstraint("(status = 'running') = (ended_at IS NULL)", name="ended_when_not_running"),
    Index("ix_calibrations_experiment_id_created_at", "experiment_id", "created_at"),
)
