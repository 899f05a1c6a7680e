"""One computation at a time for identical questions."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from app.core.patience import mark_as_seen

T = TypeVar("T")


class Flights(Generic[T]):
    """Runs at most one computation per key; who comes while one runs shares the next.

    Nobody is given a result whose computation began before he asked, so sharing is never noticed.
    """

    def __init__(self) -> None:
        self._flying: dict[Hashable, asyncio.Task[T]] = {}
        self._boarding: dict[Hashable, asyncio.Task[T]] = {}

    async def join(self, key: Hashable, compute: Callable[[], Awaitable[T]]) -> T:
        """Return the result of a computation that begins after this call."""
        task = self._boarding.get(key)
        if task is None:
            task = asyncio.create_task(self._fly(key, compute), name="results")
            # Its failure is nobody's when every caller has gone away.
            task.add_done_callback(mark_as_seen)
            self._boarding[key] = task
        # One caller that goes away must not take the computation from the others.
        return await asyncio.shield(task)

    async def _fly(self, key: Hashable, compute: Callable[[], Awaitable[T]]) -> T:
        own = asyncio.current_task()
        assert own is not None  # noqa: S101  # This runs as a task.
        while (before := self._flying.get(key)) is not None:
            await asyncio.wait([before])
        self._flying[key] = self._boarding.pop(key)
        try:
            return await compute()
        finally:
            del self._flying[key]
