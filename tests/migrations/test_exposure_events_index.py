"""The index of exposure events takes the place of the earlier one while writers go on."""

import asyncio
from collections.abc import Callable

import pytest
from alembic.config import Config

from alembic import command
from app.core.migrations import ROOT, migrate
from app.core.online_schema import SUPERSEDED
from tests.migrations.conftest import Scratch
from tests.migrations.others import keeping, opened, someone_waits

pytestmark = pytest.mark.xdist_group("migrations")

_INSERT = (
    "INSERT INTO events (project_id, event_id, experiment_id, user_id, event_type, ts)"
    " SELECT 1, gen_random_uuid(), nullif(i % 3, 0), 'user-' || i, 'exposure', now() FROM generate_series(1, 100) AS i"
)
# Of the table and of all its partitions, those that cover the columns.
_INDEXES = """
SELECT tables.relname AS name, index.indisvalid AS valid, pg_get_indexdef(index.indexrelid) AS definition
FROM pg_index AS index JOIN pg_class AS tables ON tables.oid = index.indrelid
WHERE tables.relname ~ '^events(_p|_default|$)' AND pg_get_indexdef(index.indexrelid) LIKE '%(experiment_id%'
ORDER BY name
"""
_OF_TABLE = """
SELECT indexrelid::regclass::text AS name FROM pg_index
WHERE indrelid = 'events'::regclass AND indisvalid AND pg_get_indexdef(indexrelid) LIKE '%(experiment_id%'
"""
# Far more than it takes, on a busy machine as well.
_HANGS_S = 60.0
_TABLES = "SELECT count(*)::int AS n FROM pg_inherits WHERE inhparent = 'events'::regclass"
_PLAN = "EXPLAIN SELECT FROM events WHERE experiment_id = 1 AND event_type = 'exposure'"


@pytest.fixture
def before(make_scratch: Callable[[], Scratch]) -> Scratch:
    """A database as it was before the index, with events in two partitions."""
    scratch = make_scratch()
    command.upgrade(_config(scratch), "0009")
    scratch.run(_INSERT, _INSERT.replace("ts)", "ts, ingested_at)").replace("now() FROM", "now(), '2001-01-01Z' FROM"))
    return scratch


def _config(scratch: Scratch) -> Config:
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("sqlalchemy.url", scratch.sqlalchemy_url.replace("%", "%%"))
    return config


def _assert_only(scratch: Scratch, columns: str) -> None:
    """Check that each table has one index of this kind, all of them valid, and that queries use it."""
    found = scratch.run(_INDEXES)
    assert len(found) == scratch.run(_TABLES)[0]["n"] + 1
    assert len({index["name"] for index in found}) == len(found)
    assert all(index["valid"] for index in found)
    ending = f"({columns}) WHERE (experiment_id IS NOT NULL)"
    assert all(index["definition"].endswith(ending) for index in found), found
    plan = "\n".join(row["QUERY PLAN"] for row in scratch.run("SET LOCAL enable_seqscan = off", _PLAN))
    assert f"{columns.replace(', ', '_')}_idx" in plan


def test_migration__events_there__every_partition_has_the_index_and_later_ones_get_it(before: Scratch) -> None:
    _assert_only(before, "experiment_id")

    command.upgrade(_config(before), "0010")

    _assert_only(before, "experiment_id, event_type")
    before.run("SELECT make_partition('events', 'events_p209901', '2099-01-01Z', '2099-02-01Z', 'ingested_at')")
    _assert_only(before, "experiment_id, event_type")
    command.downgrade(_config(before), "0009")
    _assert_only(before, "experiment_id")


def test_migration__cut_short_before__ends_what_was_begun(before: Scratch) -> None:
    partition = before.run(
        "SELECT min(inhrelid::regclass::text) AS n FROM pg_inherits WHERE inhparent = 'events'::regclass"
    )
    name = partition[0]["n"]
    index = f"{name}_experiment_id_event_type_idx"
    before.run(f"CREATE INDEX {index} ON {name} (experiment_id, event_type) WHERE experiment_id IS NOT NULL")
    # As it is when the program ends while the index is being built.
    before.run(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{index}'::regclass")
    done = "events_default_experiment_id_event_type_idx"
    before.run(
        f"CREATE INDEX IF NOT EXISTS {done} ON events_default (experiment_id, event_type)"
        " WHERE experiment_id IS NOT NULL"
    )

    command.upgrade(_config(before), "0010")

    _assert_only(before, "experiment_id, event_type")


@pytest.mark.parametrize(
    ("kept", "mode"),
    [
        # What a long question does, for which the former index cannot go; and a writer who takes his time.
        ("SELECT FROM events LIMIT 1", "AccessExclusiveLock"),
        ("LOCK TABLE ONLY events IN ROW EXCLUSIVE MODE", "ShareLock"),
    ],
)
def test_migrate__somebody_keeps_the_table__others_read_and_write_all_the_while(
    before: Scratch, kept: str, mode: str
) -> None:
    async def all_at_once() -> None:
        async with asyncio.timeout(_HANGS_S), opened(before.url) as other:
            async with keeping(before.url, kept):
                migrating = asyncio.gather(migrate(before.sqlalchemy_url), migrate(before.sqlalchemy_url))
                await someone_waits(other, table="events", mode=mode)
                # Would not come to an end if the migration stood before them until it has the table.
                await other.execute(_INSERT)
                await other.fetch("SELECT FROM events")
            await migrating

    asyncio.run(all_at_once())

    _assert_only(before, "experiment_id, event_type")
    assert before.run("SELECT count(*)::int AS n FROM events")[0]["n"] == 100 * 3


def test_migrate__somebody_reads_all_the_time__leaves_the_former_index_to_be_dropped_later(before: Scratch) -> None:
    async def all_at_once() -> None:
        async with asyncio.timeout(_HANGS_S), keeping(before.url, "SELECT FROM events LIMIT 1"):
            await migrate(before.sqlalchemy_url)

    asyncio.run(all_at_once())

    found = {index["name"] for index in before.run(_OF_TABLE)}
    assert found == {f"ix_events_experiment_id{SUPERSEDED}", "ix_events_experiment_id_event_type"}
    plan = "\n".join(row["QUERY PLAN"] for row in before.run("SET LOCAL enable_seqscan = off", _PLAN))
    assert "experiment_id_event_type_idx" in plan
    command.downgrade(_config(before), "0009")
    _assert_only(before, "experiment_id")
    command.upgrade(_config(before), "0010")
    _assert_only(before, "experiment_id, event_type")
