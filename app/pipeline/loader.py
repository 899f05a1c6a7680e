"""Loading messages into ClickHouse, whoever brings them: the relay or Kafka.

At least once: after a failure the whole batch is loaded again. That and the order of messages make no difference,
because every table is a ReplacingMergeTree whose key ends in the row's identity, and is read with FINAL.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import msgspec
import structlog

from app.core.clickhouse import ClickHouse, ClickHouseRefused
from app.core.clock import Clock, utc_now
from app.core.metrics import Metrics
from app.pipeline.messages import Message
from app.pipeline.transform import HEARTBEATS, Poison, transform

log = structlog.get_logger()

DEAD_LETTERS = "dead_letters"

# Messages checked before the event loop gets its turn: about 1 ms.
_TURN_MESSAGES = 500

# Errors that blame the data. Source: ClickHouse, src/Common/ErrorCodes.cpp.
_CANNOT_PARSE = frozenset({6, 26, 27, 33, 38, 41, 72, 117, 130, 131, 376, 467})
_DOES_NOT_FIT = frozenset({53, 69, 70, 321, 349, 407})
_UNREADABLE = _CANNOT_PARSE | _DOES_NOT_FIT


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a batch: rows by table, and messages that could not be used."""

    rows: Mapping[str, int]
    dead: int


class _Usable(NamedTuple):
    line: bytes
    message: Message


class _DeadLetter(NamedTuple):
    message: Message
    reason: str


class Loader:
    """Turns batches of messages into acknowledged inserts."""

    def __init__(self, clickhouse: ClickHouse, metrics: Metrics, *, clock: Clock = utc_now) -> None:
        self._clickhouse = clickhouse
        self._metrics = metrics
        self._clock = clock

    async def load(self, messages: Iterable[Message]) -> Loaded:
        """Store every message that can be used, and the others as dead letters; they are taken little by little.

        Raises:
            ClickHouseUnavailable: it cannot be reached; load the batch again later.
            ClickHouseRefused: the tables are not as expected.
        """
        usable, dead = await _sort(messages)
        # A heartbeat says that all before it is there, so it comes last.
        heartbeats = usable.pop(HEARTBEATS, [])
        for refused in await asyncio.gather(*(self._insert(*group) for group in usable.items())):
            dead += refused
        dead += await self._insert(HEARTBEATS, heartbeats)
        await self._bury(dead)
        groups = {**usable, HEARTBEATS: heartbeats}
        return self._counted({table: len(group) for table, group in groups.items() if group}, len(dead))

    async def _insert(self, table: str, group: Sequence[_Usable]) -> list[_DeadLetter]:
        """Insert all lines that ClickHouse accepts and return the others, found by halving the group."""
        try:
            await self._clickhouse.insert_json(table, [usable.line for usable in group])
        except ClickHouseRefused as error:
            if error.code not in _UNREADABLE:
                raise
            if len(group) == 1:
                return [_DeadLetter(group[0].message, str(error))]
            middle = len(group) // 2
            first = await self._insert(table, group[:middle])
            return first + await self._insert(table, group[middle:])
        return []

    async def _bury(self, dead: Sequence[_DeadLetter]) -> None:
        if not dead:
            return
        log.error("pipeline.dead_letters", count=len(dead), first=str(dead[0].message.id), reason=dead[0].reason)
        await self._clickhouse.insert_json(DEAD_LETTERS, [self._record(letter) for letter in dead])

    def _record(self, letter: _DeadLetter) -> bytes:
        return msgspec.json.encode(
            {
                "message_id": letter.message.id,
                "aggregatetype": letter.message.aggregatetype,
                "type": letter.message.type,
                "payload": letter.message.payload.decode(errors="backslashreplace"),
                "reason": letter.reason,
                "died_at": self._clock(),
            }
        )

    def _counted(self, rows: Mapping[str, int], dead: int) -> Loaded:
        for table, count in rows.items():
            self._metrics.relayed_rows.labels(table=table).inc(count)
        self._metrics.dead_letters.inc(dead)
        return Loaded(rows, dead)


async def _sort(messages: Iterable[Message]) -> tuple[dict[str, list[_Usable]], list[_DeadLetter]]:
    usable: dict[str, list[_Usable]] = defaultdict(list)
    dead: list[_DeadLetter] = []
    remaining = iter(messages)
    while turn := list(islice(remaining, _TURN_MESSAGES)):
        for message in turn:
            try:
                row = transform(message.aggregatetype, message.type, message.payload)
            except Poison as poison:
                dead.append(_DeadLetter(message, str(poison)))
            else:
                usable[row.table].append(_Usable(row.line, message))
        await asyncio.sleep(0)
    return usable, dead
