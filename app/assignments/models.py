"""Tables of stored assignments and overrides."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.core.db import metadata

assignments = Table(
    "assignments",
    metadata,
    Column("experiment_id", BigInteger, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("variant_id", BigInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("experiment_version", Integer, nullable=False),
    Column("context", JSONB),
    # The moment from which the user's events count.
    Column("assigned_at", DateTime(timezone=True), nullable=False),
    Column("ingested_at", DateTime(timezone=True), nullable=False, server_default=text("ingestion_time()")),
    # Restricting, so that no assignment disappears with its experiment; composite, so that the variant is
    # one of the experiment's own.
    ForeignKeyConstraint(
        ["experiment_id", "variant_id"],
        ["variants.experiment_id", "variants.id"],
        ondelete="RESTRICT",
    ),
    CheckConstraint("source IN ('hash', 'import')", name="known_source"),
    CheckConstraint("char_length(user_id) BETWEEN 1 AND 256", name="user_id_length"),
    # For lists, newest first, and for what was ingested since a moment.
    Index("ix_assignments_experiment_id_ingested_at", "experiment_id", "ingested_at", "user_id"),
    # The earliest is the one that was ingested first, or an older one that was imported: these alone are in it.
    Index(
        "ix_assignments_experiment_id_assigned_at",
        "experiment_id",
        "assigned_at",
        postgresql_where=text("assigned_at <> ingested_at"),
    ),
)

overrides = Table(
    "overrides",
    metadata,
    Column("experiment_id", BigInteger, primary_key=True),
    Column("user_id", Text, primary_key=True),
    # NULL once removed: what nobody gets any more must not keep a draft's variant alive.
    Column("variant_id", BigInteger),
    Column("exposed_at", DateTime(timezone=True), nullable=False),
    # A removed override stays as a row, so that processes and ClickHouse learn of the removal.
    Column("removed", Boolean, nullable=False, server_default=text("false")),
    Column("change_epoch", BigInteger, nullable=False),
    Column("ingested_at", DateTime(timezone=True), nullable=False, server_default=text("ingestion_time()")),
    ForeignKeyConstraint(
        ["experiment_id", "variant_id"],
        ["variants.experiment_id", "variants.id"],
        ondelete="RESTRICT",
    ),
    CheckConstraint("char_length(user_id) BETWEEN 1 AND 256", name="user_id_length"),
    CheckConstraint("removed = (variant_id IS NULL)", name="removed_has_no_variant"),
    Index("ix_overrides_change_epoch", "change_epoch"),
)
