"""The table of kept answers."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    Table,
    Text,
    Uuid,
    text,
)

from app.core.db import metadata

# Each is the text that was answered, so that it can be had again whatever has changed since: the data, the release.
answers = Table(
    "answers",
    metadata,
    Column("id", Uuid, primary_key=True),
    # Answers about a draft are nothing that its deletion has to spare.
    Column("experiment_id", BigInteger, ForeignKey("experiments.id", ondelete="CASCADE"), nullable=False),
    Column("query_hash", Text, nullable=False),
    # As an earlier release kept it, or compressed by zlib. Of an answer that says what another one says, the other has
    # the document, and this one what is of its moment.
    Column("document", Text),
    Column("packed", LargeBinary),
    Column("same_as", Uuid, ForeignKey("answers.id", ondelete="CASCADE")),
    Column("moments", Text),
    # Of the document without what is of its moment; null in answers that an earlier release kept.
    Column("content_hash", LargeBinary),
    Column("kept_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    CheckConstraint("query_hash ~ '^[0-9a-f]{64}$'", name="query_hash_is_sha256"),
    CheckConstraint(
        "num_nonnulls(document, packed, same_as) = 1 AND (same_as IS NULL) = (moments IS NULL)", name="whole_or_same"
    ),
    Index("ix_answers_experiment_id_kept_at", "experiment_id", "kept_at"),
    Index("ix_answers_kept_at", "kept_at"),
    Index("ix_answers_same_as", "same_as", postgresql_where=text("same_as IS NOT NULL")),
)
