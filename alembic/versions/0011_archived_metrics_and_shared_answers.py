"""Metrics that are archived, and kept answers that are compressed and share documents.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_WHOLE_OR_SAME = "num_nonnulls(document, packed, same_as) = 1 AND (same_as IS NULL) = (moments IS NULL)"


def upgrade() -> None:
    op.execute("SET lock_timeout = '5s'")
    # Without defaults, so that no row is rewritten.
    op.add_column("metrics", sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("answers", sa.Column("packed", sa.LargeBinary(), nullable=True))
    op.add_column("answers", sa.Column("same_as", sa.Uuid(), nullable=True))
    op.add_column("answers", sa.Column("moments", sa.Text(), nullable=True))
    op.add_column("answers", sa.Column("content_hash", sa.LargeBinary(), nullable=True))
    op.alter_column("answers", "document", nullable=True)
    op.create_foreign_key(op.f("fk_answers_same_as"), "answers", "answers", ["same_as"], ["id"], ondelete="CASCADE")
    op.create_check_constraint(op.f("ck_answers_whole_or_same"), "answers", _WHOLE_OR_SAME)
    # An experiment has some hundred answers at most, so that nobody waits long for these to be looked at.
    op.create_index(
        "ix_answers_same_as", "answers", ["same_as"], unique=False, postgresql_where=sa.text("same_as IS NOT NULL")
    )


def downgrade() -> None:
    op.execute("SET lock_timeout = '5s'")
    # The release before reads documents alone.
    op.execute("DELETE FROM answers WHERE document IS NULL")
    op.drop_index("ix_answers_same_as", table_name="answers")
    op.drop_constraint(op.f("ck_answers_whole_or_same"), "answers", type_="check")
    op.drop_constraint(op.f("fk_answers_same_as"), "answers", type_="foreignkey")
    op.alter_column("answers", "document", nullable=False)
    for column in ("content_hash", "moments", "same_as", "packed"):
        op.drop_column("answers", column)
    op.drop_column("metrics", "archived_at")
