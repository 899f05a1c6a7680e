"""The consumer: it reads Kafka's topics as one of a group and loads them into ClickHouse.

Offsets are committed once ClickHouse has acknowledged what lies before them, so that whatever dies, at whatever
moment, somebody reads again what may not have arrived. One flush runs at a time, so that a beat never overtakes
the rows before it.

Memory is bounded: there is one buffer being filled and one being flushed. When both are full the consumer asks for
nothing, and the client beneath it fetches nothing more than the answers that it holds. It stays in its group
meanwhile, because the client's heartbeats are a task of their own.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from app.core.clickhouse import ClickHouse, ClickHouseRefused, ClickHouseUnavailable
from app.core.metrics import Metrics
from app.core.settings import LoaderSettings
from app.pipeline.buffering import Buffer
from app.pipeline.dead_letters import DeadLetterTopic, letters_producer
from app.pipeline.loading import Loading
from app.pipeline.positions import target
from app.pipeline.records import Record, aggregatetypes, read

log = structlog.get_logger()

T = TypeVar("T")

# How many messages are taken, and checked, before the event loop gets its turn: a few milliseconds.
_MOST_POLLED = 1000
_LONGEST_POLL_S = 0.2
# While a flush is under way, its end is looked for this often.
_FLUSH_POLL_S = 0.02
# A member is found dead after this; its partitions go to the others.
_SESSION_TIMEOUT_MS = 10_000
_HEARTBEAT_MS = 1_000
# How long the others wait for a member that is bringing its rows to ClickHouse before it gives up its partitions.
_REBALANCE_TIMEOUT_MS = 30_000
_HAND_OVER_S = 10.0
# ClickHouse may be away for days, which is no reason to leave the group: nobody else could do better.
_MAX_POLL_INTERVAL_MS = 2**31 - 1
# A fetch that finds nothing is answered after this; new messages are answered at once.
_FETCH_MAX_WAIT_MS = 500
# Fetched answers wait compressed, one for each partition.
_FETCH_BYTES = 8 * 1024 * 1024
_PARTITION_FETCH_BYTES = 512 * 1024
# A topic that was gone, or a partition that is new, is found after this; by default that takes five minutes.
_METADATA_AGE_MS = 5_000
_LAG_EVERY_S = 2.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_LEAVE_S = 5.0


class OffsetsLost(KafkaError):  # type: ignore[misc]  # The client leaves it untyped.
    """Kafka does not know any more what this group has committed."""


class Consumer:
    """Moves messages from Kafka to ClickHouse, at least once and each partition in order, until it is stopped.

    `group` is asked for the group's id if it is not that of the settings.
    """

    def __init__(
        self,
        brokers: str,
        clickhouse: ClickHouse,
        settings: LoaderSettings,
        metrics: Metrics,
        *,
        group: Callable[[], Awaitable[str]] | None = None,
        drain_s: float = 10.0,
    ) -> None:
        self._brokers = brokers
        self._group = group
        self._clickhouse = clickhouse
        self._settings = settings
        self._metrics = metrics
        self._drain_s = drain_s
        self._stopping = asyncio.Event()
        self._failing = False
        self.working = False
        # What it logs while a broker is away or the group changes is also raised, or nobody's concern.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

    async def run(self) -> None:
        """Consume until `stop` is called and what was taken is in ClickHouse; servers that are away are waited for."""
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                async with self._session() as session:
                    self.working, pause_s = True, _FIRST_PAUSE_S
                    self._note_success()
                    await session.consume()
            except (KafkaError, ClickHouseUnavailable, OSError, TimeoutError) as error:
                self._warn_once(error)
            except Exception:  # The outermost loop: the loader must outlive every failure.
                log.exception("loader.failed")
                self._failing = True
            finally:
                self.working = False
            await _unless(self._stopping, asyncio.sleep(pause_s))
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def stop(self) -> None:
        """Have `run` return once what was taken is in ClickHouse, or cannot get there now."""
        self._stopping.set()

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator["_Session"]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._brokers,
            group_id=self._settings.group_id if self._group is None else await self._group(),
            client_id="experiments-loader",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
            session_timeout_ms=_SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=_HEARTBEAT_MS,
            rebalance_timeout_ms=_REBALANCE_TIMEOUT_MS,
            metadata_max_age_ms=_METADATA_AGE_MS,
            max_poll_interval_ms=_MAX_POLL_INTERVAL_MS,
            fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
            fetch_max_bytes=_FETCH_BYTES,
            max_partition_fetch_bytes=_PARTITION_FETCH_BYTES,
        )
        producer = letters_producer(self._brokers)
        session = _Session(consumer, self._loading(producer), self._settings, self._metrics, self._stopping)
        try:
            consumer.subscribe(sorted(aggregatetypes()), listener=session)
            await _unless(self._stopping, producer.start())
            await _unless(self._stopping, consumer.start())
            yield session
            await session.drain(self._drain_s)
        finally:
            await session.close()
            for client in (consumer, producer):
                with contextlib.suppress(KafkaError, OSError, TimeoutError):
                    await asyncio.wait_for(client.stop(), _LEAVE_S)

    def _loading(self, producer: AIOKafkaProducer) -> Loading[Record]:
        return Loading(self._clickhouse, self._metrics, read=read, dead_letters=DeadLetterTopic(producer))

    def _note_success(self) -> None:
        if self._failing:
            self._failing = False
            log.info("loader.resumed")

    def _warn_once(self, error: BaseException) -> None:
        if not self._failing:
            self._failing = True
            log.warning("loader.waiting", error=str(error) or type(error).__name__)


async def own_group(clickhouse: ClickHouse, settings: LoaderSettings) -> str:
    """Return the group of whoever fills a ClickHouse that nobody else fills.

    An engine in a process gets all partitions, and from the start when it is new: offsets in a group that others
    share would leave it with a part.
    """
    return f"{settings.group_id}-{await target(clickhouse)}"


class _Session(ConsumerRebalanceListener):  # type: ignore[misc]  # The client leaves it untyped.
    """One membership in the group, from joining to leaving."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        loading: Loading[Record],
        settings: LoaderSettings,
        metrics: Metrics,
        stopping: asyncio.Event,
    ) -> None:
        self._consumer = consumer
        self._loading = loading
        self._settings = settings
        self._metrics = metrics
        self._stopping = stopping
        self._filling = self._empty()
        self._flushing: Buffer[TopicPartition, Record] | None = None
        self._flush: asyncio.Task[None] | None = None
        self._measuring = asyncio.create_task(self._measure_lag(), name="loader-lag")
        self._measured: set[TopicPartition] = set()
        self._committed: set[TopicPartition] = set()

    async def consume(self) -> None:
        """Take messages and flush them until asked to stop."""
        while not self._stopping.is_set():
            if self._filling.is_full and self._flush is not None:
                await asyncio.wait({self._flush}, timeout=_LONGEST_POLL_S)
            else:
                await self._poll()
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
            self._forget_lag(revoked)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        log.info("loader.assigned", partitions=sorted(f"{place.topic}/{place.partition}" for place in assigned))
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            self._committed = await self._with_offsets(assigned)

    def _empty(self) -> Buffer[TopicPartition, Record]:
        return Buffer(self._settings, self._loading.batch())

    async def _poll(self) -> None:
        fetched = await self._consumer.getmany(timeout_ms=self._patience_ms(), max_records=_MOST_POLLED)
        now_s = time.monotonic()
        for place, records in fetched.items():
            for record in records:
                self._filling.add(place, record.offset, record, len(record.value or b""), now_s=now_s)

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
        if self._flush is not None:
            await asyncio.wait({self._flush})
            await self._reap()
        if self._filling.spans:
            self._begin_flush()
            await self._flush_everything()

    async def _flush_and_commit(self, buffer: Buffer[TopicPartition, Record]) -> None:
        with self._metrics.loader_flush.time():
            await self._store(buffer)
            await self._commit(buffer)
        self._metrics.loader_flush_messages.observe(buffer.n_messages)
        self._metrics.loader_last_flush.set_to_current_time()

    async def _store(self, buffer: Buffer[TopicPartition, Record]) -> None:
        """Store the buffer, however long that takes, always as the same rows from the same place."""
        source, pause_s, failing = _source(buffer), _FIRST_PAUSE_S, False
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
                await _unless(self._stopping, asyncio.sleep(pause_s))
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
        asked = list(places)
        offsets = await asyncio.gather(*(self._consumer.committed(place) for place in asked))
        return {place for place, offset in zip(asked, offsets, strict=True) if offset is not None}

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


def _source(buffer: Buffer[TopicPartition, Record]) -> str:
    """Say exactly where a buffer's messages come from."""
    spans = sorted((place.topic, place.partition, span.first, span.last) for place, span in buffer.spans.items())
    return ",".join(f"{topic}/{partition}:{first}-{last}" for topic, partition, first, last in spans)


async def _unless(stopping: asyncio.Event, work: Awaitable[T]) -> T | None:
    """Wait for the work to end, but no longer than until it is time to stop; returns `None` then."""
    working = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, stopped):
            task.cancel()
        await asyncio.wait({working, stopped})
