"""Nobody waits longer than he means to, and nothing that was given up makes itself heard."""

import asyncio
from typing import Any

import pytest

from app.core.patience import mark_as_seen, within

_LONG_S = 60.0


async def _late(ended: list[str]) -> None:
    try:
        await asyncio.sleep(_LONG_S)
    finally:
        ended.append("cancelled")
        raise ValueError("on its way out")


async def _soon() -> int:
    return 7


async def _failing() -> None:
    raise ValueError("at once")


async def test_within__done_in_time__returns_or_raises_what_it_does() -> None:
    assert await within(_LONG_S, _soon()) == 7
    with pytest.raises(ValueError, match="at once"):
        await within(_LONG_S, _failing())


async def test_within__late__raises_and_what_becomes_of_it_is_nobodys() -> None:
    ended: list[str] = []
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    with pytest.raises(TimeoutError):
        await within(0.01, _late(ended))
    await asyncio.sleep(0.01)

    assert ended == ["cancelled"]
    assert complaints == []


async def test_within__caller_goes_away__ends_the_work() -> None:
    ended: list[str] = []
    caller = asyncio.create_task(within(_LONG_S, _late(ended)))
    await asyncio.sleep(0.01)

    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.sleep(0.01)

    assert ended == ["cancelled"]


async def test_mark_as_seen__failed_or_cancelled__says_nothing() -> None:
    failed, cancelled = asyncio.create_task(_failing()), asyncio.create_task(_soon())
    cancelled.cancel()
    await asyncio.wait([failed, cancelled])

    mark_as_seen(failed)
    mark_as_seen(cancelled)
