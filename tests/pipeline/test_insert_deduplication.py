"""An insert that is repeated under its token is dropped by the server, before any table's key has to."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from app.core.clickhouse import ClickHouse
from tests.pipeline.outbox_run import column

AT = datetime(2026, 1, 31, 23, tzinfo=UTC)
NEXT_MONTH = datetime(2026, 2, 1, tzinfo=UTC)
IDENTITY = {"experiment_id": 1, "user_id": "u", "variant_id": 1, "ingested_at": AT}
EXPOSURE = {**IDENTITY, "source": "hash", "experiment_version": 1, "context": {}, "exposed_at": AT}
OVERRIDE = {**IDENTITY, "exposed_at": AT, "removed": False, "epoch": 1}
EVENT = {"project_id": 1, "user_id": "u", "experiment_id": None, "event_type": "buy", "value": 1, "properties": {}}
EVENTS = [
    {**EVENT, "event_id": f"00000000-0000-0000-0000-{number:012}", "ts": at, "ingested_at": at}
    for number, at in enumerate([AT, NEXT_MONTH])
]
EXPERIMENT = {"experiment_id": 1, "project_id": 1, "key": "e", "status": "running", "version": 1, "definition": {}}
ROWS: list[tuple[str, list[dict[str, Any]]]] = [
    ("exposures", [EXPOSURE]),
    ("overrides", [OVERRIDE]),
    ("events", EVENTS),
    ("experiments", [{**EXPERIMENT, "ingested_at": AT}]),
    ("heartbeats", [{"lane": 0, "beat": 1, "watermark": AT, "ingested_at": AT}]),
]


@pytest.mark.parametrize(("table", "rows"), ROWS)
async def test_insert__same_token_again__stores_nothing_more(
    clickhouse: ClickHouse, table: str, rows: list[dict[str, Any]]
) -> None:
    # Merges would hide what was inserted twice.
    await clickhouse.command(f"SYSTEM STOP MERGES {table}")
    lines = [msgspec.json.encode(row) for row in rows]

    for token in ("first", "first", "second", "first"):
        await clickhouse.insert_json(table, lines, token=token)

    assert await column(clickhouse, f"SELECT count() FROM {table}") == [2 * len(rows)]
    assert await column(clickhouse, f"SELECT count() FROM {table} FINAL") == [len(rows)]


async def test_insert__other_rows_under_a_known_token__are_dropped(clickhouse: ClickHouse) -> None:
    """So a token has to name its rows, not only the place they come from."""
    await clickhouse.insert_json("experiments", [msgspec.json.encode({**EXPERIMENT, "ingested_at": AT})], token="t")
    other = msgspec.json.encode({**EXPERIMENT, "experiment_id": 2, "ingested_at": AT})

    await clickhouse.insert_json("experiments", [other], token="t")
    assert await column(clickhouse, "SELECT experiment_id FROM experiments") == [1]

    await clickhouse.insert_json("experiments", [other], token="u")
    assert await column(clickhouse, "SELECT experiment_id FROM experiments ORDER BY experiment_id") == [1, 2]


async def test_insert__without_token__is_stored_again_and_counts_once(clickhouse: ClickHouse) -> None:
    line = msgspec.json.encode({**EXPERIMENT, "ingested_at": AT})

    for _ in range(2):
        await clickhouse.insert_json("experiments", [line])

    assert await column(clickhouse, "SELECT count() FROM experiments FINAL") == [1]
