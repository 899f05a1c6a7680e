"""The marker of a history: it tells a ClickHouse that PostgreSQL has filled from one that it has not.

Beats prove that the stream has brought everything up to a moment (see `app.pipeline.watermark`). They say nothing of
what the stream brought to another ClickHouse before: after a loss of its data, a restore of an older copy or an
exchange of its tables, beats arrive all the same. So ClickHouse holds a marker, and PostgreSQL a record of it:

- an id, new whenever ClickHouse begins anew. A history whose id PostgreSQL does not know is adopted: what was
  committed until then is compared row by row, what is committed later comes by the stream;
- a generation that rises every minute or so, in ClickHouse first. One below PostgreSQL's belongs to an older copy.

A watermark holds only for a history whose record says that it was proven.
"""

import time
from typing import NamedTuple
from uuid import UUID, uuid4

import asyncpg
import msgspec
from sqlalchemy import text

from app.core.clickhouse import ClickHouse
from app.core.db import Database, StoreUnavailable
from app.pipeline.history_retention import hand_down

# How long an older copy of ClickHouse may be trusted after it was put in place; and how often PostgreSQL is asked.
_ASK_AGAIN_S = 5.0

_FIND_MARKER = "SELECT id, generation FROM history_marker ORDER BY generation DESC LIMIT 1"
_FIND_RECORD = text("SELECT generation, proven_at IS NOT NULL AS proven FROM histories WHERE id = :id")
_FIND_GENERATION = "SELECT generation FROM histories WHERE id = $1"
_ADOPT = "INSERT INTO histories (id, generation) VALUES ($1, $2)"
_ADVANCE = "UPDATE histories SET generation = $2 WHERE id = $1"


class Marker(NamedTuple):
    """What a ClickHouse says it is."""

    id: UUID
    generation: int


async def find_marker(clickhouse: ClickHouse) -> Marker | None:
    """Return ClickHouse's marker, `None` if it has none.

    Raises:
        ClickHouseUnavailable: it cannot be reached.
    """
    rows = await clickhouse.rows(_FIND_MARKER)
    return Marker(rows[0]["id"], rows[0]["generation"]) if rows else None


async def put_new_marker(clickhouse: ClickHouse) -> Marker:
    """Make ClickHouse a history that nobody knows; from this moment on there is no watermark."""
    last = await find_marker(clickhouse)
    # By two, because a round of reconciliation that is under way may still raise the old marker by one.
    marker = Marker(uuid4(), last.generation + 2 if last else 1)
    await _put(clickhouse, marker)
    return marker


async def current_history(connection: asyncpg.Connection, clickhouse: ClickHouse) -> Marker:
    """Return the marker of ClickHouse as it is now, which is adopted if PostgreSQL has no record that fits it."""
    marker = await find_marker(clickhouse)
    if marker is not None:
        generation = await connection.fetchval(_FIND_GENERATION, marker.id)
        if generation is not None and generation <= marker.generation:
            return marker
    if marker is None or generation is not None:
        marker = await put_new_marker(clickhouse)
    await hand_down(connection, clickhouse)
    # Dated after the marker is in place, so that whatever is committed from then on reaches the ClickHouse that has it.
    await connection.execute(_ADOPT, *marker)
    return marker


async def advance(connection: asyncpg.Connection, clickhouse: ClickHouse, marker: Marker) -> None:
    """Raise the generation."""
    risen = marker._replace(generation=marker.generation + 1)
    await _put(clickhouse, risen)
    await connection.execute(_ADVANCE, *risen)


async def _put(clickhouse: ClickHouse, marker: Marker) -> None:
    await clickhouse.insert_json("history_marker", [msgspec.json.encode(marker._asdict())])


class _Record(NamedTuple):
    marker: Marker
    proven: bool
    asked_at_s: float


class Standing:
    """Knows whether a history was proven; PostgreSQL is asked now and then, and not at all while it is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._record: _Record | None = None

    async def is_proven(self, marker: Marker | None) -> bool:
        """Tell whether the ClickHouse that carries this marker has all that it should."""
        if marker is None:
            return False
        if self._record is None or not self._speaks_of(marker, self._record):
            await self._ask(marker)
        record = self._record
        return (
            record is not None
            and record.marker.id == marker.id
            and record.marker.generation <= marker.generation
            and record.proven
        )

    @staticmethod
    def _speaks_of(marker: Marker, record: _Record) -> bool:
        fresh = time.monotonic() - record.asked_at_s < _ASK_AGAIN_S
        return fresh and record.proven and record.marker.id == marker.id

    async def _ask(self, marker: Marker) -> None:
        """Keep what was known if PostgreSQL is away: results then come from the history alone."""
        try:
            await self._database.promptly(lambda: self._read(marker))
        except StoreUnavailable:
            return

    async def _read(self, marker: Marker) -> None:
        async with self._database.read() as connection:
            row = (await connection.execute(_FIND_RECORD, {"id": marker.id})).one_or_none()
        self._record = None if row is None else _Record(Marker(marker.id, row.generation), row.proven, time.monotonic())
