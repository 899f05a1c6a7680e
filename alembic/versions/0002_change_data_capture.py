"""What Debezium needs: a publication of the outbox, a table for its heartbeat, and a role that may do no more.

Revision ID: 0002
Revises: 0001
"""

import logging

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

log = logging.getLogger("alembic.change_data_capture")

# Debezium keeps its own row up to date, so that its place in the log moves on while the outbox is idle; hence
# 'update'. Changes appear under the name of the partitioned table, not of the day's partition.
_PUBLICATION = """
CREATE PUBLICATION experiments_outbox FOR TABLE outbox_events, cdc_heartbeat
    WITH (publish = 'insert, update', publish_via_partition_root = true)
"""

# Roles belong to the whole cluster: another database may have made this one, maybe at this very moment.
_ROLE = """
DO $$ BEGIN
    CREATE ROLE experimentation_cdc NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END $$
"""
_MAY_CREATE_ROLES = sa.text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
_ROLE_EXISTS = sa.text("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'experimentation_cdc')")

_GRANTS = (
    "GRANT SELECT ON outbox_events TO experimentation_cdc",
    "GRANT SELECT, INSERT, UPDATE ON cdc_heartbeat TO experimentation_cdc",
)


def upgrade() -> None:
    op.execute("SET lock_timeout = '5s'")
    op.create_table(
        "cdc_heartbeat",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cdc_heartbeat")),
    )
    op.execute(_PUBLICATION)
    bind = op.get_bind()
    if bind.scalar(_MAY_CREATE_ROLES):
        op.execute(_ROLE)
    if bind.scalar(_ROLE_EXISTS):
        for grant in _GRANTS:
            op.execute(grant)
    else:
        log.warning(
            "The role experimentation_cdc was not made, because this user may not create roles. That matters to"
            " Debezium alone; debezium/README.md has the SQL for an administrator."
        )


def downgrade() -> None:
    op.execute("DROP PUBLICATION experiments_outbox")
    op.drop_table("cdc_heartbeat")
    # The role stays, since other databases of the cluster may use it.
    if op.get_bind().scalar(_ROLE_EXISTS):
        op.execute("REVOKE ALL ON outbox_events FROM experimentation_cdc")
