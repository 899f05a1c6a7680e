"""A session of the consumer: one membership in its group, from joining to leaving.

Offsets are committed once ClickHouse has acknowledged what lies before them, so that whatever dies, at whatever
moment, somebody reads again what may not have arrived. One flush runs at a time, so that a beat never overtakes
the rows before it.

Memory is bounded: there is one buffer being filled and one being flushed. When both are full the consumer asks for
nothing, and the client beneath it fetches nothing more than the answers that it holds. It stays in its group
meanwhile, because the client's heartbeats are a task of their own.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

import structlog
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from app.core.clickhouse import ClickHouseRefused, ClickHouseUnavailable
from app.core.kafka import GroupConsumer
from app.core.metrics import Metrics
from app.core.settings import LoaderSettings
from app.pipeline.buffering import Buffer
from app.pipeline.lanes import lane_of
from app.pipeline.loading import Loading
from app.pipeline.records import Record
from app.pipeline.stopping import unless

log = structlog.get_logger()

# How many messages are taken, and checked, before the event loop gets its turn: a few milliseconds.
_MOST_POLLED = 1000
_LONGEST_POLL_S = 0.2
# While a flush is under way, its end is looked for this often.
_FLUSH_POLL_S = 0.02
_HAND_OVER_S = 10.0
_LAG_EVERY_S = 2.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


class OffsetsLost(KafkaError):  # type: ignore[misc]  # The client leaves it untyped.
    """Kafka does not know any more what this group has committed."""


class Session(ConsumerRebalanceListener):  # type: ignore[misc]  # The client leaves it untyped.
    """One membership in the group, from joining to leaving.

    `end_proof` has the history count as one that nobody has compared yet; it is called before anything is loaded from
    behind a gap. `lanes_heard_from` tells of which lanes ClickHouse holds a beat.
    """

    def __init__(
        self,
        consumer: GroupConsumer,
        loading: Loading[Record],
        settings: LoaderSettings,
        metrics: Metrics,
        stopping: asyncio.Event,
        *,
        end_proof: Callable[[], Awaitable[object]],
        lanes_heard_from: Callable[[], Awaitable[Collection[int]]],
    ) -> None:
        self._consumer = consumer
        self._loading = loading
        self._settings = settings
        self._metrics = metrics
        self._stopping = stopping
        self._end_proof = end_proof
        self._lanes_heard_from = lanes_heard_from
        self._filling = self._empty()
        self._flushing: Buffer[TopicPartition, Record] | None = None
        self._flush: asyncio.Task[None] | None = None
        self._measuring = asyncio.create_task(self._measure_lag(), name="loader-lag")
        self._measured: set[TopicPartition] = set()
        self._committed: set[TopicPartition] = set()
        self._begun: set[TopicPartition] = set()

    async def consume(self) -> None:
        """Take messages and flush them until asked to stop."""
        while not self._stopping.is_set():
            if self._filling.is_full and self._flush is not None:
                await asyncio.wait({self._flush}, timeout=_LONGEST_POLL_S)
            else:
                # While the group changes, the client waits for its end, whatever time it was given.
                await unless(self._stopping, self._poll())
            await self._reap()
            if self._flush is None and self._filling.due_in_s(time.monotonic()) == 0:
                self._begin_flush()

    async def drain(self, within_s: float) -> None:
        """Bring what was taken to ClickHouse and commit it; after so long, leave it to whoever reads it again."""
        try:
            async with asyncio.timeout(within_s):
                await self._flush_everything()
        except (TimeoutError, ClickHouseUnavailable, ClickHouseRefused, KafkaError) as error:
            log.warning("loader.not_drained", error=str(error) or type(error).__name__)

    async def close(self) -> None:
        """End all tasks."""
        for task in (self._measuring, self._flush):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        self._forget_lag(list(self._measured))

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Flush while the partitions are still ours. What cannot be flushed now is read again by their next owner."""
        try:
            async with asyncio.timeout(_HAND_OVER_S):
                await self._flush_everything()
        except Exception as error:  # noqa: BLE001  # The client, which calls this, would swallow it unseen.
            log.warning("loader.handed_over_unflushed", error=str(error) or type(error).__name__)
            if self._flush is not None:
                self._flush.cancel()
        finally:
            self._filling = self._empty()
            self._begun.clear()
            self._forget_lag(revoked)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        log.info("loader.assigned", partitions=_names(assigned))
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            self._committed = await self._with_offsets(assigned)

    def _empty(self) -> Buffer[TopicPartition, Record]:
        return Buffer(self._settings, self._loading.batch())

    async def _poll(self) -> None:
        try:
            fetched = await self._consumer.getmany(timeout_ms=self._patience_ms(), max_records=_MOST_POLLED)
        except NoOffsetForPartitionError as error:
            await self._begin(set(error.args))
            return
        except OffsetOutOfRangeError as error:
            (offsets,) = error.args
            await self._begin(set(offsets), read_before=True)
            return
        now_s = time.monotonic()
        for place, records in fetched.items():
            for record in records:
                self._filling.add(place, record.offset, record, len(record.value or b""), now_s=now_s)

    async def _begin(self, places: set[TopicPartition], *, read_before: bool = False) -> None:
        """Begin at the earliest offsets, where the group has no offset or one that Kafka does not have any more.

        What Kafka has dropped unread is in no later message. Later beats, though, would claim it; so before any of
        them is taken, the history ceases to be proven, and reconciliation brings the rows from PostgreSQL.
        """
        # All at once: errors come one by one, and each history that is not proven is compared from its start.
        asked = set(self._consumer.assignment()) - self._begun | places
        starts, committed = await asyncio.gather(self._consumer.beginning_offsets(asked), self._offsets(asked))
        gaps = {place for place in asked if (committed[place] or 0) < starts[place]}
        # No offset where a beat came through before: the topic was made again, and what nobody had read is gone.
        heard = await self._lanes_heard_from()
        gaps |= {place for place in asked if committed[place] is None and lane_of(*place) in heard}
        if read_before:
            gaps |= places
        if gaps:
            log.error("loader.rows_passed_over", partitions=_names(gaps))
            await self._end_proof()
        for place in places | gaps | {place for place in asked if committed[place] is None}:
            self._consumer.seek(place, starts[place])
            self._begun.add(place)

    def _patience_ms(self) -> int:
        """Return how long to wait for messages: no longer than until something else has to be done."""
        if self._flush is not None:
            return int(_FLUSH_POLL_S * 1000)
        due_in_s = self._filling.due_in_s(time.monotonic())
        return int(1000 * (_LONGEST_POLL_S if due_in_s is None else min(due_in_s, _LONGEST_POLL_S)))

    def _begin_flush(self) -> None:
        self._flushing, self._filling = self._filling, self._empty()
        self._flush = asyncio.create_task(self._flush_and_commit(self._flushing), name="loader-flush")

    async def _reap(self) -> None:
        """Look at a flush that has ended; what failed in it fails here."""
        if self._flush is not None and self._flush.done():
            ended, self._flush, self._flushing = self._flush, None, None
            if not ended.cancelled():
                await ended

    async def _flush_everything(self) -> None:
        # While this waits, `consume` may look at the same flush first and begin the next one.
        while self._flush is not None or self._filling.spans:
            if self._flush is None:
                self._begin_flush()
            else:
                await asyncio.wait({self._flush})
                await self._reap()

    async def _flush_and_commit(self, buffer: Buffer[TopicPartition, Record]) -> None:
        with self._metrics.loader_flush.time():
            await self._store(buffer)
            await self._commit(buffer)
        self._metrics.loader_flush_messages.observe(buffer.n_messages)
        self._metrics.loader_last_flush.set_to_current_time()

    async def _store(self, buffer: Buffer[TopicPartition, Record]) -> None:
        """Store the buffer, however long that takes, always as the same rows from the same place."""
        source, pause_s, failing = source_of(buffer), _FIRST_PAUSE_S, False
        while True:
            try:
                await self._loading.store(buffer.batch, source=source)
            except (ClickHouseUnavailable, ClickHouseRefused) as error:
                if self._stopping.is_set():
                    raise
                self._metrics.loader_retries.inc()
                if not failing:
                    failing = True
                    log.warning("loader.waiting", error=str(error) or type(error).__name__)
                await unless(self._stopping, asyncio.sleep(pause_s))
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            else:
                if failing:
                    log.info("loader.resumed")
                return

    async def _commit(self, buffer: Buffer[TopicPartition, Record]) -> None:
        assigned = self._consumer.assignment()
        offsets = {place: offset for place, offset in buffer.next_offsets().items() if place in assigned}
        await self._refuse_lost_offsets(offsets)
        try:
            if offsets:
                await self._consumer.commit(offsets)
                self._committed |= offsets.keys()
        except (CommitFailedError, IllegalStateError) as error:
            # Somebody else has the partitions now, loads these rows once more, and ClickHouse drops them.
            log.warning("loader.not_committed", error=str(error))

    async def _refuse_lost_offsets(self, places: Iterable[TopicPartition]) -> None:
        """Fail where the group's offsets are gone: a topic that was deleted takes them along.

        The client knows topics by their names. In one that was made again, it would go on at its old position and
        miss all before that; a new membership in the group begins at the earliest offset.
        """
        known = self._committed.intersection(places)
        if lost := known - await self._with_offsets(known):
            raise OffsetsLost(f"no offsets in {', '.join(sorted({place.topic for place in lost}))}")

    async def _with_offsets(self, places: Iterable[TopicPartition]) -> set[TopicPartition]:
        """Return those partitions in which the group has committed an offset."""
        return {place for place, offset in (await self._offsets(places)).items() if offset is not None}

    async def _offsets(self, places: Iterable[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        asked = list(places)
        return dict(zip(asked, await asyncio.gather(*map(self._consumer.committed, asked)), strict=True))

    async def _measure_lag(self) -> None:
        while True:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await self._refresh_lag()
            await asyncio.sleep(_LAG_EVERY_S)

    async def _refresh_lag(self) -> None:
        assigned = self._consumer.assignment()
        if not assigned:
            return
        ends = await self._consumer.end_offsets(assigned)
        for place, end in ends.items():
            held = sum(
                buffer.spans[place].count
                for buffer in (self._filling, self._flushing)
                if buffer is not None and place in buffer.spans
            )
            position = await self._consumer.position(place)
            lag = max(end - position, 0) + held
            self._metrics.loader_lag.labels(topic=place.topic, partition=str(place.partition)).set(lag)
            self._measured.add(place)

    def _forget_lag(self, places: Iterable[TopicPartition]) -> None:
        for place in places:
            if place in self._measured:
                self._measured.remove(place)
                self._metrics.loader_lag.remove(place.topic, str(place.partition))


def _names(places: Iterable[TopicPartition]) -> list[str]:
    return sorted(f"{place.topic}/{place.partition}" for place in places)


def source_of(buffer: Buffer[TopicPartition, Record]) -> str:
    """Say exactly where a buffer's messages come from."""
    spans = sorted((place.topic, place.partition, span.first, span.last) for place, span in buffer.spans.items())
    return ",".join(f"{topic}/{partition}:{first}-{last}" for topic, partition, first, last in spans)
