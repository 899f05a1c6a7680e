"""Fixtures of measuring."""

import pytest

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from tests.integration.measurement.stored import Bench
from tests.integration.results.world import World


@pytest.fixture(scope="module")
def bench(database: Database, clickhouse: ClickHouse) -> Bench:
    return Bench(World(database, clickhouse))
