"""Fixtures of calibrations on both stores."""

import pytest

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from tests.integration.results.world import World


@pytest.fixture(scope="module")
def world(database: Database, clickhouse: ClickHouse) -> World:
    return World(database, clickhouse)
