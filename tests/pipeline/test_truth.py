"""PostgreSQL's rows make the messages that the outbox carried, and both databases describe rows by the same numbers."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.pipeline.history import History
from app.pipeline.loader import Loader
from app.pipeline.messages import Message
from app.pipeline.truth import EVENTS, EXPERIMENTS, EXPOSURES, OVERRIDES, Subject, Truth, Unit, identity_of
from tests.pipeline.outbox_run import drain
from tests.pipeline.stored import store_one_of_each

SUBJECTS = (EVENTS, EXPOSURES, OVERRIDES, EXPERIMENTS)
EVER = datetime(2020, 1, 1, tzinfo=UTC)
NEVER = datetime(2200, 1, 1, tzinfo=UTC)

OUTBOX = """
SELECT id, aggregatetype, type, convert_to(payload::text, 'UTF8') AS payload FROM outbox_events
WHERE aggregatetype = $1 ORDER BY xid, seq
"""


@pytest.fixture
def truth(postgres: asyncpg.Connection, database: Database) -> Truth:
    return Truth(postgres, database)


@pytest.mark.parametrize("subject", [EVENTS, EXPOSURES], ids=lambda subject: subject.table)
async def test_truth__rows_that_never_change__have_the_outbox_s_payloads_to_the_last_byte(
    postgres: asyncpg.Connection, database: Database, truth: Truth, subject: Subject
) -> None:
    await store_one_of_each(database)

    made = await _messages(truth, subject)

    sent = await postgres.fetch(OUTBOX, subject.aggregatetype)
    assert sorted(message.payload for message in made) == sorted(row["payload"] for row in sent)
    assert {message.type for message in made} == {row["type"] for row in sent}


async def test_truth__events__have_the_outbox_s_ids(
    postgres: asyncpg.Connection, database: Database, truth: Truth
) -> None:
    await store_one_of_each(database)

    made = await _messages(truth, EVENTS)

    assert {message.id for message in made} == {row["id"] for row in await postgres.fetch(OUTBOX, "event")}


async def test_truth__overrides__have_the_payloads_of_their_last_states(
    postgres: asyncpg.Connection, database: Database, truth: Truth
) -> None:
    await store_one_of_each(database)

    made = {message.payload for message in await _messages(truth, OVERRIDES)}

    first, _superseded, last = [row["payload"] for row in await postgres.fetch(OUTBOX, "override")]
    assert made == {first, last}


async def test_truth__experiment__differs_from_the_outbox_in_the_moment_of_ingestion_alone(
    postgres: asyncpg.Connection, database: Database, truth: Truth
) -> None:
    await store_one_of_each(database)

    (made,) = await _messages(truth, EXPERIMENTS)

    (sent,) = [row["payload"] for row in await postgres.fetch(OUTBOX, "experiment")]
    moment = re.compile(rb'"ingested_at": "[^"]+"')
    assert made.payload != sent
    assert moment.sub(b"", made.payload) == moment.sub(b"", sent)


@pytest.mark.parametrize("unit", Unit)
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.table)
async def test_digests__same_rows__are_the_same_numbers_in_both_databases(
    clickhouse: ClickHouse, database: Database, truth: Truth, subject: Subject, unit: Unit
) -> None:
    await store_one_of_each(database)
    await drain(database, clickhouse)
    await drain(database, clickhouse)

    stored = await truth.digests(subject, EVER, NEVER, unit)
    held = await History(clickhouse).digests(subject, EVER, NEVER, unit)

    assert stored
    assert set(held.values()) == set(stored.values())
    if subject is not EXPERIMENTS:
        assert held == stored


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.table)
async def test_identities__same_rows__are_the_same_and_add_up_to_the_checksum(
    clickhouse: ClickHouse, database: Database, truth: Truth, subject: Subject
) -> None:
    await store_one_of_each(database)
    await drain(database, clickhouse)

    held = await History(clickhouse).identities(subject, EVER, NEVER)

    stored = [row.identity for rows in [rows async for rows in truth.rows(subject, EVER, NEVER)] for row in rows]
    assert held == set(stored)
    digests = (await truth.digests(subject, EVER, NEVER, Unit.HOUR)).values()
    assert sum(digest.checksum for digest in digests) % 2**64 == sum(stored) % 2**64
    assert sum(digest.row_count for digest in digests) == len(stored)


async def test_messages__loaded_in_place_of_the_outbox__make_the_same_rows(
    clickhouse: ClickHouse, loader: Loader, database: Database, truth: Truth
) -> None:
    await store_one_of_each(database)
    await drain(database, clickhouse)
    tables = [subject.table for subject in SUBJECTS]
    before = {table: await _rows(clickhouse, table) for table in tables}
    for table in tables:
        await clickhouse.command(f"TRUNCATE TABLE {table}")

    for subject in SUBJECTS:
        batch = loader.batch()
        for message in await _messages(truth, subject):
            batch.add(message)
        await loader.store(batch, source=f"test/{subject.table}")

    after = {table: await _rows(clickhouse, table) for table in tables}
    moments = [rows["experiments"][0].pop("ingested_at") for rows in (before, after)]
    assert abs(moments[0] - moments[1]) < timedelta(seconds=5)
    assert after == before


def test_identity__of_text__is_half_of_its_md5() -> None:
    assert identity_of("abc") == 0x900150983CD24FB0


async def _messages(truth: Truth, subject: Subject) -> list[Message]:
    return [row.message async for rows in truth.rows(subject, EVER, NEVER) for row in rows]


async def _rows(clickhouse: ClickHouse, table: str) -> list[dict[str, Any]]:
    return await clickhouse.rows(f"SELECT * FROM {table} FINAL ORDER BY ALL")
