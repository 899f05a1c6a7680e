"""Coalescing: what arrives while one call is under way goes out together in the next.

No request ever waits for a timer: when nothing is under way, a call starts at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client import Histogram

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True)
class _Submission(Generic[Item, Result]):
    items: Sequence[Item]
    answer: asyncio.Future[Sequence[Result]]


class Batcher(Generic[Item, Result]):
    """Passes items of many requests to `call` together, and to each request its own results in its order."""

    def __init__(
        self,
        call: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        max_items: int,
        sizes: Histogram | None = None,
        retry_alone: Callable[[Exception], bool] = lambda _error: False,
    ) -> None:
        """Prepare a batcher.

        Args:
            call: answers a batch, one result for each item, in order.
            max_items: a batch is closed when the next submission would take it past this.
            sizes: observes the size of each batch.
            retry_alone: whether, after this error, each submission deserves a call of its own, because another
                one's item may have caused it.
        """
        self._call = call
        self._max_items = max_items
        self._sizes = sizes
        self._retry_alone = retry_alone
        self._waiting: list[_Submission[Item, Result]] = []
        self._running: asyncio.Task[None] | None = None

    async def submit(self, items: Sequence[Item]) -> Sequence[Result]:
        """Return the results of `items`; errors of the call are raised here."""
        submission = _Submission[Item, Result](items, asyncio.get_running_loop().create_future())
        self._waiting.append(submission)
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await submission.answer

    async def drain(self) -> None:
        """Wait until nothing is waiting or under way."""
        while self._running is not None:
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._answer(self._next_batch())
        finally:
            self._running = None

    def _next_batch(self) -> list[_Submission[Item, Result]]:
        size, count = 0, 0
        for submission in self._waiting:
            size += len(submission.items)
            if count and size > self._max_items:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _answer(self, batch: list[_Submission[Item, Result]]) -> None:
        items = [item for submission in batch for item in submission.items]
        if self._sizes is not None:
            self._sizes.observe(len(items))
        try:
            results = await self._call(items)
        except Exception as error:  # noqa: BLE001  # Handed to every request that waits for it.
            if len(batch) > 1 and self._retry_alone(error):
                for submission in batch:
                    await self._answer([submission])
                return
            for submission in batch:
                if not submission.answer.done():
                    submission.answer.set_exception(error)
            return
        start = 0
        for submission in batch:
            end = start + len(submission.items)
            if not submission.answer.done():  # Its request may have been cancelled.
                submission.answer.set_result(results[start:end])
            start = end
