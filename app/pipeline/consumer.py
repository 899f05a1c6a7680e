"""The consumer: a member of a group that loads Kafka's topics into ClickHouse, joining again whenever it has to."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from functools import partial

import structlog
from aiokafka.errors import KafkaError

from app.core.clickhouse import ClickHouse, ClickHouseUnavailable
from app.core.kafka import GroupConsumer
from app.core.metrics import Metrics
from app.core.settings import LoaderSettings
from app.pipeline.consumer_session import Session
from app.pipeline.dead_letters import DeadLetterTopic, letters_producer
from app.pipeline.loading import Loading
from app.pipeline.marker import put_new_marker
from app.pipeline.positions import target
from app.pipeline.records import aggregatetypes, read
from app.pipeline.stopping import unless
from app.pipeline.watermark import lanes_heard_from

log = structlog.get_logger()

# A member is found dead after this; its partitions go to the others.
_SESSION_TIMEOUT_MS = 10_000
_HEARTBEAT_MS = 1_000
# How long the others wait for a member that is bringing its rows to ClickHouse before it gives up its partitions.
_REBALANCE_TIMEOUT_MS = 30_000
# ClickHouse may be away for days, which is no reason to leave the group: nobody else could do better.
_MAX_POLL_INTERVAL_MS = 2**31 - 1
# A fetch that finds nothing is answered after this; new messages are answered at once.
_FETCH_MAX_WAIT_MS = 500
# Fetched answers wait compressed, one for each partition.
_FETCH_BYTES = 8 * 1024 * 1024
_PARTITION_FETCH_BYTES = 512 * 1024
# A topic that was gone, or a partition that is new, is found after this; by default that takes five minutes.
_METADATA_AGE_MS = 5_000
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_LEAVE_S = 5.0
# How often it is asked whether this is still the ClickHouse whose group was joined.
_SAME_CLICKHOUSE_EVERY_S = 2.0


class ClickHouseReplaced(Exception):
    """Another ClickHouse answers than the one whose group was joined."""


class Consumer:
    """Moves messages from Kafka to ClickHouse, at least once and each partition in order, until it is stopped."""

    def __init__(
        self,
        brokers: str,
        clickhouse: ClickHouse,
        settings: LoaderSettings,
        metrics: Metrics,
        *,
        drain_s: float = 10.0,
    ) -> None:
        self._brokers = brokers
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
                group = await unless(self._stopping, own_group(self._clickhouse, self._settings))
                if group is None:
                    break
                async with self._session(group) as session:
                    self.working, pause_s = True, _FIRST_PAUSE_S
                    self._note_success()
                    await self._consume(session, group)
            except (KafkaError, ClickHouseUnavailable, ClickHouseReplaced, OSError, TimeoutError) as error:
                self._warn_once(error)
            except Exception:  # The outermost loop: the loader must outlive every failure.
                log.exception("loader.failed")
                self._failing = True
            finally:
                self.working = False
            await unless(self._stopping, asyncio.sleep(pause_s))
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def stop(self) -> None:
        """Have `run` return once what was taken is in ClickHouse, or cannot get there now."""
        self._stopping.set()

    @contextlib.asynccontextmanager
    async def _session(self, group: str) -> AsyncIterator[Session]:
        consumer = GroupConsumer(
            bootstrap_servers=self._brokers,
            group_id=group,
            client_id="experiments-loader",
            # The session goes to the earliest offsets itself, because it must know when rows were passed over.
            auto_offset_reset="none",
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
        session = Session(
            consumer,
            Loading(self._clickhouse, self._metrics, read=read, dead_letters=DeadLetterTopic(producer)),
            self._settings,
            self._metrics,
            self._stopping,
            end_proof=partial(put_new_marker, self._clickhouse),
            lanes_heard_from=partial(lanes_heard_from, self._clickhouse),
        )
        try:
            consumer.subscribe(sorted(aggregatetypes()), listener=session)
            await unless(self._stopping, producer.start())
            await unless(self._stopping, consumer.start())
            yield session
            await session.drain(self._drain_s)
        finally:
            await session.close()
            for client in (consumer, producer):
                with contextlib.suppress(KafkaError, OSError, TimeoutError):
                    await asyncio.wait_for(client.stop(), _LEAVE_S)

    async def _consume(self, session: Session, group: str) -> None:
        """Consume into the ClickHouse whose group this is.

        Raises:
            ClickHouseReplaced: there is another one now. What is not committed is left to its own group.
        """
        consuming = asyncio.create_task(session.consume(), name="loader-consume")
        watching = asyncio.create_task(self._until_replaced(group), name="loader-watch")
        try:
            await asyncio.wait({consuming, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not consuming.done():
                await watching
                raise ClickHouseReplaced("another ClickHouse answers")
            await consuming
        finally:
            for task in (consuming, watching):
                task.cancel()
            await asyncio.wait({consuming, watching})

    async def _until_replaced(self, group: str) -> None:
        current = group
        while current == group:
            await asyncio.sleep(_SAME_CLICKHOUSE_EVERY_S)
            with contextlib.suppress(ClickHouseUnavailable):
                current = await own_group(self._clickhouse, self._settings)

    def _note_success(self) -> None:
        if self._failing:
            self._failing = False
            log.info("loader.resumed")

    def _warn_once(self, error: BaseException) -> None:
        if not self._failing:
            self._failing = True
            log.warning("loader.waiting", error=str(error) or type(error).__name__)


async def own_group(clickhouse: ClickHouse, settings: LoaderSettings) -> str:
    """Return the group of those who fill this ClickHouse and no other.

    Offsets say what is in one ClickHouse. In a group of all, a new one would lack what the old one was given
    last, an engine in a process what the others were given, and beats would claim both.

    Raises:
        ClickHouseUnavailable: it cannot be reached, or has no tables yet.
    """
    return f"{settings.group_id}-{await target(clickhouse)}"
