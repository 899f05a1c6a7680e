"""Tables of experiments and their variants."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, ExcludeConstraint

from app.core.db import metadata

_NOW = text("clock_timestamp()")
_EMPTY = text("'{}'::jsonb")

experiments = Table(
    "experiments",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("project_id", BigInteger, ForeignKey("projects.id", ondelete="RESTRICT"), nullable=False),
    Column("key", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text),
    Column("status", Text, nullable=False),
    Column("seed", Text, nullable=False),
    Column("traffic_pct", Numeric(5, 2), nullable=False),
    Column("config", JSONB, nullable=False, server_default=_EMPTY),
    Column("version", Integer, nullable=False, server_default=text("1")),
    Column("starts_at", DateTime(timezone=True)),
    Column("ends_at", DateTime(timezone=True)),
    Column("started_at", DateTime(timezone=True)),
    Column("ended_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    # The change epoch of the last change: what a process in memory asks for to catch up.
    Column("change_epoch", BigInteger, nullable=False),
    UniqueConstraint("project_id", "key"),
    CheckConstraint("key ~ '^[a-z][a-z0-9_-]{0,63}$'", name="key_form"),
    CheckConstraint("char_length(name) BETWEEN 1 AND 200", name="name_length"),
    CheckConstraint("status IN ('draft', 'running', 'paused', 'completed', 'archived')", name="known_status"),
    CheckConstraint("seed ~ '^[A-Za-z0-9_-]{1,64}$'", name="seed_form"),
    CheckConstraint("traffic_pct BETWEEN 0 AND 100", name="traffic_range"),
    CheckConstraint("ends_at > starts_at", name="ends_after_start"),
    CheckConstraint("version >= 1", name="version_positive"),
    CheckConstraint(
        "status NOT IN ('running', 'paused', 'completed') OR started_at IS NOT NULL", name="started_is_dated"
    ),
    CheckConstraint("status <> 'completed' OR ended_at IS NOT NULL", name="completed_is_dated"),
    Index("ix_experiments_change_epoch", "change_epoch"),
    Index("ix_experiments_project_id_status", "project_id", "status", "id"),
)

variants = Table(
    "variants",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("experiment_id", BigInteger, ForeignKey("experiments.id", ondelete="RESTRICT"), nullable=False),
    Column("key", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("allocation_pct", Numeric(5, 2), nullable=False),
    Column("is_control", Boolean, nullable=False),
    Column("config", JSONB, nullable=False, server_default=_EMPTY),
    # Half-open range of the 10,000 buckets; stored, so that no later change can reshuffle users.
    Column("bucket_start", Integer, nullable=False),
    Column("bucket_end", Integer, nullable=False),
    # The target of composite foreign keys: an assignment cannot name another experiment's variant.
    UniqueConstraint("experiment_id", "id"),
    UniqueConstraint("experiment_id", "key"),
    # Deferred, like the ranges below: variants of a draft are rewritten one by one.
    UniqueConstraint("experiment_id", "position", deferrable=True, initially="DEFERRED"),
    CheckConstraint("key ~ '^[a-z][a-z0-9_-]{0,63}$'", name="key_form"),
    CheckConstraint("char_length(name) BETWEEN 1 AND 200", name="name_length"),
    CheckConstraint("allocation_pct BETWEEN 0 AND 100", name="allocation_range"),
    CheckConstraint("0 <= bucket_start AND bucket_start <= bucket_end AND bucket_end <= 10000", name="range"),
    Index(
        "uq_variants_one_control",
        "experiment_id",
        unique=True,
        postgresql_where=text("is_control"),
    ),
    # One-value ranges compare ids, so that no extension is needed for the equality.
    ExcludeConstraint(
        (
            func.int8range(literal_column("experiment_id"), literal_column("experiment_id"), text("'[]'")),
            "&&",
        ),
        (func.int4range(literal_column("bucket_start"), literal_column("bucket_end")), "&&"),
        name="ex_variants_ranges_disjoint",
        using="gist",
        deferrable=True,
        initially="DEFERRED",
    ),
)
