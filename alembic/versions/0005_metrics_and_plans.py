"""Stored metrics with versions, which experiment uses which, who counts in results, and sealed plans.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# A promise that could be rewritten would be none. Started experiments are never deleted, so nothing needs to be.
_REFUSE_CHANGES = """
CREATE FUNCTION refuse_changes_of_sealed_plans() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the plan of experiment % is sealed: it cannot be changed or deleted', OLD.experiment_id
        USING ERRCODE = 'restrict_violation';
END $$
"""
_REFUSE_CHANGES_TRIGGER = """
CREATE TRIGGER sealed_plans_unchanging BEFORE UPDATE OR DELETE ON sealed_plans
    FOR EACH ROW EXECUTE FUNCTION refuse_changes_of_sealed_plans()
"""


def upgrade() -> None:
    op.execute("SET lock_timeout = '5s'")
    _create_metrics()
    # Without a default and without a check: no row is looked at.
    op.add_column("experiments", sa.Column("population", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column("experiments", sa.Column("plan", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    _create_experiment_metrics()
    op.create_table(
        "sealed_plans",
        sa.Column("experiment_id", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("sealed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("hash ~ '^[0-9a-f]{64}$'", name=op.f("ck_sealed_plans_hash_is_sha256")),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_sealed_plans_experiment_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("experiment_id", name=op.f("pk_sealed_plans")),
    )
    op.execute(_REFUSE_CHANGES)
    op.execute(_REFUSE_CHANGES_TRIGGER)


def _create_metrics() -> None:
    op.create_table(
        "metrics",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("latest_version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("change_epoch", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("key ~ '^[a-z][a-z0-9_-]{0,63}$'", name=op.f("ck_metrics_key_form")),
        sa.CheckConstraint("latest_version >= 1", name=op.f("ck_metrics_latest_version_positive")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_metrics_project_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metrics")),
        sa.UniqueConstraint("project_id", "key", name=op.f("uq_metrics_project_id_key")),
    )
    op.create_index("ix_metrics_change_epoch", "metrics", ["change_epoch"], unique=False)
    op.create_table(
        "metric_versions",
        sa.Column("metric_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("recipe", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("version >= 1", name=op.f("ck_metric_versions_version_positive")),
        sa.CheckConstraint("char_length(name) BETWEEN 1 AND 200", name=op.f("ck_metric_versions_name_length")),
        sa.CheckConstraint("direction IN ('up', 'down')", name=op.f("ck_metric_versions_known_direction")),
        sa.ForeignKeyConstraint(
            ["metric_id"], ["metrics.id"], name=op.f("fk_metric_versions_metric_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("metric_id", "version", name=op.f("pk_metric_versions")),
    )


def _create_experiment_metrics() -> None:
    op.create_table(
        "experiment_metrics",
        sa.Column("experiment_id", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("metric_id", sa.BigInteger(), nullable=True),
        sa.Column("built_in", sa.Text(), nullable=True),
        sa.Column("metric_version", sa.Integer(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("margin", sa.Double(), nullable=True),
        sa.Column("exploratory", sa.Boolean(), nullable=False),
        sa.Column(
            "attached_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("num_nonnulls(metric_id, built_in) = 1", name=op.f("ck_experiment_metrics_one_metric")),
        sa.CheckConstraint(
            "built_in IS NULL OR metric_version IS NULL", name=op.f("ck_experiment_metrics_built_in_unversioned")
        ),
        sa.CheckConstraint(
            "role IN ('primary', 'secondary', 'guardrail')", name=op.f("ck_experiment_metrics_known_role")
        ),
        sa.CheckConstraint(
            "margin IS NULL OR (role = 'guardrail' AND margin > 0 AND margin < 1)",
            name=op.f("ck_experiment_metrics_margin_range"),
        ),
        sa.CheckConstraint(
            "NOT exploratory OR role <> 'primary'", name=op.f("ck_experiment_metrics_exploratory_not_primary")
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_experiment_metrics_experiment_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["metric_id"], ["metrics.id"], name=op.f("fk_experiment_metrics_metric_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["metric_id", "metric_version"],
            ["metric_versions.metric_id", "metric_versions.version"],
            name=op.f("fk_experiment_metrics_metric_id_metric_version"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("experiment_id", "position", name=op.f("pk_experiment_metrics")),
        sa.UniqueConstraint("experiment_id", "metric_id", name=op.f("uq_experiment_metrics_experiment_id_metric_id")),
        sa.UniqueConstraint("experiment_id", "built_in", name=op.f("uq_experiment_metrics_experiment_id_built_in")),
    )
    op.create_index("ix_experiment_metrics_metric_id", "experiment_metrics", ["metric_id"], unique=False)
    op.create_index(
        "uq_experiment_metrics_one_primary",
        "experiment_metrics",
        ["experiment_id"],
        unique=True,
        postgresql_where=sa.text("role = 'primary'"),
    )


def downgrade() -> None:
    op.drop_table("sealed_plans")
    op.execute("DROP FUNCTION refuse_changes_of_sealed_plans()")
    op.drop_table("experiment_metrics")
    op.drop_column("experiments", "plan")
    op.drop_column("experiments", "population")
    op.drop_table("metric_versions")
    op.drop_table("metrics")
