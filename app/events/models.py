"""Tables of events and of the ids that make retries harmless."""

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
    Index("ix_events_experiment_id", "experiment_id", postgresql_where=text("experiment_id IS NOT NULL")),
    postgresql_partition_by="RANGE (ingested_at)",
)
