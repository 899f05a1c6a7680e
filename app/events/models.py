"""Tables of events, of the ids that make retries harmless, and of how often they did."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Index,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.core.db import metadata

# A unique index on a partitioned table must contain the partition key, so it cannot refuse the same id in
# another month. The ids therefore have an unpartitioned table of their own, written in the same transaction.
event_ids = Table(
    "event_ids",
    metadata,
    Column("project_id", BigInteger, primary_key=True),
    Column("event_id", Uuid, primary_key=True),
)

events = Table(
    "events",
    metadata,
    # Without foreign keys: both ids come from the service, and a look-up per row would halve ingestion.
    Column("project_id", BigInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
    # NULL: counts for every experiment that the user is in.
    Column("experiment_id", BigInteger),
    Column("user_id", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("ts", DateTime(timezone=True), nullable=False),
    Column("value", Double),
    Column("properties", JSONB),
    Column("ingested_at", DateTime(timezone=True), nullable=False, server_default=text("ingestion_time()")),
    CheckConstraint("char_length(user_id) BETWEEN 1 AND 256", name="user_id_length"),
    CheckConstraint("char_length(event_type) BETWEEN 1 AND 100", name="event_type_length"),
    CheckConstraint("value > '-Infinity'::float8 AND value < 'Infinity'::float8", name="value_finite"),
    Index("ix_events_ingested_at", "ingested_at"),
    # Exposure events that name an experiment are looked for with every question about it.
    Index(
        "ix_events_experiment_id_event_type",
        "experiment_id",
        "event_type",
        postgresql_where=text("experiment_id IS NOT NULL"),
    ),
    postgresql_partition_by="RANGE (ingested_at)",
)

# Events that were dropped because their id was known, counted by what the dropped copy itself said. Every batch with
# duplicates adds rows of its own, so that no two batches ever wait for each other; maintenance folds them together.
dropped_duplicates = Table(
    "dropped_duplicates",
    metadata,
    Column("project_id", BigInteger, nullable=False),
    Column("experiment_id", BigInteger),
    Column("event_type", Text, nullable=False),
    # The hour of the event's own time.
    Column("bucket", DateTime(timezone=True), nullable=False),
    # When the last of them was dropped.
    Column("dropped_at", DateTime(timezone=True), nullable=False),
    Column("events", BigInteger, nullable=False),
    CheckConstraint("events > 0", name="events_positive"),
    Index("ix_dropped_duplicates_project_id_bucket", "project_id", "bucket"),
    Index("ix_dropped_duplicates_project_id_dropped_at", "project_id", "dropped_at"),
)
