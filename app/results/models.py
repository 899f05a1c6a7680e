"""The table of kept answers."""

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, ForeignKey, Index, Table, Text, Uuid, text

from app.core.db import metadata

# Each is the text that was answered, so that it can be had again whatever has changed since: the data, the release.
answers = Table(
    "answers",
    metadata,
    Column("id", Uuid, primary_key=True),
    # Answers about a draft are nothing that its deletion has to spare.
    Column("experiment_id", BigInteger, ForeignKey("experiments.id", ondelete="CASCADE"), nullable=False),
    Column("query_hash", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("kept_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    CheckConstraint("query_hash ~ '^[0-9a-f]{64}$'", name="query_hash_is_sha256"),
    Index("ix_answers_experiment_id_kept_at", "experiment_id", "kept_at"),
    Index("ix_answers_kept_at", "kept_at"),
)
