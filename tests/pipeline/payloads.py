"""Outbox messages of every type: strategies for any valid one, and rows written as the service writes them."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from hypothesis import strategies as st

from app.assignments import messages as assignments
from app.events import messages as events
from app.experiments import messages as experiments
from app.pipeline.messages import BEAT, HEARTBEAT_AGGREGATE, Message

# Surrogates alone are no characters, and PostgreSQL stores no U+0000; everything else may be in a user's id.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
IDS = st.integers(1, 2**63 - 1)
COUNTS = st.integers(0, 2**63 - 1)
VERSIONS = st.integers(1, 2**31 - 1)
# A day inside DateTime64's range, so that no offset leads out of it.
OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1900, 1, 2), datetime(2299, 12, 30), timezones=OFFSETS)  # noqa: DTZ001  # It adds them.
# The database's clock, and times before it: nothing is told before it happened.
INGESTED = st.datetimes(datetime(2020, 1, 2), datetime(2199, 12, 30), timezones=OFFSETS)  # noqa: DTZ001
HAPPENED = st.datetimes(datetime(1900, 1, 2), datetime(2020, 1, 1), timezones=OFFSETS)  # noqa: DTZ001
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=4)

SHAPES: dict[tuple[str, str], dict[str, st.SearchStrategy[Any]]] = {
    (assignments.AGGREGATE, assignments.ASSIGNED): {
        "experiment_id": IDS,
        "user_id": TEXT,
        "variant_id": IDS,
        "source": st.sampled_from(["hash", "import"]),
        "experiment_version": VERSIONS,
        "context": OBJECTS,
        "exposed_at": HAPPENED,
        "ingested_at": INGESTED,
    },
    (assignments.OVERRIDE_AGGREGATE, assignments.OVERRIDDEN): {
        "experiment_id": IDS,
        "user_id": TEXT,
        "variant_id": COUNTS,  # 0 once it is removed.
        "exposed_at": HAPPENED,
        "removed": st.booleans(),
        "epoch": COUNTS,
        "ingested_at": INGESTED,
    },
    (events.AGGREGATE, events.RECORDED): {
        "project_id": IDS,
        "event_id": st.uuids(),
        "experiment_id": st.none() | IDS,
        "user_id": TEXT,
        "event_type": TEXT,
        "ts": HAPPENED,
        "value": st.none() | FLOATS,
        "properties": OBJECTS,
        "ingested_at": INGESTED,
    },
    (experiments.AGGREGATE, experiments.CHANGED): {
        "experiment_id": IDS,
        "project_id": IDS,
        "key": TEXT,
        "status": st.sampled_from(["draft", "running", "paused", "completed", "archived"]),
        "version": VERSIONS,
        "definition": OBJECTS,
        "ingested_at": INGESTED,
    },
    (HEARTBEAT_AGGREGATE, BEAT): {
        "lane": st.integers(0, 2**31 - 1),
        "beat": COUNTS,
        "watermark": MOMENTS,
        "ingested_at": INGESTED,
    },
}
KINDS = st.sampled_from(sorted(SHAPES))


@st.composite
def payloads(draw: st.DrawFn, kind: tuple[str, str]) -> dict[str, Any]:
    """Return a valid payload of this type, before it becomes JSON."""
    return {"schema_version": 1, **draw(st.fixed_dictionaries(SHAPES[kind]))}


def event_message(number: int, **overrides: Any) -> Message:
    """Return an event of its own for each number, valid by default."""
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number, microseconds=number)
    payload = {
        "schema_version": 1,
        "project_id": 1,
        "event_id": UUID(int=number),
        "experiment_id": None,
        "user_id": f"user-{number % 7}",
        "event_type": "purchase",
        "ts": at,
        "value": number / 3,
        "properties": {"n": number},
        "ingested_at": at,
        **overrides,
    }
    return Message(UUID(int=number), events.AGGREGATE, events.RECORDED, msgspec.json.encode(payload))


_RECORD = f"""
WITH stored AS (
    INSERT INTO events (project_id, event_id, user_id, event_type, ts, value, properties)
    SELECT 1, event_id, user_id, 'purchase', clock_timestamp(), value, properties::jsonb
    FROM unnest($1::uuid[], $2::text[], $3::float8[], $4::text[]) AS sent (event_id, user_id, value, properties)
    RETURNING *
)
INSERT INTO outbox_events (id, aggregatetype, aggregateid, type, payload)
SELECT event_id, '{events.AGGREGATE}', user_id, '{events.RECORDED}', {events.RECORDED_PAYLOAD} FROM stored
"""


async def record_events(
    connection: asyncpg.Connection,
    ids: list[UUID],
    *,
    user_id: str = "user",
    value: float | None = 1.5,
    properties: str = "{}",
) -> None:
    """Store events with their outbox rows in one statement, as the service does."""
    number = len(ids)
    await connection.execute(_RECORD, ids, [user_id] * number, [value] * number, [properties] * number)
