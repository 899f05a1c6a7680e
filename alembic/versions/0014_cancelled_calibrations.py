"""Calibrations that are cancelled.

Releases before this one cannot show them, so that they are failed ones after a downgrade. Cut short, it can be run
again.

Revision ID: 0014
Revises: 0013
"""

from alembic import op
from app.core.online_schema import insist, validate

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_CONSTRAINT = "ck_calibrations_status_is_known"
_FAIL = "UPDATE calibrations SET status = 'failed', reason = 'It was cancelled.' WHERE status = 'cancelled'"


def upgrade() -> None:
    _know("running", "done", "failed", "cancelled")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(_FAIL)
    _know("running", "done", "failed")


def _know(*statuses: str) -> None:
    listed = ", ".join(f"'{status}'" for status in statuses)
    # In one statement: at no moment is any text a status.
    renew = (
        f"DROP CONSTRAINT IF EXISTS {_CONSTRAINT}, ADD CONSTRAINT {_CONSTRAINT} CHECK (status IN ({listed})) NOT VALID"
    )
    with op.get_context().autocommit_block():
        insist(op.get_bind(), f"ALTER TABLE calibrations {renew}")
        validate(op.get_bind(), "calibrations", _CONSTRAINT)
