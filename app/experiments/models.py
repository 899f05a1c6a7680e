"""Tables of experiments and their variants."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Numeric,
    PrimaryKeyConstraint,
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
    # `app.experiments.population.Population`, field by field; NULL: everybody.
    Column("population", JSONB(none_as_null=True)),
    # What `app.experiments.analysis_plan.AnalysisPlan` holds beside its metrics; NULL: nothing was planned.
    Column("plan", JSONB(none_as_null=True)),
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

# Which metrics an experiment has: the planned ones, and those that came after its start.
experiment_metrics = Table(
    "experiment_metrics",
    metadata,
    Column("experiment_id", BigInteger, ForeignKey("experiments.id", ondelete="RESTRICT"), nullable=False),
    Column("position", Integer, nullable=False),
    # One of the two: a stored metric, or the key of one that needs no set-up.
    Column("metric_id", BigInteger, ForeignKey("metrics.id", ondelete="RESTRICT")),
    Column("built_in", Text),
    # NULL of a stored metric: its latest version, until the start fixes it.
    Column("metric_version", Integer),
    Column("role", Text, nullable=False),
    Column("margin", Double),
    Column("exploratory", Boolean, nullable=False),
    Column("attached_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("experiment_id", "position"),
    ForeignKeyConstraint(
        ["metric_id", "metric_version"],
        ["metric_versions.metric_id", "metric_versions.version"],
        ondelete="RESTRICT",
    ),
    UniqueConstraint("experiment_id", "metric_id"),
    UniqueConstraint("experiment_id", "built_in"),
    CheckConstraint("num_nonnulls(metric_id, built_in) = 1", name="one_metric"),
    CheckConstraint("built_in IS NULL OR metric_version IS NULL", name="built_in_unversioned"),
    CheckConstraint("role IN ('primary', 'secondary', 'guardrail')", name="known_role"),
    CheckConstraint("margin IS NULL OR (role = 'guardrail' AND margin > 0 AND margin < 1)", name="margin_range"),
    CheckConstraint("NOT exploratory OR role <> 'primary'", name="exploratory_not_primary"),
    Index(
        "uq_experiment_metrics_one_primary",
        "experiment_id",
        unique=True,
        postgresql_where=text("role = 'primary'"),
    ),
    Index("ix_experiment_metrics_metric_id", "metric_id"),
)

# What was promised at the start, in the very bytes that the hash is of. A trigger refuses changes.
sealed_plans = Table(
    "sealed_plans",
    metadata,
    Column("experiment_id", BigInteger, ForeignKey("experiments.id", ondelete="RESTRICT"), primary_key=True),
    Column("document", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("sealed_at", DateTime(timezone=True), nullable=False),
    CheckConstraint("hash ~ '^[0-9a-f]{64}$'", name="hash_is_sha256"),
)
