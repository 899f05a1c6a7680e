"""Each loss that debezium/README.md names, with what it says to do: nothing is missing afterwards, in either store.

Clients write all the while, and answers hold what was acknowledged before the question.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest

from tests.pipeline.kafka.agreement import catch_up, check_answers, check_stores
from tests.pipeline.kafka.clients import Ledger, working
from tests.pipeline.kafka.conftest import Stack
from tests.pipeline.kafka.installation import Installation, installed
from tests.pipeline.kafka.losing import (
    delete_group,
    delete_topics,
    drop_slot,
    halted,
    have_slot_given_up,
    recover,
    restart_connect,
    wipe_kafka,
)

pytestmark = [pytest.mark.xdist_group("kafka"), pytest.mark.timeout(300)]

WRITERS = 2
# Before and after a loss so much is written.
WRITING_S = 0.7
OFFSETS_TOPIC = "experiments.outbox-offsets"
TOPICS_WITH_ROWS = ("experiments.assignment", "experiments.event")


@pytest.fixture(scope="module")
def installation(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    # A history that is new is found by the next round of reconciliation.
    folder = tmp_path_factory.mktemp("losses")
    with installed(stack, folder, HEARTBEAT_SECONDS="0.2", RECONCILE_SECONDS="2") as running:
        yield running


@contextmanager
def nothing_missing(installation: Installation) -> Iterator[None]:
    """Write during the block; afterwards each acknowledged write is in both stores, and all answers agree."""
    ledger = Ledger(f"loss-{uuid4().hex[:8]}")
    ledger.add(installation.create_experiment(f"loss-{uuid4().hex[:8]}"))
    with working(installation.urls, ledger, writers=WRITERS):
        time.sleep(WRITING_S)
        yield
        time.sleep(WRITING_S)
    catch_up(installation, ledger.experiment)
    assert ledger.surprises == []
    check_stores(installation, ledger)
    check_answers(installation, ledger)


def test_slot_dropped__nothing_is_done__all_arrives(stack: Stack, installation: Installation) -> None:
    with nothing_missing(installation), halted(stack):
        time.sleep(WRITING_S)
        drop_slot(stack)
        time.sleep(WRITING_S)


def test_slot_given_up__recovered__all_arrives(stack: Stack, installation: Installation) -> None:
    with nothing_missing(installation):
        with halted(stack):
            time.sleep(WRITING_S)
            have_slot_given_up(stack)
        recover(stack)


def test_connect_offsets_lost__nothing_is_done__all_arrives(stack: Stack, installation: Installation) -> None:
    with nothing_missing(installation), halted(stack):
        delete_topics(stack, OFFSETS_TOPIC)
        time.sleep(WRITING_S)


def test_topics_deleted__recovered__all_arrives(stack: Stack, installation: Installation) -> None:
    installation.loaders[0].stop()  # So that Kafka holds rows that nobody has read.
    with nothing_missing(installation):
        time.sleep(WRITING_S)
        delete_topics(stack, *TOPICS_WITH_ROWS)
        installation.loaders[0].start()
        time.sleep(WRITING_S)
        recover(stack)


def test_kafka_wiped__connect_restarted_and_recovered__all_arrives(stack: Stack, installation: Installation) -> None:
    with nothing_missing(installation):
        wipe_kafka(stack)
        restart_connect(stack)
        recover(stack)


def test_loader_s_offsets_lost__nothing_is_done__all_arrives(installation: Installation) -> None:
    with nothing_missing(installation):
        installation.loaders[0].stop()
        time.sleep(WRITING_S)
        delete_group(installation)
        installation.loaders[0].start()


def test_clickhouse_lost__migrated__all_arrives(stack: Stack, installation: Installation) -> None:
    with nothing_missing(installation):
        installation.clickhouse.kill()
        installation.clickhouse.empty()
        time.sleep(WRITING_S)
        installation.clickhouse.start()
        migrated = stack.run("migrate", **installation.variables)
        assert migrated.returncode == 0, migrated.stderr
