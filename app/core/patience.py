"""Waiting no longer than something is worth."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def within(patience_s: float, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; it is cancelled, and nobody waits for its end, when that takes too long.

    Raises:
        TimeoutError: it takes longer.
    """
    task = asyncio.create_task(work)
    try:
        _, late = await asyncio.wait({task}, timeout=patience_s)
    finally:
        if not task.done():
            # Not cancelled and awaited: taking leave of a hanging server hangs, too.
            task.add_done_callback(mark_as_seen)
            task.cancel()
    if late:
        raise TimeoutError
    return task.result()


def mark_as_seen(task: "asyncio.Task[Any]") -> None:
    """Look at the exception of a task that nobody waits for any more, so that it is not reported as forgotten."""
    if not task.cancelled():
        task.exception()
