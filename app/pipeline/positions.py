"""How far a relay has come, kept in the ClickHouse that it fills."""

from datetime import datetime, timedelta
from typing import NamedTuple

import asyncpg
import msgspec

from app.core.clickhouse import ClickHouse, ClickHouseUnavailable
from app.core.clock import Clock, utc_now

# Transaction ids count within one cluster, and start again lower when it is restored elsewhere or a standby that
# lacks the last transactions takes over (which begins a timeline). A position from before means nothing then:
# under a new name the relay reads the outbox from its start, and ClickHouse drops what it has already.
_NAME = """
SELECT concat_ws('/', (SELECT id FROM installation), (SELECT system_identifier FROM pg_control_system()),
    left(pg_walfile_name(pg_current_wal_lsn()), 8))
"""

# Made by ClickHouse with the table, so that a ClickHouse that is emptied becomes another one.
_TARGET = (
    "SELECT toString(uuid) AS target FROM system.tables WHERE database = currentDatabase() AND name = 'relay_positions'"
)

_FIND = "SELECT xid, seq, moved_at FROM relay_positions FINAL WHERE relay = {relay:String}"


class Position(NamedTuple):
    """The last outbox row that is in ClickHouse; rows are ordered by transaction id, then by number."""

    xid: int
    seq: int


START = Position(0, 0)


async def relay_name(connection: asyncpg.Connection) -> str:
    """Return the name under which positions in this PostgreSQL's outbox are kept."""
    return str(await connection.fetchval(_NAME))


async def target(clickhouse: ClickHouse) -> str:
    """Return what tells this ClickHouse from every other one.

    Raises:
        ClickHouseUnavailable: it cannot be reached, or has no tables yet.
    """
    rows = await clickhouse.rows(_TARGET)
    if not rows:
        raise ClickHouseUnavailable("ClickHouse has no tables yet.")
    return str(rows[0]["target"])


class Positions:
    """The position of one relay."""

    def __init__(self, clickhouse: ClickHouse, relay: str, *, clock: Clock = utc_now) -> None:
        self._clickhouse = clickhouse
        self._relay = relay
        self._clock = clock
        self._moved_at: datetime | None = None

    async def get(self) -> Position:
        """Return the stored position, or `START` if there is none."""
        rows = await self._clickhouse.rows(_FIND, {"relay": self._relay})
        if not rows:
            return START
        self._moved_at = rows[0]["moved_at"]
        return Position(rows[0]["xid"], rows[0]["seq"])

    async def put(self, position: Position) -> None:
        # The latest `moved_at` wins, so it must rise even when the clock steps back.
        now = self._clock()
        self._moved_at = now if self._moved_at is None else max(now, self._moved_at + timedelta(microseconds=1))
        record = {
            "relay": self._relay,
            "xid": position.xid,
            "seq": position.seq,
            "moved_at": self._moved_at,
        }
        await self._clickhouse.insert_json("relay_positions", [msgspec.json.encode(record)])
