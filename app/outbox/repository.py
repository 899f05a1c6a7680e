"""Appending to the outbox, within the transaction that writes the fact."""

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_APPEND = text(
    "INSERT INTO outbox_events (aggregatetype, aggregateid, type, payload)"
    " VALUES (:aggregatetype, :aggregateid, :type, CAST(:payload AS jsonb)"
    " || jsonb_build_object('ingested_at', ingestion_time()))"
)


class OutboxRepository:
    """Appends single messages; contexts with many rows a second append in their own statement."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def append(self, *, aggregatetype: str, aggregateid: str, type_: str, payload: Mapping[str, Any]) -> None:
        """Append a message; the database adds `ingested_at`."""
        await self._connection.execute(
            _APPEND,
            {
                "aggregatetype": aggregatetype,
                "aggregateid": aggregateid,
                "type": type_,
                "payload": msgspec.json.encode(payload).decode(),
            },
        )
