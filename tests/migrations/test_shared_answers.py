"""Kept answers from one release to the next, and back."""

import asyncio
from collections.abc import Callable

import pytest
from alembic.config import Config

from alembic import command
from app.core.migrations import ROOT, migrate
from tests.migrations.conftest import Scratch
from tests.migrations.others import keeping, opened, someone_waits

pytestmark = pytest.mark.xdist_group("migrations")

_EXPERIMENT = (
    "INSERT INTO experiments (project_id, key, name, status, seed, traffic_pct, change_epoch)"
    " SELECT id, 'e', 'E', 'draft', 's', 100, 1 FROM projects"
)
_WHOLE = (
    "INSERT INTO answers (id, experiment_id, query_hash, document)"
    " SELECT gen_random_uuid(), id, repeat('0', 64), '{}' FROM experiments"
)
_PACKED = (
    "INSERT INTO answers (id, experiment_id, query_hash, packed, content_hash)"
    " SELECT gen_random_uuid(), id, repeat('1', 64), 'x', 'y' FROM experiments"
)
_SAME = (
    "INSERT INTO answers (id, experiment_id, query_hash, same_as, moments)"
    " SELECT gen_random_uuid(), experiment_id, query_hash, id, '{}' FROM answers WHERE packed IS NOT NULL"
)

_OBJECTS = """
SELECT conname AS name, convalidated AS valid FROM pg_constraint
WHERE conrelid = 'answers'::regclass AND conname IN ('fk_answers_same_as', 'ck_answers_whole_or_same')
UNION ALL SELECT indexrelid::regclass::text, indisvalid FROM pg_index
WHERE indexrelid = to_regclass('ix_answers_same_as')
ORDER BY name
"""
_ALL_VALID = [
    {"name": name, "valid": True} for name in ("ck_answers_whole_or_same", "fk_answers_same_as", "ix_answers_same_as")
]
# Far more than it takes, on a busy machine as well.
_HANGS_S = 60.0


@pytest.fixture
def before(make_scratch: Callable[[], Scratch]) -> Scratch:
    """A database of the release before, with an answer."""
    scratch = make_scratch()
    command.upgrade(_config(scratch), "0010")
    scratch.run(_EXPERIMENT, _WHOLE)
    return scratch


def _config(scratch: Scratch) -> Config:
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("sqlalchemy.url", scratch.sqlalchemy_url.replace("%", "%%"))
    return config


def test_answers__of_the_release_before__stay_and_go_back(before: Scratch) -> None:
    command.upgrade(_config(before), "0011")
    # Processes of the release before go on writing for a while.
    before.run(_WHOLE, _PACKED, _SAME)
    assert before.run("SELECT count(document) AS whole, count(*) AS n FROM answers") == [{"whole": 2, "n": 4}]

    command.downgrade(_config(before), "0010")
    assert before.run("SELECT document, query_hash FROM answers") == 2 * [{"document": "{}", "query_hash": "0" * 64}]


@pytest.mark.parametrize("kept", ["SELECT FROM answers", _WHOLE], ids=["reads", "writes"])
def test_migrate__somebody_reads_or_writes_answers__others_do_all_the_while(before: Scratch, kept: str) -> None:
    async def all_at_once() -> None:
        async with asyncio.timeout(_HANGS_S), opened(before.url) as other:
            async with keeping(before.url, kept):
                migrating = asyncio.create_task(migrate(before.sqlalchemy_url))
                await someone_waits(other, table="answers", mode="AccessExclusiveLock")
                # Would not come to an end if the migration stood before them until it has the table.
                await other.execute(_WHOLE)
                await other.fetch("SELECT FROM answers")
            await migrating

    asyncio.run(all_at_once())

    assert before.run(_OBJECTS) == _ALL_VALID
    assert before.run("SELECT count(*) AS n FROM answers") == [{"n": 2 + (kept == _WHOLE)}]


def test_migrate__cut_short_before__ends_what_was_begun_while_others_write(before: Scratch) -> None:
    command.upgrade(_config(before), "0011")
    before.run(
        "UPDATE pg_constraint SET convalidated = false"
        " WHERE conname IN ('fk_answers_same_as', 'ck_answers_whole_or_same')",
        # As it is when the program ends while the index is being built.
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_answers_same_as'::regclass",
        "UPDATE alembic_version SET version_num = '0010'",
    )

    async def all_at_once() -> None:
        async with asyncio.timeout(_HANGS_S), opened(before.url) as other:
            async with keeping(before.url, _WHOLE):
                migrating = asyncio.create_task(migrate(before.sqlalchemy_url))
                # The index waits for the writer, and nobody for the index.
                await someone_waits(other)
                await other.execute(_WHOLE)
            await migrating

    asyncio.run(all_at_once())

    assert before.run(_OBJECTS) == _ALL_VALID
