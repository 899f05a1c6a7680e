"""What was in the audit log before the chain is chained by the migration."""

from collections.abc import Callable

import pytest
from alembic.config import Config

from alembic import command
from app.access.audit_chain import ChainCheck, ChainedEntry
from app.core.migrations import ROOT
from tests.migrations.conftest import Scratch

pytestmark = pytest.mark.xdist_group("migrations")

_EARLIER = """
INSERT INTO audit_log (project_id, actor, request_id, action, subject, details)
SELECT CASE WHEN i % 3 > 0 THEN i % 3 END, 'token:' || i, 'é"\\' || chr(9), 'x', 'y', jsonb_build_object('n', i / 4.0)
FROM generate_series(1, 20) AS i
"""
_ENTRIES = """
SELECT id, at, project_id, actor, request_id, action, subject, details::text AS details, position, hash
FROM audit_log WHERE coalesce(project_id, 0) = {chain} ORDER BY position
"""


def test_migration__entries_from_before__are_chained_in_their_order_and_go_on(
    make_scratch: Callable[[], Scratch],
) -> None:
    scratch = make_scratch()
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("sqlalchemy.url", scratch.sqlalchemy_url.replace("%", "%%"))
    command.upgrade(config, "0003")
    scratch.run("INSERT INTO projects (key, name) VALUES ('second', 'Second')", _EARLIER)

    command.upgrade(config, "0004")
    scratch.run(_EARLIER)

    heads = {row["chain"]: row for row in scratch.run("SELECT * FROM audit_heads")}
    assert {chain: head["entries"] for chain, head in heads.items()} == {0: 12, 1: 14, 2: 14}
    for chain, head in heads.items():
        entries = [ChainedEntry(**row) for row in scratch.run(_ENTRIES.format(chain=chain))]
        assert [entry.id for entry in entries] == sorted(entry.id for entry in entries)
        check = ChainCheck()
        for entry in entries:
            check.add(entry)
        assert check.report(head_entries=head["entries"], head_hash=head["hash"]).first_broken is None
