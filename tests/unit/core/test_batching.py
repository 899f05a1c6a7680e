"""Coalescing requests into batches."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.batching import Batcher

_MAX_ITEMS = 5


class Calls:
    """A call that doubles numbers, keeps what it was asked, and can be held up or fail."""

    def __init__(self, *, poison: int | None = None) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._poison = poison

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        await self.gate.wait()
        await asyncio.sleep(0)
        if self._poison in items:
            raise ValueError("poisoned")
        return [item * 2 for item in items]


def _batcher(calls: Calls, *, max_items: int = _MAX_ITEMS, retry: bool = False) -> Batcher[int, int]:
    return Batcher[int, int](
        calls, max_items=max_items, retry_alone=lambda error: retry and isinstance(error, ValueError)
    )


async def test_batcher__idle__calls_at_once_and_alone() -> None:
    calls = Calls()
    assert list(await _batcher(calls).submit([1, 2])) == [2, 4]
    assert calls.batches == [[1, 2]]


async def test_batcher__busy__sends_what_queued_meanwhile_together_in_order() -> None:
    calls = Calls()
    calls.gate.clear()
    batcher = _batcher(calls)
    tasks = [asyncio.create_task(batcher.submit([number])) for number in range(1, 5)]
    await asyncio.sleep(0.01)
    calls.gate.set()
    assert [list(answer) for answer in await asyncio.gather(*tasks)] == [[2], [4], [6], [8]]
    assert [item for batch in calls.batches for item in batch] == [1, 2, 3, 4]
    assert len(calls.batches) <= 2


async def test_batcher__more_than_fits__closes_batches_at_their_size_but_splits_no_submission() -> None:
    calls = Calls()
    calls.gate.clear()
    batcher = _batcher(calls)
    first = asyncio.create_task(batcher.submit([0]))
    await asyncio.sleep(0.01)
    tasks = [asyncio.create_task(batcher.submit(list(range(size)))) for size in (3, 2, 1, 9, 1)]
    await asyncio.sleep(0.01)
    calls.gate.set()
    await asyncio.gather(first, *tasks)
    assert [len(batch) for batch in calls.batches] == [1, 5, 1, 9, 1]


async def test_batcher__cancelled_request__leaves_the_others_their_answers() -> None:
    calls = Calls()
    calls.gate.clear()
    batcher = _batcher(calls)
    first, second, third = (asyncio.create_task(batcher.submit([number])) for number in (1, 2, 3))
    await asyncio.sleep(0.01)
    first.cancel()
    second.cancel()
    calls.gate.set()
    assert list(await third) == [6]
    for cancelled in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    assert list(await batcher.submit([4])) == [8]


async def test_batcher__failure__reaches_each_that_waits_and_passes() -> None:
    calls = Calls(poison=2)
    calls.gate.clear()
    batcher = _batcher(calls)
    await_all = asyncio.gather(*(batcher.submit([number]) for number in (1, 2, 3)), return_exceptions=True)
    await asyncio.sleep(0.01)
    calls.gate.set()
    answers = await await_all
    assert any(isinstance(answer, ValueError) for answer in answers)
    assert list(await batcher.submit([5])) == [10]


async def test_batcher__failure_of_one_item__is_isolated_when_retries_are_allowed() -> None:
    calls = Calls(poison=2)
    calls.gate.clear()
    batcher = _batcher(calls, retry=True)
    first = asyncio.create_task(batcher.submit([0]))
    await asyncio.sleep(0.01)
    waiting = asyncio.gather(*(batcher.submit([number]) for number in (1, 2, 3)), return_exceptions=True)
    await asyncio.sleep(0.01)
    calls.gate.set()
    one, two, three = await waiting
    assert list(await first) == [0]
    assert (one, three) == ([2], [6])
    assert isinstance(two, ValueError)


async def test_batcher__drained__has_nothing_under_way() -> None:
    calls = Calls()
    batcher = _batcher(calls)
    tasks = [asyncio.create_task(batcher.submit([number])) for number in range(20)]
    await asyncio.sleep(0)
    await batcher.drain()
    assert all(task.done() or not task.cancelled() for task in tasks)
    assert sum(len(batch) for batch in calls.batches) == 20
    await asyncio.gather(*tasks)
    await batcher.drain()


async def test_batcher__submission_of_nothing__is_answered_with_nothing() -> None:
    assert list(await _batcher(Calls()).submit([])) == []


@given(st.lists(st.lists(st.integers(-5, 5), max_size=7), max_size=25), st.integers(1, 8))
def test_batcher__any_submissions__get_their_own_results_in_their_order(
    submissions: list[list[int]], max_items: int
) -> None:
    async def run() -> tuple[list[list[int]], list[list[int]]]:
        calls = Calls()
        batcher = _batcher(calls, max_items=max_items)
        answers = await asyncio.gather(*(batcher.submit(items) for items in submissions))
        return [list(answer) for answer in answers], calls.batches

    answers, batches = asyncio.run(run())
    assert answers == [[item * 2 for item in items] for items in submissions]
    assert [item for batch in batches for item in batch] == [item for items in submissions for item in items]
    longest = max((len(items) for items in submissions), default=0)
    assert all(len(batch) <= max(max_items, longest) for batch in batches)
