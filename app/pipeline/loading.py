"""Loading messages into ClickHouse, whoever brings them: the relay or Kafka.

At least once: after a failure the same rows are loaded again. That and the order of messages make no difference,
because every table is a ReplacingMergeTree whose key ends in the row's identity, and is read with FINAL.
"""

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec
import structlog

from app.core.clickhouse import ClickHouse, ClickHouseRefused
from app.core.metrics import Metrics
from app.pipeline.messages import Message
from app.pipeline.transform import HEARTBEATS, Poison, Reason, transform

log = structlog.get_logger()

Arrival = TypeVar("Arrival")

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


class DeadLetter(NamedTuple, Generic[Arrival]):
    """What arrived and cannot become a row, and why."""

    arrival: Arrival
    reason: Reason
    detail: str


class DeadLetters(Protocol[Arrival]):
    """Where dead letters are put: they are safe there when `put` returns."""

    async def put(self, letters: Sequence[DeadLetter[Arrival]]) -> None:
        """Store these letters durably."""


# Made for every message; a structure costs a sixth of a named tuple.
class _Usable(msgspec.Struct, Generic[Arrival], frozen=True, gc=False):
    id: bytes
    line: bytes
    arrival: Arrival


class Batch(Generic[Arrival]):
    """Arrivals sorted by the table that takes them. Storing empties it, table by table."""

    def __init__(self, read: Callable[[Arrival], Message | None]) -> None:
        self._read = read
        self._loaded: Counter[str] = Counter()
        self._buried = 0
        self.waiting: dict[str, list[_Usable[Arrival]]] = defaultdict(list)
        self.dead: list[DeadLetter[Arrival]] = []

    def add(self, arrival: Arrival) -> None:
        """Check an arrival and put it where it belongs; what has nothing to say is left out."""
        try:
            message = self._read(arrival)
            if message is None:
                return
            row = transform(message.aggregatetype, message.type, message.payload)
        except Poison as poison:
            self.dead.append(DeadLetter(arrival, poison.reason, str(poison)))
        else:
            self.waiting[row.table].append(_Usable(message.id.bytes, row.line, arrival))

    def stored(self, table: str, refused: Sequence[DeadLetter[Arrival]]) -> None:
        """Note that ClickHouse has what it takes of a table's rows."""
        self._loaded[table] += len(self.waiting.pop(table)) - len(refused)
        self.dead += refused

    def buried(self) -> None:
        """Note that the dead letters are safe."""
        self._buried += len(self.dead)
        self.dead.clear()

    def result(self) -> Loaded:
        return Loaded({table: count for table, count in self._loaded.items() if count}, self._buried)


class Loading(Generic[Arrival]):
    """Turns arrivals into acknowledged inserts.

    `read` makes a message of an arrival; it raises `Poison`, or returns `None` for what is not to be loaded.
    """

    def __init__(
        self,
        clickhouse: ClickHouse,
        metrics: Metrics,
        *,
        read: Callable[[Arrival], Message | None],
        dead_letters: DeadLetters[Arrival],
    ) -> None:
        self._clickhouse = clickhouse
        self._metrics = metrics
        self._read = read
        self._dead_letters = dead_letters
        for reason in Reason:  # A counter that appears with its first count hides that count from `increase`.
            metrics.dead_letters.labels(reason=reason)

    def batch(self) -> Batch[Arrival]:
        """Return an empty batch to collect arrivals in."""
        return Batch(self._read)

    async def load(self, arrivals: Iterable[Arrival]) -> Loaded:
        """Store every arrival that can be used, and the others as dead letters; they are taken little by little.

        Raises:
            ClickHouseUnavailable: it cannot be reached; load the batch again later.
            ClickHouseRefused: the tables are not as expected.
        """
        batch = self.batch()
        remaining = iter(arrivals)
        while turn := list(islice(remaining, _TURN_MESSAGES)):
            for arrival in turn:
                batch.add(arrival)
            await asyncio.sleep(0)
        return await self.store(batch)

    async def store(self, batch: Batch[Arrival], *, source: str | None = None) -> Loaded:
        """Store what a batch still holds; after a failure, call it again with the same batch and source.

        With a `source`, which says where exactly the arrivals come from, ClickHouse drops rows that an earlier
        attempt has stored already.

        Raises:
            ClickHouseUnavailable, ClickHouseRefused: as `load`.
        """
        facts = [table for table in batch.waiting if table != HEARTBEATS]
        outcomes = await asyncio.gather(*(self._store(batch, table, source) for table in facts), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        await self._bury(batch)
        # A heartbeat says that all before it is there, so it comes last.
        if HEARTBEATS in batch.waiting:
            await self._store(batch, HEARTBEATS, source)
            await self._bury(batch)
        return batch.result()

    async def _store(self, batch: Batch[Arrival], table: str, source: str | None) -> None:
        group = batch.waiting[table]
        refused = await self._insert(table, group, source)
        self._metrics.relayed_rows.labels(table=table).inc(len(group) - len(refused))
        batch.stored(table, refused)

    async def _insert(
        self, table: str, group: Sequence[_Usable[Arrival]], source: str | None
    ) -> list[DeadLetter[Arrival]]:
        """Insert all lines that ClickHouse accepts and return the others, found by halving the group."""
        token = None if source is None else _token(source, group)
        try:
            await self._clickhouse.insert_json(table, [usable.line for usable in group], token=token)
        except ClickHouseRefused as error:
            if error.code not in _UNREADABLE:
                raise
            if len(group) == 1:
                return [DeadLetter(group[0].arrival, Reason.REFUSED, str(error))]
            middle = len(group) // 2
            first = await self._insert(table, group[:middle], source)
            return first + await self._insert(table, group[middle:], source)
        return []

    async def _bury(self, batch: Batch[Arrival]) -> None:
        if not batch.dead:
            return
        first = batch.dead[0]
        log.error("pipeline.dead_letters", count=len(batch.dead), reason=first.reason, detail=first.detail)
        await self._dead_letters.put(batch.dead)
        for letter in batch.dead:
            self._metrics.dead_letters.labels(reason=letter.reason).inc()
        batch.buried()


def _token(source: str, group: Sequence[_Usable[Arrival]]) -> str:
    """Name rows by where they come from and by what they are.

    The place alone will not do: a Kafka that was wiped begins at offset 0 again, with other rows.
    """
    content = hashlib.blake2b(b"".join(usable.id for usable in group), digest_size=16)
    return f"{source}/{content.hexdigest()}"
