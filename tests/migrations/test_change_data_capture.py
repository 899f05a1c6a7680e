"""What Debezium finds: exactly what it needs, and on managed services as well."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from app.core.migrations import migrate
from tests.factories import unique
from tests.migrations.conftest import Scratch

pytestmark = pytest.mark.xdist_group("migrations")

ROLE = "experimentation_cdc"
PUBLICATION = """
SELECT pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot,
    (SELECT array_agg(tablename::text ORDER BY tablename) FROM pg_publication_tables AS published
     WHERE published.pubname = pg_publication.pubname) AS tables
FROM pg_publication WHERE pubname = 'experiments_outbox'
"""
RIGHTS = f"""
SELECT table_name::text AS name, array_agg(privilege_type::text ORDER BY privilege_type) AS privileges
FROM information_schema.role_table_grants WHERE grantee = '{ROLE}' GROUP BY table_name ORDER BY table_name
"""
INSERT = "INSERT INTO outbox_events (aggregatetype, aggregateid, type, payload) VALUES ('event', 'u', 't', '{}')"


@pytest.fixture
def without_role(make_scratch: Callable[[], Scratch]) -> Iterator[None]:
    """A cluster that has no such role, for a while."""
    scratch = make_scratch()
    aside = unique("aside").replace("-", "_")
    exists = scratch.run(f"SELECT FROM pg_roles WHERE rolname = '{ROLE}'")
    if exists:
        scratch.run(f"ALTER ROLE {ROLE} RENAME TO {aside}")
    yield
    if exists:
        scratch.run(f"ALTER ROLE {aside} RENAME TO {ROLE}")


def test_publication__migrated__has_both_tables_under_their_own_names(migrated: Scratch) -> None:
    assert migrated.run(PUBLICATION) == [
        {
            "pubinsert": True,
            "pubupdate": True,
            "pubdelete": False,
            "pubtruncate": False,
            "pubviaroot": True,
            "tables": ["cdc_heartbeat", "outbox_events"],
        }
    ]


def test_publication__outbox_row_updated__is_refused(migrated: Scratch) -> None:
    migrated.run(INSERT)

    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="publishes updates"):
        migrated.run("UPDATE outbox_events SET type = 'u'")


def test_role__migrated__may_do_no_more_than_debezium_needs_and_not_log_in(migrated: Scratch) -> None:
    assert migrated.run(RIGHTS) == [
        {"name": "cdc_heartbeat", "privileges": ["INSERT", "SELECT", "UPDATE"]},
        {"name": "outbox_events", "privileges": ["SELECT"]},
    ]
    assert migrated.run(f"SELECT rolcanlogin, rolreplication, rolsuper FROM pg_roles WHERE rolname = '{ROLE}'") == [
        {"rolcanlogin": False, "rolreplication": False, "rolsuper": False}
    ]


@pytest.mark.usefixtures("without_role")
def test_migrate__user_who_may_not_create_roles__goes_on_without_and_says_so(
    make_scratch: Callable[[], Scratch], caplog: pytest.LogCaptureFixture
) -> None:
    scratch, owner = make_scratch(), unique("owner").replace("-", "_")
    parts = urlsplit(scratch.url)
    scratch.run(f"CREATE ROLE {owner} LOGIN PASSWORD 'p'", f"ALTER DATABASE {parts.path[1:]} OWNER TO {owner}")
    url = urlunsplit(parts._replace(netloc=f"{owner}:p@{parts.hostname}:{parts.port}"))

    with caplog.at_level(logging.WARNING, logger="alembic"):
        asyncio.run(migrate(Scratch(url).sqlalchemy_url))

    assert "experimentation_cdc was not made" in caplog.text
    assert len(scratch.run(PUBLICATION)) == 1
    assert scratch.run(RIGHTS) == []
    scratch.run(f"REASSIGN OWNED BY {owner} TO CURRENT_USER", f"DROP OWNED BY {owner}", f"DROP ROLE {owner}")
