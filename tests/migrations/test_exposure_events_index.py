"""The index of exposure events takes the place of the earlier one while writers go on."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from alembic.config import Config

from alembic import command
from app.core.migrations import ROOT, migrate
from tests.migrations.conftest import Scratch

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
_MOST_S = 1.0
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


def test_migrate__somebody_writes_and_somebody_reads__waits_and_lets_both_go_on(before: Scratch) -> None:
    took_s: list[float] = []

    async def write(migrating: "asyncio.Future[Any]") -> None:
        connection = await asyncpg.connect(before.url, ssl=False)
        while not migrating.done():
            began_s = time.monotonic()
            await connection.execute(_INSERT)
            took_s.append(time.monotonic() - began_s)
        await connection.close()

    async def read() -> None:
        """Keep the table open, as a long question does."""
        connection = await asyncpg.connect(before.url, ssl=False)
        async with connection.transaction():
            await connection.execute("SELECT FROM events LIMIT 1")
            await asyncio.sleep(1.5)
        await connection.close()

    async def all_at_once() -> None:
        migrating = asyncio.gather(migrate(before.sqlalchemy_url), migrate(before.sqlalchemy_url))
        await asyncio.gather(read(), write(migrating), migrating)

    asyncio.run(all_at_once())

    _assert_only(before, "experiment_id, event_type")
    # The wait for the lock, and more than a busy machine may add.
    assert max(took_s) < _MOST_S
    assert before.run("SELECT count(*)::int AS n FROM events")[0]["n"] == 100 * (len(took_s) + 2)
