"""How every process learns at once that experiments or tokens changed.

A change and the new epoch of its topic commit together. Processes are told by NOTIFY, and ask for the epoch
themselves all the time in case they were not. What a process holds in memory may be used for as long as its
last look is younger than `LEASE_S`; a process that makes a change waits until all others have seen it, or until
their leases have run out, before it answers. So once a change is answered, it is in force everywhere.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

import asyncpg
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.db import Database, StoreUnavailable
from app.core.urls import connect_arguments

log = structlog.get_logger()

LEASE_S = 1.0
_LOOK_EVERY_S = 0.3
_RECONNECT_AFTER_S = 0.3
# How long a request waits for a look at a database that neither answers nor refuses.
_PATIENCE_S = 0.5
_CHANNEL = "experimentation_changes"
# Listening connections say in their names which epochs they have applied; pg_stat_activity shows the names.
_LISTENER_PREFIX = "exp-changes"

_BUMP = text("UPDATE change_epochs SET epoch = epoch + 1 WHERE topic = :topic RETURNING epoch")
_NOTIFY = text("SELECT pg_notify(:channel, '')")
_EPOCHS = "SELECT topic, epoch FROM change_epochs"
_OTHER_LISTENERS = text(
    "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name LIKE :prefix || '%' AND pid <> :own"
)

Listener = Callable[[int], Awaitable[None]]


class Changes:
    """The epochs of all topics as this process knows them."""

    def __init__(self, database: Database, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._listeners: dict[str, Listener] = {}
        self._applied: dict[str, int] = {}
        # When memory was last known to be right, or was let stand because PostgreSQL did not answer.
        self._seen_at = float("-inf")
        # When PostgreSQL itself last said so.
        self._confirmed_at = float("-inf")
        self._away = False
        self._own_pid = -1
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._looking = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        self._connection: asyncpg.Connection | None = None

    def subscribe(self, topic: str, listener: Listener) -> None:
        """Have `listener` called with each new epoch of `topic`, before the epoch counts as applied."""
        self._listeners[topic] = listener

    async def start(self) -> None:
        await self._open()
        await self._look()
        self._task = asyncio.create_task(self._watch(), name="changes")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._drop_connection()

    @property
    def fresh(self) -> bool:
        """Whether memory may be used without another look."""
        return self._monotonic() - self._seen_at < LEASE_S

    @property
    def unconfirmed_s(self) -> float:
        """How long ago PostgreSQL last confirmed what is in memory."""
        return self._monotonic() - self._confirmed_at

    async def ensure_fresh(self) -> None:
        """Look now if the last look is too old. While PostgreSQL is away nothing can change, so memory stands."""
        if self.fresh:
            return
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self.look())
        _, late = await asyncio.wait({self._refreshing}, timeout=_PATIENCE_S)
        if late and not self.fresh:  # It does not even refuse; callers must not hang with it.
            self._let_memory_stand()

    async def look(self) -> None:
        """Look now, however young the last look is."""
        async with self._looking:
            await self._look_if_possible()

    async def bump(self, connection: AsyncConnection, topic: str) -> int:
        """Take the topic's next epoch in the caller's transaction, which makes changes of a topic queue up."""
        epoch = int((await connection.execute(_BUMP, {"topic": topic})).scalar_one())
        await connection.execute(_NOTIFY, {"channel": _CHANNEL})
        return epoch

    async def settle(self, topic: str, epoch: int) -> None:
        """After the commit: apply the change here, and return once every other process has it, too.

        Never raises, whatever PostgreSQL does: the change is made, and whoever made it must hear so. Where the
        others cannot be asked, their leases run out.
        """
        deadline = self._monotonic() + LEASE_S
        await self.look()
        pause_s = 0.001
        while self._monotonic() < deadline and await self._others_may_lack(topic, epoch):
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.05)

    async def _others_may_lack(self, topic: str, epoch: int) -> bool:
        try:
            return await self._database.promptly(lambda: self._others_lack(topic, epoch))
        except StoreUnavailable:
            return True

    async def _others_lack(self, topic: str, epoch: int) -> bool:
        async with self._database.read() as connection:
            names = (
                await connection.execute(_OTHER_LISTENERS, {"prefix": _LISTENER_PREFIX, "own": self._own_pid})
            ).scalars()
            return any(_applied_by(name, self._applied).get(topic, -1) < epoch for name in names)

    async def _watch(self) -> None:
        while True:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _LOOK_EVERY_S)
            await self.look()

    async def _look_if_possible(self) -> None:
        try:
            if self._connection is None or self._connection.is_closed():
                await self._open()
            await self._look()
        except Exception as error:  # noqa: BLE001  # The watch must outlive every failure of the database.
            await self._drop_connection()
            self._let_memory_stand()
            if not self._away:
                log.warning("changes.database_unavailable", error=str(error) or type(error).__name__)
            self._away = True
        else:
            if self._away:
                log.info("changes.database_available")
            self._away = False

    def _let_memory_stand(self) -> None:
        """Ask nobody for a moment: while PostgreSQL is away nothing can change."""
        self._seen_at = self._monotonic() - LEASE_S + _RECONNECT_AFTER_S

    async def _open(self) -> None:
        self._connection = await asyncpg.connect(
            **connect_arguments(self._database.engine.url),
            timeout=3,
            command_timeout=3,
            server_settings={"application_name": _LISTENER_PREFIX},
        )
        self._own_pid = self._connection.get_server_pid()
        await self._connection.add_listener(_CHANNEL, lambda *_: self._wake.set())

    async def _look(self) -> None:
        assert self._connection is not None  # noqa: S101  # Opened by every caller.
        looked_at = self._monotonic()
        epochs = {row["topic"]: int(row["epoch"]) for row in await self._connection.fetch(_EPOCHS)}
        changed = [topic for topic, epoch in epochs.items() if self._applied.get(topic, -1) != epoch]
        for topic in changed:
            if (listener := self._listeners.get(topic)) is not None:
                await listener(epochs[topic])
            self._applied[topic] = epochs[topic]
        if changed:
            await self._connection.execute("SELECT set_config('application_name', $1, false)", _name(epochs))
        self._seen_at = self._confirmed_at = looked_at

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def _name(epochs: Mapping[str, int]) -> str:
    """Say the applied epochs in the topics' order; three of them fit the 63 bytes that PostgreSQL keeps."""
    return " ".join([_LISTENER_PREFIX, *(str(epoch) for _topic, epoch in sorted(epochs.items()))])


def _applied_by(name: str, topics: Iterable[str]) -> dict[str, int]:
    return {
        topic: int(epoch)
        for topic, epoch in zip(sorted(topics), name.split(" ")[1:], strict=False)
        if epoch.isdecimal()
    }
