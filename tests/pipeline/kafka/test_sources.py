"""PostgreSQL, ClickHouse and both together give the same results, whatever becomes of the pipeline between them."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.pipeline.kafka.agreement import answered, catch_up, check_answers, results
from tests.pipeline.kafka.clients import Ledger, working
from tests.pipeline.kafka.conftest import Stack
from tests.pipeline.kafka.installation import Installation, installed

pytestmark = [pytest.mark.xdist_group("kafka"), pytest.mark.timeout(300)]

WRITING_S = 1.0


@pytest.fixture
def installation(stack: Stack, tmp_path: Path) -> Iterator[Installation]:
    with installed(stack, tmp_path, HEARTBEAT_SECONDS="0.2") as running:
        yield running


def test_results__pipeline_runs_lags_is_killed_and_catches_up__hot_cold_and_both_agree(
    installation: Installation,
) -> None:
    ledger = Ledger(f"sources-{uuid4().hex[:8]}")
    ledger.add(installation.create_experiment(f"sources-{uuid4().hex[:8]}"))
    key = ledger.experiment
    loader = installation.loaders[0]
    with installation.client() as client:
        _write(installation, ledger)
        catch_up(installation, key)
        check_answers(installation, ledger)
        assert _source(client, key) == "both"

        loader.stop()
        before = answered(client, key, "cold")
        _write(installation, ledger)
        hot = answered(client, key, "hot")
        assert _source(client, key) == "both", "the loader lags"
        assert answered(client, key) == hot != before
        assert answered(client, key, "cold") == before, "the history alone says what it knew"

        installation.proxy.stored.clear()
        installation.proxy.holding = True
        loader.start()
        assert installation.proxy.stored.wait(60)
        loader.kill()
        installation.proxy.holding = False
        assert answered(client, key) == hot, (
            "the loader died after it had stored rows that the watermark does not cover"
        )

        installation.clickhouse.kill()
        _write(installation, ledger)
        hot = answered(client, key, "hot")
        assert _source(client, key) == "hot", "ClickHouse is away"
        assert answered(client, key) == hot
        assert results(client, key, "cold").status_code == 503

        installation.clickhouse.start()
        loader.start()
        with working(installation.urls, ledger, writers=2):
            caught_up_s = catch_up(installation, key)
        print(f"caught up after {caught_up_s:.1f} s")
        catch_up(installation, key)
        check_answers(installation, ledger)
    assert ledger.surprises == []


def _write(installation: Installation, ledger: Ledger) -> None:
    with working(installation.urls, ledger, writers=2):
        time.sleep(WRITING_S)


def _source(client: httpx.Client, experiment: str) -> Any:
    return results(client, experiment).raise_for_status().json()["metadata"]["source"]
