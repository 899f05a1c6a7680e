"""Lines are taken at half the speed at which they come, and no slower for whoever is slow already."""

import pytest

from app.exports.pacing import Paced

_KIB = 1024
_PIECE = b"x" * (64 * _KIB)


class _Time:
    """A clock that goes on when somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept = 0.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.now += seconds


async def _run(pieces: int, *, making_s: float, taking_s: float) -> tuple[float, float]:
    """Return how long it took in all, and how much of it was slept; lines are made while others are taken."""
    time, taken = _Time(), 0

    async def take(lines: bytes) -> None:
        nonlocal taken
        taken += len(lines)
        time.now += taking_s

    paced = Paced(take, clock=time.clock, sleep=time.sleep)
    for _ in range(pieces):
        time.now += max(0.0, making_s - taking_s)
        await paced(_PIECE)
    assert taken == pieces * len(_PIECE)
    return time.now - 1000.0, time.slept


async def test_paced__many_lines_and_a_quick_taker__takes_twice_as_long() -> None:
    took_s, slept_s = await _run(1000, making_s=0.002, taking_s=0.0)
    assert took_s == pytest.approx(2 * 1000 * 0.002, rel=0.1)
    assert slept_s == pytest.approx(took_s / 2, rel=0.1)


async def test_paced__taker_that_is_a_little_quicker__takes_twice_as_long_as_making() -> None:
    assert (await _run(1000, making_s=0.002, taking_s=0.001))[0] == pytest.approx(2 * 1000 * 0.002, rel=0.1)


async def test_paced__few_lines__waits_for_nothing() -> None:
    assert (await _run(60, making_s=0.002, taking_s=0.0))[1] == 0.0


async def test_paced__taker_slower_than_the_lines_come__waits_for_nothing() -> None:
    assert (await _run(1000, making_s=0.002, taking_s=0.003))[1] == 0.0


async def test_paced__long_waits_between_batches__are_not_made_up_for_in_one_go() -> None:
    time = _Time()

    async def take(lines: bytes) -> None:
        """Take at once."""

    paced = Paced(take, clock=time.clock, sleep=time.sleep)
    for batch in range(4):
        time.now += 10.0
        before = time.now
        for _ in range(200):
            time.now += 0.002
            await paced(_PIECE)
        if batch > 0:
            assert time.now - before == pytest.approx(2 * 200 * 0.002, rel=0.15)
