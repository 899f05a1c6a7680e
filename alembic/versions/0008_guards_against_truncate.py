"""The audit log and sealed plans cannot be emptied either: no trigger for rows sees a TRUNCATE.

Revision ID: 0008
Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_REFUSE = """
CREATE FUNCTION refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%: its rows can neither be changed nor deleted, so that it cannot be emptied', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$
"""
_TRIGGER = """
CREATE TRIGGER {table}_not_emptied BEFORE TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate()
"""
_TABLES = ("audit_log", "sealed_plans")


def upgrade() -> None:
    op.execute("SET lock_timeout = '5s'")
    op.execute(_REFUSE)
    for table in _TABLES:
        op.execute(_TRIGGER.format(table=table))


def downgrade() -> None:
    for table in _TABLES:
        op.execute(f"DROP TRIGGER {table}_not_emptied ON {table}")
    op.execute("DROP FUNCTION refuse_truncate")
