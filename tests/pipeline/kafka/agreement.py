"""What was acknowledged, compared with PostgreSQL, ClickHouse and every kind of answer."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx

from app.core.clickhouse import ClickHouse
from app.core.settings import ClickHouseSettings
from tests.crash.writers import Sent
from tests.pipeline.kafka.clients import Ledger
from tests.pipeline.kafka.installation import Installation
from tests.service_process import wait_until, without_origin

METRICS = ("conversion_rate", "unique_users", "event_count", "avg_value", "value_per_user", "p95_value")
# After the last fault: servers come back, the group is put together anew, what waits is brought.
CAUGHT_UP_WITHIN_S = 120.0

_EVENTS = "SELECT event_id::text, user_id, value FROM events WHERE event_type = $1"
_ASSIGNED = """
SELECT user_id, variants.key AS variant FROM assignments JOIN variants ON variants.id = variant_id
WHERE assignments.experiment_id = $1
"""
_HISTORY = "SELECT toString(event_id) AS event_id, user_id, value FROM events FINAL WHERE event_type = {type:String}"
_EXPOSED = "SELECT user_id FROM exposures FINAL WHERE experiment_id = {id:Int64}"


def results(client: httpx.Client, experiment: str, source: str = "auto") -> httpx.Response:
    asked: dict[str, str | bool | tuple[str, ...]] = {
        "source": source,
        "fresh": True,
        "metrics": METRICS,
        "granularity": "realtime",
    }
    return client.get(f"/api/v1/experiments/{experiment}/results", params=asked)


def answered(client: httpx.Client, experiment: str, source: str = "auto") -> dict[str, Any]:
    """Return what the answer says, without where it comes from."""
    body: dict[str, Any] = results(client, experiment, source).raise_for_status().json()
    return without_origin(body)


def catch_up(installation: Installation, experiment: str) -> float:
    """Wait until everything written before this call is in ClickHouse; returns how long that took."""
    written_at = datetime.now(UTC)

    def is_complete() -> bool:
        answer = results(client, experiment, "cold")
        if answer.status_code == 503:  # It may know nothing yet.
            return False
        return datetime.fromisoformat(answer.raise_for_status().json()["metadata"]["complete_until"]) > written_at

    with installation.client() as client:
        return wait_until(is_complete, "every row has reached ClickHouse", within_s=CAUGHT_UP_WITHIN_S)


def check_answers(installation: Installation, ledger: Ledger) -> None:
    """Hold that PostgreSQL, ClickHouse and both together give the same answers, whichever process is asked."""
    for api in installation.apis:
        with api.client() as client:
            for experiment in ledger.experiments:
                hot, cold, auto = (answered(client, experiment, source) for source in ("hot", "cold", "auto"))
                assert sum(variant["metrics"]["event_count"]["value"] for variant in hot["variants"]) == len(
                    ledger.events.sent
                )
                assert hot == cold == auto


def check_stores(installation: Installation, ledger: Ledger) -> None:
    """Hold that PostgreSQL and ClickHouse have each acknowledged write just so, and nothing twice."""
    assert ledger.events.acknowledged == ledger.events.sent.keys(), "a writer gave up"
    asyncio.run(_check_postgres(installation, ledger))
    asyncio.run(_check_history(installation, ledger))


async def _check_postgres(installation: Installation, ledger: Ledger) -> None:
    url = installation.stack.addresses["DATABASE_URL"].replace("+asyncpg", "")
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(_EVENTS, ledger.event_type)
        stored = {row["event_id"]: Sent(row["user_id"], row["value"]) for row in rows}
        assert len(rows) == len(stored), "an event is stored twice"
        assert stored == ledger.events.sent
        for enrolments in ledger.experiments.values():
            rows = await connection.fetch(_ASSIGNED, enrolments.experiment_id)
            assert {row["user_id"]: row["variant"] for row in rows} == {
                user_id: given.variant for user_id, given in enrolments.journal.given.items()
            }
    finally:
        await connection.close()


async def _check_history(installation: Installation, ledger: Ledger) -> None:
    history = await ClickHouse.connect_server(ClickHouseSettings.model_validate(installation.clickhouse.variables))
    try:
        rows = await history.rows(_HISTORY, {"type": ledger.event_type})
        assert len(rows) == len(ledger.events.sent)
        assert {row["event_id"]: Sent(row["user_id"], row["value"]) for row in rows} == ledger.events.sent
        for enrolments in ledger.experiments.values():
            rows = await history.rows(_EXPOSED, {"id": enrolments.experiment_id})
            assert sorted(row["user_id"] for row in rows) == sorted(enrolments.journal.given)
    finally:
        await history.close()
