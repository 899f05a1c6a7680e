"""Tables of metrics and their versions."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.core.db import metadata

_NOW = text("clock_timestamp()")

metrics = Table(
    "metrics",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("project_id", BigInteger, ForeignKey("projects.id", ondelete="RESTRICT"), nullable=False),
    Column("key", Text, nullable=False),
    Column("latest_version", Integer, nullable=False, server_default=text("1")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    # Since when nobody can take the metric any more; who has it keeps it.
    Column("archived_at", DateTime(timezone=True)),
    # The change epoch of the last version: drafts in memory that follow the metric are read again.
    Column("change_epoch", BigInteger, nullable=False),
    UniqueConstraint("project_id", "key"),
    CheckConstraint("key ~ '^[a-z][a-z0-9_-]{0,63}$'", name="key_form"),
    CheckConstraint("latest_version >= 1", name="latest_version_positive"),
    Index("ix_metrics_change_epoch", "change_epoch"),
)

metric_versions = Table(
    "metric_versions",
    metadata,
    Column("metric_id", BigInteger, ForeignKey("metrics.id", ondelete="RESTRICT"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text),
    # `app.metrics.values.Recipe`, field by field.
    Column("recipe", JSONB, nullable=False),
    Column("direction", Text, nullable=False),
    Column("unit", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("metric_id", "version"),
    CheckConstraint("version >= 1", name="version_positive"),
    CheckConstraint("char_length(name) BETWEEN 1 AND 200", name="name_length"),
    CheckConstraint("direction IN ('up', 'down')", name="known_direction"),
)
