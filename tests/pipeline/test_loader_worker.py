"""The loader as a process: how it ends."""

import asyncio

from app.workers.loader import end


async def test_end__consumer_that_does_not_end__is_cancelled() -> None:
    loading: asyncio.Task[None] = asyncio.create_task(_for_ever())

    async with asyncio.timeout(5):
        await end(loading, within_s=0.05)

    assert loading.cancelled()


async def _for_ever() -> None:
    await asyncio.Event().wait()
