"""Sharing of computations."""

import asyncio

import pytest

from app.results.flights import Flights


class _Work:
    """Counts its runs, each of which ends when the test says so."""

    def __init__(self) -> None:
        self.runs: list[asyncio.Future[None]] = []

    async def __call__(self) -> int:
        number = len(self.runs)
        self.runs.append(asyncio.get_running_loop().create_future())
        await self.runs[number]
        return number


async def _turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_join__while_one_runs__all_who_come_share_the_next() -> None:
    flights, work = Flights[int](), _Work()
    first = asyncio.create_task(flights.join("question", work))
    await _turn()
    later = [asyncio.create_task(flights.join("question", work)) for _ in range(3)]
    await _turn()

    assert len(work.runs) == 1
    work.runs[0].set_result(None)
    await _turn()
    assert len(work.runs) == 2
    work.runs[1].set_result(None)

    assert await first == 0
    assert await asyncio.gather(*later) == [1, 1, 1]


async def test_join__other_question__does_not_wait() -> None:
    flights, work = Flights[int](), _Work()
    tasks = [asyncio.create_task(flights.join(key, work)) for key in ("one", "another")]
    await _turn()

    assert len(work.runs) == 2
    for run in work.runs:
        run.set_result(None)
    await asyncio.gather(*tasks)


async def test_join__a_caller_goes_away__the_others_get_their_answer() -> None:
    flights, work = Flights[int](), _Work()
    leaving, staying = (asyncio.create_task(flights.join("question", work)) for _ in range(2))
    await _turn()

    leaving.cancel()
    await _turn()
    work.runs[0].set_result(None)

    assert await staying == 0
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_join__computation_fails__everybody_hears_and_the_next_starts_anew() -> None:
    flights, work = Flights[int](), _Work()
    waiting = [asyncio.create_task(flights.join("question", work)) for _ in range(2)]
    await _turn()
    work.runs[0].set_exception(RuntimeError("boom"))

    assert [str(error) for error in await asyncio.gather(*waiting, return_exceptions=True)] == ["boom", "boom"]
    again = asyncio.create_task(flights.join("question", work))
    await _turn()
    work.runs[1].set_result(None)
    assert await again == 1
