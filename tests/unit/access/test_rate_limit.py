"""The token bucket in memory, which stands in while Redis is away."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.rate_limit import Limit, RateLimiter
from app.core.errors import RateLimited


class AwayRedis:
    """A Redis that never answers."""

    async def attempt(self, _call: object, default: Any) -> Any:
        return default


class Clock:
    """Stands in for the monotonic clock."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _limiter(clock: Clock, *, enabled: bool = True) -> RateLimiter:
    away: Any = AwayRedis()
    return RateLimiter(away, namespace="test", enabled=enabled, monotonic=clock.monotonic)


async def _admitted(limiter: RateLimiter, limit: Limit, client: str, number: int) -> int:
    admitted = 0
    for _ in range(number):
        with contextlib.suppress(RateLimited):
            await limiter.admit(limit, client)
            admitted += 1
    return admitted


async def test_limit__capacity_at_once__then_refused_until_refilled(clock: Clock) -> None:
    limiter, limit = _limiter(clock), Limit("management", 10, 60)
    assert await _admitted(limiter, limit, "a", 15) == 10
    clock.now_s += 5.9
    assert await _admitted(limiter, limit, "a", 5) == 0
    clock.now_s += 0.2
    assert await _admitted(limiter, limit, "a", 5) == 1
    clock.now_s += 3600
    assert await _admitted(limiter, limit, "a", 15) == 10


async def test_limit__retry_after__is_enough_to_wait(clock: Clock) -> None:
    limiter, limit = _limiter(clock), Limit("management", 3, 100)
    await _admitted(limiter, limit, "a", 3)
    with pytest.raises(RateLimited) as refused:
        await limiter.admit(limit, "a")
    assert refused.value.headers["Retry-After"].isdecimal()
    clock.now_s += int(refused.value.headers["Retry-After"])
    await limiter.admit(limit, "a")


async def test_limits__of_other_clients_and_names__are_their_own(clock: Clock) -> None:
    limiter = _limiter(clock)
    management, traffic = Limit("management", 2, 60), Limit("traffic", 3, 60)
    assert await _admitted(limiter, management, "a", 5) == 2
    assert await _admitted(limiter, traffic, "a", 5) == 3
    assert await _admitted(limiter, management, "b", 5) == 2


async def test_limit__switched_off__admits_all(clock: Clock) -> None:
    assert await _admitted(_limiter(clock, enabled=False), Limit("management", 1, 60), "a", 50) == 50


async def test_limit__large_one__is_exact_though_taken_in_shares(clock: Clock) -> None:
    limiter, limit = _limiter(clock), Limit("traffic", 60_000, 60)
    assert limit.taken_at_once > 1
    assert await _admitted(limiter, limit, "a", 61_000) == 60_000


@given(
    st.integers(1, 20),
    st.floats(0.5, 100),
    st.lists(st.tuples(st.floats(0, 50), st.integers(1, 10)), max_size=20),
)
async def test_limit__any_traffic__never_admits_more_than_capacity_and_refill(
    capacity: int, period_s: float, bursts: list[tuple[float, int]]
) -> None:
    stopped = Clock()
    limiter, limit = _limiter(stopped), Limit("management", capacity, period_s)
    await limiter.admit(limit, "a")
    admitted, started = 1, stopped.now_s
    for pause_s, number in bursts:
        stopped.now_s += pause_s
        admitted += await _admitted(limiter, limit, "a", number)
    assert admitted <= capacity + (stopped.now_s - started) * limit.refill_per_s + 1e-6
