"""Up, down, and in step with the models."""

import asyncio
from collections.abc import Callable

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from alembic import command
from app.core.migrations import ROOT, migrate
from tests.migrations.conftest import Scratch

pytestmark = pytest.mark.xdist_group("migrations")

_OBJECTS = """
SELECT 'relation' AS kind, relname AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace
UNION ALL SELECT 'function', proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'type', typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype <> 'c'
"""
_COLUMNS = """
SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
WHERE table_schema = 'public' AND table_name !~ '_p[0-9]+$' ORDER BY table_name, column_name
"""
_CONSTRAINTS = """
SELECT conrelid::regclass::text AS relation, conname AS name, pg_get_constraintdef(oid) AS definition
FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
"""


def _config(scratch: Scratch) -> Config:
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("sqlalchemy.url", scratch.sqlalchemy_url.replace("%", "%%"))
    return config


def _schema(scratch: Scratch) -> tuple[object, ...]:
    return scratch.run(_COLUMNS), scratch.run(_CONSTRAINTS)


def test_migrations__up_down_and_up_again__leave_nothing_and_lead_to_the_same_schema(
    make_scratch: Callable[[], Scratch],
) -> None:
    scratch = make_scratch()
    config = _config(scratch)
    command.upgrade(config, "head")
    first = _schema(scratch)
    command.downgrade(config, "base")
    left = {row["name"] for row in scratch.run(_OBJECTS)}
    assert {name for name in left if "alembic_version" not in name} == set()
    command.upgrade(config, "head")
    assert _schema(scratch) == first


def test_migrations__models__hold_nothing_that_is_not_migrated(migrated: Scratch) -> None:
    command.check(_config(migrated))


def test_migrations__revisions__are_one_line_with_one_head() -> None:
    script = ScriptDirectory.from_config(Config(ROOT / "alembic.ini"))
    assert len(script.get_heads()) == 1
    assert len(script.get_bases()) == 1


def test_migrate__by_several_processes_at_once__succeeds_for_each(make_scratch: Callable[[], Scratch]) -> None:
    scratch = make_scratch()

    async def all_at_once() -> None:
        await asyncio.gather(*(migrate(scratch.sqlalchemy_url) for _ in range(4)))

    asyncio.run(all_at_once())
    assert scratch.run("SELECT count(*) AS n FROM installation") == [{"n": 1}]
    assert [row["key"] for row in scratch.run("SELECT key FROM projects")] == ["default"]


def test_migrate__up_to_date_database__changes_nothing(migrated: Scratch) -> None:
    before = _schema(migrated), migrated.run("SELECT * FROM installation")
    asyncio.run(migrate(migrated.sqlalchemy_url))
    assert (_schema(migrated), migrated.run("SELECT * FROM installation")) == before
