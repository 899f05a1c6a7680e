"""Kept answers that are compressed and share documents.

Cut short, it can be run again.

Revision ID: 0011
Revises: 0010
"""

from alembic import op
from app.core.online_schema import build_index, insist, validate

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# All of it or nothing. Without defaults, so that no row is rewritten; and rows are looked at later.
_ALTER = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'answers'::regclass AND attname = 'packed') THEN
        RETURN;
    END IF;
    ALTER TABLE answers
        ADD COLUMN packed bytea, ADD COLUMN same_as uuid, ADD COLUMN moments text, ADD COLUMN content_hash bytea,
        ALTER COLUMN document DROP NOT NULL,
        ADD CONSTRAINT fk_answers_same_as FOREIGN KEY (same_as) REFERENCES answers (id) ON DELETE CASCADE NOT VALID,
        ADD CONSTRAINT ck_answers_whole_or_same CHECK (
            num_nonnulls(document, packed, same_as) = 1 AND (same_as IS NULL) = (moments IS NULL)
        ) NOT VALID;
END $$
"""
# The release before reads documents alone. Those that come until the table is locked go with the lock.
_REMOVE_OTHERS = "DELETE FROM answers WHERE document IS NULL"
_ALTER_BACK = f"""
DO $$ BEGIN
    LOCK TABLE answers IN ACCESS EXCLUSIVE MODE;
    {_REMOVE_OTHERS};
    ALTER TABLE answers
        DROP CONSTRAINT IF EXISTS ck_answers_whole_or_same, DROP CONSTRAINT IF EXISTS fk_answers_same_as,
        ALTER COLUMN document SET NOT NULL,
        DROP COLUMN IF EXISTS content_hash, DROP COLUMN IF EXISTS moments, DROP COLUMN IF EXISTS same_as,
        DROP COLUMN IF EXISTS packed;
END $$
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        insist(connection, _ALTER)
        validate(connection, "answers", "fk_answers_same_as", "ck_answers_whole_or_same")
        build_index(connection, "ix_answers_same_as", "answers (same_as) WHERE same_as IS NOT NULL")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        insist(connection, _REMOVE_OTHERS)
        # The index goes with its column.
        insist(connection, _ALTER_BACK)
