"""Calibrations from one release to the next, and back."""

from collections.abc import Callable

import asyncpg
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
_CANCELLED = (
    "INSERT INTO calibrations (id, experiment_id, status, wanted, ended_at)"
    " SELECT gen_random_uuid(), id, 'cancelled', '{}', now() FROM experiments"
)
_RUNNING = (
    "INSERT INTO calibrations (id, experiment_id, status, wanted)"
    " SELECT gen_random_uuid(), id, 'running', '{}' FROM experiments"
)
_ALL = "SELECT status, reason FROM calibrations ORDER BY status"


def test_migration__cancelled_calibrations__are_let_in_and_have_failed_after_the_way_back(
    make_scratch: Callable[[], Scratch],
) -> None:
    scratch = make_scratch()
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("sqlalchemy.url", scratch.sqlalchemy_url.replace("%", "%%"))
    command.upgrade(config, "0013")
    scratch.run(_EXPERIMENT, _RUNNING)

    command.upgrade(config, "0014")
    scratch.run(_CANCELLED)
    assert [row["status"] for row in scratch.run(_ALL)] == ["cancelled", "running"]

    command.downgrade(config, "0013")
    assert scratch.run(_ALL) == [
        {"status": "failed", "reason": "It was cancelled."},
        {"status": "running", "reason": None},
    ]
    with pytest.raises(asyncpg.CheckViolationError):
        scratch.run(_CANCELLED)
