"""Every program killed while clients write: each acknowledged write is in both stores once, and in every answer."""

import os
import random
from pathlib import Path
from uuid import uuid4

import pytest

from tests.pipeline.kafka.agreement import catch_up, check_answers, check_stores
from tests.pipeline.kafka.clients import Ledger, working
from tests.pipeline.kafka.conftest import Stack
from tests.pipeline.kafka.faults import Faults, seed_of_run
from tests.pipeline.kafka.installation import installed

SECONDS = float(os.environ.get("FAULT_SECONDS", "60"))

pytestmark = [pytest.mark.xdist_group("kafka"), pytest.mark.timeout(600 + 2 * SECONDS)]


def test_platform__every_program_killed_while_clients_write__loses_nothing_and_counts_nothing_twice(
    stack: Stack, tmp_path: Path
) -> None:
    seed = seed_of_run()
    print(f"FAULT_SEED={seed} FAULT_SECONDS={SECONDS:g}")
    with installed(stack, tmp_path, apis=2, loaders=2) as installation:
        ledger = Ledger(f"fault-{uuid4().hex[:8]}")
        for shares in ((50, 50), (20, 30, 50)):
            ledger.add(installation.create_experiment(f"fault-{uuid4().hex[:8]}", *shares))
        faults = Faults(installation, random.Random(seed))

        with working(installation.urls, ledger, seed=seed):
            faults.schedule(SECONDS, print)
        print(f"{len(ledger.events.sent)} events; where answers came from: {dict(ledger.sources)}")
        print(f"caught up after {catch_up(installation, ledger.experiment):.1f} s")

        assert ledger.surprises == []
        assert len(ledger.events.sent) > 10 * SECONDS
        assert {"both", "hot"} <= ledger.sources.keys()
        check_stores(installation, ledger)
        check_answers(installation, ledger)
