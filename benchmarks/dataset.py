"""A large experiment, written straight into PostgreSQL; the service's own relay takes it to ClickHouse."""

import asyncio
from typing import Any

import asyncpg

from app.assignments import messages as assignment_messages
from app.events import messages as event_messages

_EVENTS_PER_STATEMENT = 100_000
_DAYS = 10

# As the service's own statements, with rows out of a series.
_ASSIGN = f"""
WITH moment AS MATERIALIZED (
    SELECT ingestion_time() AS now
), stored AS (
    INSERT INTO assignments
        (experiment_id, user_id, variant_id, source, experiment_version, assigned_at, ingested_at)
    SELECT $1, 'user-' || number, ($2::bigint[])[1 + number % cardinality($2::bigint[])], 'hash', 1,
           now - interval '{_DAYS} days', now
    FROM generate_series(0, $3::int - 1) AS number CROSS JOIN moment
    RETURNING *
)
INSERT INTO outbox_events (aggregatetype, aggregateid, type, payload)
SELECT '{assignment_messages.AGGREGATE}', user_id, '{assignment_messages.ASSIGNED}',
       {assignment_messages.ASSIGNED_PAYLOAD}
FROM stored
"""
_RECORD = f"""
WITH moment AS MATERIALIZED (
    SELECT ingestion_time() AS now
), sent AS MATERIALIZED (
    SELECT gen_random_uuid() AS event_id, 'user-' || (number::bigint * 7919 % $2::int) AS user_id,
           CASE WHEN number % 10 = 0 THEN 'purchase' ELSE 'view' END AS event_type,
           now - interval '{_DAYS} days' * random() AS ts,
           CASE WHEN number % 10 = 0 THEN round((20 + 60 * random())::numeric, 2)::float8 END AS value, now
    FROM generate_series($3::int, $4::int - 1) AS number CROSS JOIN moment
), ids AS (
    INSERT INTO event_ids (project_id, event_id) SELECT $1, event_id FROM sent
), stored AS (
    INSERT INTO events (project_id, event_id, user_id, event_type, ts, value, ingested_at)
    SELECT $1, event_id, user_id, event_type, ts, value, now FROM sent
    RETURNING *
)
INSERT INTO outbox_events (id, aggregatetype, aggregateid, type, payload)
SELECT event_id, '{event_messages.AGGREGATE}', user_id, '{event_messages.RECORDED}',
       {event_messages.RECORDED_PAYLOAD}
FROM stored
"""


def load(url: str, experiment: dict[str, Any], *, users: int, events: int) -> None:
    """Store that many users and events of an experiment."""

    async def store() -> None:
        connection = await asyncpg.connect(url, ssl=False)
        try:
            # One transaction, so that the relay sees all of it at once.
            async with connection.transaction():
                await _store(connection, experiment, users=users, events=events)
            await connection.execute("ANALYZE assignments, events")
        finally:
            await connection.close()

    asyncio.run(store())


async def _store(connection: asyncpg.Connection, experiment: dict[str, Any], *, users: int, events: int) -> None:
    project_id = await connection.fetchval("SELECT project_id FROM experiments WHERE id = $1", experiment["id"])
    variants = [variant["id"] for variant in experiment["variants"]]
    await connection.execute(_ASSIGN, experiment["id"], variants, users)
    for start in range(0, events, _EVENTS_PER_STATEMENT):
        end = min(events, start + _EVENTS_PER_STATEMENT)
        await connection.execute(_RECORD, project_id, users, start, end)


def event_lines(url: str, count: int) -> list[str]:
    """Return payloads of events as they stand in the outbox."""

    async def read() -> list[str]:
        connection = await asyncpg.connect(url, ssl=False)
        try:
            rows = await connection.fetch(
                f"SELECT payload::text FROM outbox_events WHERE aggregatetype = '{event_messages.AGGREGATE}' LIMIT $1",
                count,
            )
        finally:
            await connection.close()
        return [row["payload"] for row in rows]

    return asyncio.run(read())
