"""Kept answers from one release to the next, and back."""

from collections.abc import Callable

import pytest
from alembic.config import Config

from alembic import command
from app.core.migrations import ROOT
from tests.migrations.conftest import Scratch

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


def test_answers__of_the_release_before__stay_and_go_back(make_scratch: Callable[[], Scratch]) -> None:
    scratch = make_scratch()
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("sqlalchemy.url", scratch.sqlalchemy_url.replace("%", "%%"))
    command.upgrade(config, "0010")
    scratch.run(_EXPERIMENT, _WHOLE)

    command.upgrade(config, "0011")
    # Processes of the release before go on writing for a while.
    scratch.run(_WHOLE, _PACKED, _SAME)
    assert scratch.run("SELECT count(document) AS whole, count(*) AS n FROM answers") == [{"whole": 2, "n": 4}]

    command.downgrade(config, "0010")
    assert scratch.run("SELECT document, query_hash FROM answers") == 2 * [{"document": "{}", "query_hash": "0" * 64}]
