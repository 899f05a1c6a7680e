"""The audit log as a chain of hashes: each entry's hash covers the one before it, and no entry changes or goes.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# What is hashed: a JSON array of texts, so that every language can build the same bytes without having to agree on
# how numbers are written. `details` enters as the text of the stored jsonb, whose keys PostgreSQL keeps in one order.
_CONTENT = """
CREATE FUNCTION audit_content(entry audit_log) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT json_build_array(
        entry.position::text,
        entry.id::text,
        to_char(entry.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        entry.project_id::text,
        entry.actor,
        entry.request_id,
        entry.action,
        entry.subject,
        entry.details::text
    )::text
$$
"""

# Runs when the transaction commits. So the lock on the chain's head is the last one that a transaction takes,
# whatever it does after it appended: it cannot be part of a deadlock over other locks, and it is held for the
# commit alone. The order of a chain is the order of commits.
_CHAIN = """
CREATE FUNCTION chain_audit_entry() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    head audit_heads;
    entry audit_log;
BEGIN
    INSERT INTO audit_heads (chain, entries, hash)
        VALUES (coalesce(NEW.project_id, 0), 0, decode(repeat('00', 32), 'hex'))
        ON CONFLICT (chain) DO UPDATE SET entries = audit_heads.entries
        RETURNING * INTO head;
    SELECT * INTO STRICT entry FROM audit_log WHERE id = NEW.id;
    entry.position := head.entries + 1;
    entry.hash := sha256(head.hash || convert_to(audit_content(entry), 'UTF8'));
    UPDATE audit_log SET position = entry.position, hash = entry.hash WHERE id = entry.id;
    UPDATE audit_heads SET entries = entry.position, hash = entry.hash WHERE chain = head.chain;
    RETURN NULL;
END $$
"""
_CHAIN_TRIGGER = """
CREATE CONSTRAINT TRIGGER chain_audit_entry AFTER INSERT ON audit_log
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION chain_audit_entry()
"""

# The one change that an entry sees is its own chaining. TRUNCATE is left to the owner; the heads give it away.
_KEEP = """
CREATE FUNCTION keep_audit_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.hash IS NULL AND NEW.hash IS NOT NULL
        AND (to_jsonb(NEW) - 'position' - 'hash') = (to_jsonb(OLD) - 'position' - 'hash') THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'audit_log: entry % can neither be changed nor deleted; the log only grows', OLD.id
        USING ERRCODE = 'restrict_violation';
END $$
"""
_KEEP_TRIGGER = """
CREATE TRIGGER keep_audit_entry BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION keep_audit_entry()
"""

# Entries from before the chain are chained in the order of their ids.
_CHAIN_EXISTING = """
DO $$
DECLARE
    entry audit_log;
    head audit_heads;
BEGIN
    FOR entry IN SELECT * FROM audit_log ORDER BY coalesce(project_id, 0), id LOOP
        IF head.chain IS DISTINCT FROM coalesce(entry.project_id, 0) THEN
            IF head.chain IS NOT NULL THEN
                INSERT INTO audit_heads VALUES (head.chain, head.entries, head.hash);
            END IF;
            head := ROW(coalesce(entry.project_id, 0), 0, decode(repeat('00', 32), 'hex'))::audit_heads;
        END IF;
        entry.position := head.entries + 1;
        entry.hash := sha256(head.hash || convert_to(audit_content(entry), 'UTF8'));
        UPDATE audit_log SET position = entry.position, hash = entry.hash WHERE id = entry.id;
        head.entries := entry.position;
        head.hash := entry.hash;
    END LOOP;
    IF head.chain IS NOT NULL THEN
        INSERT INTO audit_heads VALUES (head.chain, head.entries, head.hash);
    END IF;
END $$
"""


def upgrade() -> None:
    op.execute("SET lock_timeout = '5s'")
    # 0 is the chain of the entries without a project.
    op.create_table(
        "audit_heads",
        sa.Column("chain", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("entries", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("chain", name=op.f("pk_audit_heads")),
    )
    # Empty until the transaction that appends the entry commits.
    op.add_column("audit_log", sa.Column("position", sa.BigInteger(), nullable=True))
    op.add_column("audit_log", sa.Column("hash", sa.LargeBinary(), nullable=True))
    op.execute(_CONTENT)
    # The new columns have locked the table, so nobody appends between this and the trigger that chains what comes.
    op.execute(_CHAIN_EXISTING)
    op.create_unique_constraint(op.f("uq_audit_log_project_id_position"), "audit_log", ["project_id", "position"])
    op.execute(_CHAIN)
    op.execute(_CHAIN_TRIGGER)
    op.execute(_KEEP)
    op.execute(_KEEP_TRIGGER)


def downgrade() -> None:
    op.execute("DROP TRIGGER keep_audit_entry ON audit_log")
    op.execute("DROP TRIGGER chain_audit_entry ON audit_log")
    op.execute("DROP FUNCTION keep_audit_entry")
    op.execute("DROP FUNCTION chain_audit_entry")
    op.execute("DROP FUNCTION audit_content")
    op.drop_constraint(op.f("uq_audit_log_project_id_position"), "audit_log")
    op.drop_column("audit_log", "hash")
    op.drop_column("audit_log", "position")
    op.drop_table("audit_heads")
