"""How the pipeline stands, in one answer that comes within two seconds, whatever is away."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.clickhouse import ClickHouse, ClickHouseRefused
from app.core.clock import Clock, utc_now
from app.core.db import Database
from app.core.errors import Unavailable
from app.core.patience import mark_as_seen, within
from app.pipeline.dead_letters import TOPIC
from app.pipeline.kafka_offsets import Waiting, waiting
from app.pipeline.lanes import Lane
from app.pipeline.loader import DEAD_LETTERS
from app.pipeline.marker import Marker, Standing, find_marker
from app.pipeline.positions import Positions, relay_name
from app.pipeline.soundings import Backlog, Partitions, Reconciled, Slot, Soundings, UnequalHour
from app.pipeline.watermark import watermark

log = structlog.get_logger()

T = TypeVar("T")

# PostgreSQL is asked with what ClickHouse said, so it takes both; Kafka is asked meanwhile.
_CLICKHOUSE_S = 0.7
_POSTGRESQL_S = 0.9
_KAFKA_S = 1.6

_COUNT_DEAD_LETTERS = "SELECT count() AS count, maxOrNull(died_at) AS newest_at FROM dead_letters FINAL"

Group = Callable[[], Awaitable[str]]


class Mode(StrEnum):
    """What takes rows from the outbox to ClickHouse."""

    RELAY = "relay"
    KAFKA = "kafka"


@dataclass(frozen=True, slots=True)
class DeadLettersStatus:
    """How many messages were put aside, and where."""

    count: int
    newest_at: datetime | None
    where: str


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """What waits in the outbox. `backlog_rows` is not known where Kafka takes them."""

    backlog_rows: int | None
    oldest_age_seconds: float | None
    partitions: Partitions | None


@dataclass(frozen=True, slots=True)
class EventsStatus:
    """What PostgreSQL still has of the events. `kept_since`: from this ingestion time on, `None` for all."""

    partitions: Partitions | None
    kept_since: datetime | None


@dataclass(frozen=True, slots=True)
class ReconciliationStatus:
    """How PostgreSQL and ClickHouse compare. `proven`: no row from before ClickHouse was set up is missing."""

    reconciled_until: datetime | None
    last_run_at: datetime | None
    proven: bool
    open_mismatches: int
    repaired_rows_total: int
    hours: Sequence[UnequalHour]


@dataclass(frozen=True, slots=True)
class ClickHouseStatus:
    """Whether ClickHouse answers."""

    reachable: bool


@dataclass(slots=True)
class Status:
    """All of it. What is `None` is explained in `reasons`, by the name of its field."""

    mode: Mode
    clickhouse: ClickHouseStatus
    watermark: datetime | None = None
    watermark_lag_seconds: float | None = None
    outbox: OutboxStatus | None = None
    events: EventsStatus | None = None
    slot: Slot | None = None
    consumer_lag: Mapping[str, int] | None = None
    dead_letters: DeadLettersStatus | None = None
    reconciliation: ReconciliationStatus | None = None
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _History:
    """What ClickHouse says."""

    watermark: datetime | None
    marker: Marker | None
    dead_letters: DeadLettersStatus


@dataclass(frozen=True, slots=True)
class _Store:
    """What PostgreSQL says."""

    slots: Sequence[Slot]
    partitions: Mapping[str, Partitions]
    events_kept_since: datetime | None
    backlog: Backlog | None
    reconciled: Reconciled | None
    hours: Sequence[UnequalHour]


class StatusReader:
    """Asks every server at once, none of them for long. `brokers` and `group` are for Kafka, if it is used."""

    def __init__(
        self,
        database: Database,
        clickhouse: ClickHouse,
        *,
        lanes: Sequence[Lane],
        standing: Standing,
        brokers: str | None,
        group: Group,
        clock: Clock = utc_now,
    ) -> None:
        self._database = database
        self._clickhouse = clickhouse
        self._lanes = lanes
        self._standing = standing
        self._brokers = brokers
        self._group = group
        self._clock = clock

    async def read(self) -> Status:
        """Return what is known now."""
        (history, store, proven), kafka = await asyncio.gather(self._stores(), self._kafka())
        status = Status(
            mode=Mode.RELAY if self._brokers is None else Mode.KAFKA,
            clickhouse=ClickHouseStatus(reachable=history is not None),
        )
        self._tell_history(status, history, proven=proven)
        self._tell_store(status, store, history)
        self._tell_kafka(status, kafka)
        return status

    async def _stores(self) -> tuple[_History | None, _Store | None, bool | None]:
        history = await _within(_CLICKHOUSE_S, self._ask_clickhouse())
        store, proven = await asyncio.gather(
            _within(_POSTGRESQL_S, self._ask_postgresql(history)), self._is_proven(history)
        )
        return history, store, proven

    async def _is_proven(self, history: _History | None) -> bool | None:
        """Tell whether the history was proven, `None` if PostgreSQL does not say so in time."""
        if history is None:
            return None
        # It goes on when nobody waits any more: it ends by itself, and what it learns is kept.
        asking = asyncio.create_task(self._standing.is_proven(history.marker))
        asking.add_done_callback(mark_as_seen)
        await asyncio.wait({asking}, timeout=_POSTGRESQL_S)
        return asking.result() if asking.done() else None

    async def _kafka(self) -> Waiting | None:
        return None if self._brokers is None else await _within(_KAFKA_S, self._ask_kafka(self._brokers))

    async def _ask_clickhouse(self) -> _History:
        moment, marker, letters = await asyncio.gather(
            watermark(self._clickhouse, self._lanes),
            find_marker(self._clickhouse),
            self._clickhouse.rows(_COUNT_DEAD_LETTERS),
        )
        where = f"table {DEAD_LETTERS} of ClickHouse"
        return _History(moment, marker, DeadLettersStatus(letters[0]["count"], letters[0]["newest_at"], where))

    async def _ask_postgresql(self, history: _History | None) -> _Store:
        async with self._database.read() as connection:
            soundings = Soundings(connection)
            marker = None if history is None else history.marker
            history_id = await soundings.last_reconciled_history() if marker is None else marker.id
            return _Store(
                slots=await soundings.slots(),
                partitions={found.table: found for found in await soundings.partitions()},
                events_kept_since=await soundings.events_kept_since(),
                backlog=await self._backlog(connection, soundings) if history is not None else None,
                reconciled=None if history_id is None else await soundings.reconciled(history_id),
                hours=[] if history_id is None else await soundings.unequal_hours(history_id),
            )

    async def _backlog(self, connection: AsyncConnection, soundings: Soundings) -> Backlog | None:
        if self._brokers is not None:
            return None
        driver = (await connection.get_raw_connection()).driver_connection
        return await soundings.backlog(await Positions(self._clickhouse, await relay_name(driver)).get())

    async def _ask_kafka(self, brokers: str) -> Waiting:
        return await waiting(brokers, await self._group())

    def _tell_history(self, status: Status, history: _History | None, *, proven: bool | None) -> None:
        if history is None:
            status.reasons |= dict.fromkeys(("watermark", "watermark_lag_seconds"), "ClickHouse does not answer")
        elif history.watermark is None:
            reason = "no beat has come through every lane yet"
            status.reasons |= dict.fromkeys(("watermark", "watermark_lag_seconds"), reason)
        elif proven is None:
            status.reasons |= dict.fromkeys(("watermark", "watermark_lag_seconds"), "PostgreSQL does not answer")
        elif not proven:
            reason = "rows from before this ClickHouse was set up are still being compared"
            status.reasons |= dict.fromkeys(("watermark", "watermark_lag_seconds"), reason)
        else:
            status.watermark = history.watermark
            status.watermark_lag_seconds = max((self._clock() - history.watermark).total_seconds(), 0)
        if self._brokers is None:
            status.dead_letters = None if history is None else history.dead_letters
            if history is None:
                status.reasons["dead_letters"] = "ClickHouse does not answer"

    def _tell_store(self, status: Status, store: _Store | None, history: _History | None) -> None:
        if store is None:
            parts = ("outbox", "events", "slot", "reconciliation")
            status.reasons |= dict.fromkeys(parts, "PostgreSQL does not answer")
            return
        relayed = store.backlog
        oldest_s = status.watermark_lag_seconds if relayed is None else relayed.oldest_age_s
        rows = None if relayed is None else relayed.row_count
        status.outbox = OutboxStatus(rows, oldest_s, store.partitions.get("outbox_events"))
        if rows is None:
            status.reasons["outbox.backlog_rows"] = (
                "ClickHouse does not answer" if history is None else "Kafka takes rows from the outbox unseen by it"
            )
        status.events = EventsStatus(store.partitions.get("events"), store.events_kept_since)
        # The one that is read, if an old one was left behind.
        status.slot = next(iter(sorted(store.slots, key=lambda slot: not slot.active)), None)
        if status.slot is None:
            status.reasons["slot"] = "there is no replication slot"
        if store.reconciled is None:
            status.reasons["reconciliation"] = "nothing was compared yet"
        else:
            found = store.reconciled
            status.reconciliation = ReconciliationStatus(
                reconciled_until=found.reconciled_until,
                last_run_at=found.reconciled_at,
                proven=found.proven,
                open_mismatches=found.missing_rows + found.extra_rows,
                repaired_rows_total=found.repaired_rows,
                hours=store.hours,
            )

    def _tell_kafka(self, status: Status, kafka: Waiting | None) -> None:
        if self._brokers is None:
            status.reasons["consumer_lag"] = "Kafka is not used"
        elif kafka is None:
            status.reasons |= dict.fromkeys(("consumer_lag", "dead_letters"), "Kafka does not answer")
        else:
            status.consumer_lag = kafka.lag
            where = f"topic {TOPIC} of Kafka"
            status.dead_letters = DeadLettersStatus(kafka.dead_letters, kafka.newest_dead_letter_at, where)


async def _within(seconds: float, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what `work` returns, `None` if it fails or takes longer."""
    try:
        return await within(seconds, work)
    except (Unavailable, TimeoutError):
        return None
    except ClickHouseRefused as error:  # Its tables are not there yet.
        log.warning("pipeline.status_refused", error=str(error))
        return None
