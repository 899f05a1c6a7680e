"""The first schema: projects, experiments, assignments, events, outbox, tokens and audit.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import UserDefinedType

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id."""

    def get_col_spec(self, **_options: object) -> str:
        return "xid8"


# The transaction takes its id first, the clock is read second. So a row whose transaction has a higher id than
# any that had started by time t was ingested after t: this is what a watermark is proven with.
_INGESTION_TIME = """
CREATE FUNCTION ingestion_time() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN pg_current_xact_id() IS NOT NULL THEN clock_timestamp() END
$$
"""

# Checked at commit, so that variants can be written one by one within a transaction.
_VARIANTS_COVER = """
CREATE FUNCTION check_variants_cover() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    checked bigint := CASE WHEN TG_OP = 'DELETE' THEN OLD.experiment_id ELSE NEW.experiment_id END;
    arms int; controls int; covered int;
BEGIN
    IF NOT EXISTS (SELECT FROM experiments WHERE id = checked) THEN
        RETURN NULL;
    END IF;
    SELECT count(*), count(*) FILTER (WHERE is_control), coalesce(sum(bucket_end - bucket_start), 0)
      INTO arms, controls, covered FROM variants WHERE experiment_id = checked;
    IF arms < 2 OR controls <> 1 OR covered <> 10000 THEN
        RAISE EXCEPTION 'experiment % has % variants, % controls and % of 10000 buckets covered',
            checked, arms, controls, covered
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ck_variants_cover';
    END IF;
    RETURN NULL;
END $$
"""

_VARIANTS_COVER_TRIGGER = """
CREATE CONSTRAINT TRIGGER ck_variants_cover AFTER INSERT OR UPDATE OR DELETE ON variants
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_variants_cover()
"""

# A partition is made as a table of its own, filled with the rows that had to wait in DEFAULT, and attached:
# creating it in place would fail while DEFAULT holds a row of its range, and would lock out every writer.
_MAKE_PARTITION = """
CREATE FUNCTION make_partition(parent text, child text, lower_bound timestamptz, upper_bound timestamptz, key text)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass(child) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', child, parent);
    EXECUTE format(
        'WITH waiting AS (DELETE FROM %I WHERE %I >= %L AND %I < %L RETURNING *) INSERT INTO %I SELECT * FROM waiting',
        parent || '_default', key, lower_bound, key, upper_bound, child);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        parent, child, lower_bound, upper_bound);
    RETURN true;
END $$
"""

_MAKE_PARTITIONS_AHEAD = """
CREATE FUNCTION make_partitions_ahead(months int, days int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    month_start timestamptz := date_trunc('month', clock_timestamp(), 'UTC');
    day_start timestamptz := date_trunc('day', clock_timestamp(), 'UTC');
    lower_bound timestamptz; made int := 0;
BEGIN
    FOR i IN 0..months LOOP
        lower_bound := date_add(month_start, make_interval(months => i), 'UTC');
        made := made + make_partition('events', 'events_p' || to_char(lower_bound AT TIME ZONE 'UTC', 'YYYYMM'),
            lower_bound, date_add(lower_bound, interval '1 month', 'UTC'), 'ingested_at')::int;
    END LOOP;
    FOR i IN 0..days LOOP
        lower_bound := date_add(day_start, make_interval(days => i), 'UTC');
        made := made + make_partition('outbox_events',
            'outbox_events_p' || to_char(lower_bound AT TIME ZONE 'UTC', 'YYYYMMDD'),
            lower_bound, date_add(lower_bound, interval '1 day', 'UTC'), 'created_at')::int;
    END LOOP;
    RETURN made;
END $$
"""


def upgrade() -> None:
    op.execute("SET lock_timeout = '5s'")
    op.execute(_INGESTION_TIME)
    # Each session takes numbers in blocks, so the sequence is no bottleneck of wide inserts.
    op.execute("CREATE SEQUENCE outbox_events_seq AS bigint CACHE 100")
    op.create_table(
        "change_epochs",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("topic", name=op.f("pk_change_epochs")),
    )
    op.create_table(
        "event_ids",
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "event_id", name=op.f("pk_event_ids")),
    )
    op.create_table(
        "events",
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("experiment_id", sa.BigInteger(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("ts", sa.DateTime(timezone=True), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("properties", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("ingestion_time()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "value > '-Infinity'::float8 AND value < 'Infinity'::float8", name=op.f("ck_events_value_finite")
        ),
        sa.CheckConstraint("char_length(event_type) BETWEEN 1 AND 100", name=op.f("ck_events_event_type_length")),
        sa.CheckConstraint("char_length(user_id) BETWEEN 1 AND 256", name=op.f("ck_events_user_id_length")),
        postgresql_partition_by="RANGE (ingested_at)",
    )
    op.create_index(
        "ix_events_experiment_id",
        "events",
        ["experiment_id"],
        unique=False,
        postgresql_where=sa.text("experiment_id IS NOT NULL"),
    )
    op.create_index("ix_events_ingested_at", "events", ["ingested_at"], unique=False)
    op.create_table(
        "installation",
        sa.Column("single", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("single", name=op.f("ck_installation_single")),
        sa.PrimaryKeyConstraint("single", name=op.f("pk_installation")),
    )
    op.create_table(
        "outbox_events",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("aggregatetype", sa.Text(), nullable=False),
        sa.Column("aggregateid", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("xid", Xid8(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
        sa.Column("seq", sa.BigInteger(), server_default=sa.text("nextval('outbox_events_seq')"), nullable=False),
        postgresql_partition_by="RANGE (created_at)",
    )
    op.create_index("ix_outbox_events_xid_seq", "outbox_events", ["xid", "seq"], unique=False)
    op.create_table(
        "projects",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("key ~ '^[a-z][a-z0-9_-]{0,63}$'", name=op.f("ck_projects_key_form")),
        sa.CheckConstraint("char_length(name) BETWEEN 1 AND 200", name=op.f("ck_projects_name_length")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("key", name=op.f("uq_projects_key")),
    )
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "cardinality(scopes) > 0 AND scopes <@ ARRAY['experiments:read','experiments:write','assignments',"
            "'events','results','admin']::text[]",
            name=op.f("ck_api_tokens_known_scopes"),
        ),
        sa.CheckConstraint("char_length(name) BETWEEN 1 AND 200", name=op.f("ck_api_tokens_name_length")),
        sa.CheckConstraint("octet_length(token_hash) = 32", name=op.f("ck_api_tokens_hash_is_sha256")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_api_tokens_project_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_api_tokens_token_hash")),
    )
    op.create_index("ix_api_tokens_project_id", "api_tokens", ["project_id"], unique=False)
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column(
            "details",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_audit_log_project_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index("ix_audit_log_project_id", "audit_log", ["project_id", "id"], unique=False)
    op.create_index("ix_audit_log_subject", "audit_log", ["subject", "id"], unique=False)
    op.create_table(
        "experiments",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("seed", sa.Text(), nullable=False),
        sa.Column("traffic_pct", sa.Numeric(precision=5, scale=2), nullable=False),
        sa.Column(
            "config",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("change_epoch", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("key ~ '^[a-z][a-z0-9_-]{0,63}$'", name=op.f("ck_experiments_key_form")),
        sa.CheckConstraint("seed ~ '^[A-Za-z0-9_-]{1,64}$'", name=op.f("ck_experiments_seed_form")),
        sa.CheckConstraint(
            "status <> 'completed' OR ended_at IS NOT NULL", name=op.f("ck_experiments_completed_is_dated")
        ),
        sa.CheckConstraint(
            "status IN ('draft', 'running', 'paused', 'completed', 'archived')",
            name=op.f("ck_experiments_known_status"),
        ),
        sa.CheckConstraint(
            "status NOT IN ('running', 'paused', 'completed') OR started_at IS NOT NULL",
            name=op.f("ck_experiments_started_is_dated"),
        ),
        sa.CheckConstraint("char_length(name) BETWEEN 1 AND 200", name=op.f("ck_experiments_name_length")),
        sa.CheckConstraint("ends_at > starts_at", name=op.f("ck_experiments_ends_after_start")),
        sa.CheckConstraint("traffic_pct BETWEEN 0 AND 100", name=op.f("ck_experiments_traffic_range")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_experiments_version_positive")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_experiments_project_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiments")),
        sa.UniqueConstraint("project_id", "key", name=op.f("uq_experiments_project_id_key")),
    )
    op.create_index("ix_experiments_change_epoch", "experiments", ["change_epoch"], unique=False)
    op.create_index("ix_experiments_project_id_status", "experiments", ["project_id", "status", "id"], unique=False)
    op.create_table(
        "variants",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("experiment_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("allocation_pct", sa.Numeric(precision=5, scale=2), nullable=False),
        sa.Column("is_control", sa.Boolean(), nullable=False),
        sa.Column(
            "config",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("bucket_start", sa.Integer(), nullable=False),
        sa.Column("bucket_end", sa.Integer(), nullable=False),
        postgresql.ExcludeConstraint(
            (sa.text("int8range(experiment_id, experiment_id, '[]')"), "&&"),
            (sa.text("int4range(bucket_start, bucket_end)"), "&&"),
            using="gist",
            name="ex_variants_ranges_disjoint",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.CheckConstraint("key ~ '^[a-z][a-z0-9_-]{0,63}$'", name=op.f("ck_variants_key_form")),
        sa.CheckConstraint(
            "0 <= bucket_start AND bucket_start <= bucket_end AND bucket_end <= 10000",
            name=op.f("ck_variants_range"),
        ),
        sa.CheckConstraint("allocation_pct BETWEEN 0 AND 100", name=op.f("ck_variants_allocation_range")),
        sa.CheckConstraint("char_length(name) BETWEEN 1 AND 200", name=op.f("ck_variants_name_length")),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_variants_experiment_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_variants")),
        sa.UniqueConstraint("experiment_id", "id", name=op.f("uq_variants_experiment_id_id")),
        sa.UniqueConstraint("experiment_id", "key", name=op.f("uq_variants_experiment_id_key")),
        sa.UniqueConstraint(
            "experiment_id",
            "position",
            name=op.f("uq_variants_experiment_id_position"),
            deferrable=True,
            initially="DEFERRED",
        ),
    )
    op.create_index(
        "uq_variants_one_control",
        "variants",
        ["experiment_id"],
        unique=True,
        postgresql_where=sa.text("is_control"),
    )
    op.create_table(
        "assignments",
        sa.Column("experiment_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("variant_id", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("experiment_version", sa.Integer(), nullable=False),
        sa.Column("context", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("assigned_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("ingestion_time()"),
            nullable=False,
        ),
        sa.CheckConstraint("source IN ('hash', 'import')", name=op.f("ck_assignments_known_source")),
        sa.CheckConstraint("char_length(user_id) BETWEEN 1 AND 256", name=op.f("ck_assignments_user_id_length")),
        sa.ForeignKeyConstraint(
            ["experiment_id", "variant_id"],
            ["variants.experiment_id", "variants.id"],
            name=op.f("fk_assignments_experiment_id_variant_id"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("experiment_id", "user_id", name=op.f("pk_assignments")),
    )
    op.create_index(
        "ix_assignments_experiment_id_ingested_at",
        "assignments",
        ["experiment_id", "ingested_at", "user_id"],
        unique=False,
    )
    op.create_table(
        "overrides",
        sa.Column("experiment_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("variant_id", sa.BigInteger(), nullable=True),
        sa.Column("exposed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("change_epoch", sa.BigInteger(), nullable=False),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("ingestion_time()"),
            nullable=False,
        ),
        sa.CheckConstraint("removed = (variant_id IS NULL)", name=op.f("ck_overrides_removed_has_no_variant")),
        sa.CheckConstraint("char_length(user_id) BETWEEN 1 AND 256", name=op.f("ck_overrides_user_id_length")),
        sa.ForeignKeyConstraint(
            ["experiment_id", "variant_id"],
            ["variants.experiment_id", "variants.id"],
            name=op.f("fk_overrides_experiment_id_variant_id"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("experiment_id", "user_id", name=op.f("pk_overrides")),
    )
    op.create_index("ix_overrides_change_epoch", "overrides", ["change_epoch"], unique=False)
    op.execute(_VARIANTS_COVER)
    op.execute(_VARIANTS_COVER_TRIGGER)
    op.execute("CREATE TABLE events_default PARTITION OF events DEFAULT")
    op.execute("CREATE TABLE outbox_events_default PARTITION OF outbox_events DEFAULT")
    op.execute(_MAKE_PARTITION)
    op.execute(_MAKE_PARTITIONS_AHEAD)
    op.execute("SELECT make_partitions_ahead(3, 7)")
    op.execute("INSERT INTO installation DEFAULT VALUES")
    op.execute("INSERT INTO change_epochs (topic) VALUES ('experiments'), ('overrides'), ('tokens')")
    op.execute("INSERT INTO projects (key, name) VALUES ('default', 'Default')")


def downgrade() -> None:
    for table in (
        "overrides",
        "assignments",
        "variants",
        "experiments",
        "audit_log",
        "api_tokens",
        "projects",
        "outbox_events",
        "events",
        "event_ids",
        "installation",
        "change_epochs",
    ):
        op.execute(f"DROP TABLE {table}")
    for function in ("make_partitions_ahead", "make_partition", "check_variants_cover", "ingestion_time"):
        op.execute(f"DROP FUNCTION {function}")
    op.execute("DROP SEQUENCE outbox_events_seq")
