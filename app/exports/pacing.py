"""Taking rows no faster than leaves others a turn.

PostgreSQL makes rows as fast as they are taken, and keeps a processor busy with them. Where it has no other to spare,
commits wait, and with them new users. Whoever downloads waits anyway.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from app.exports.values import Write

# Of the speed at which PostgreSQL makes them on its own.
_SHARE = 0.5
# That is measured with the first rows; an export that is smaller is over before it is in anybody's way.
_MEASURED_BYTES = 4 * 1024 * 1024
# Longer waits are not for rows, but for what comes before them.
_LONGEST_WAIT_FOR_ROWS_S = 0.25
# PostgreSQL works on while its rows are taken, until it has to wait. Who waits for it for a tenth of the time or more
# goes at its speed; whoever does not is slower, and need not be slowed down.
_WHOLE_TIME_TO_WAITS = 10
# Who was kept waiting does not make up for it in one go.
_MOST_CREDIT_S = 0.05


class Paced:
    """Passes lines on, with pauses; for a taker that is slower than that itself there are none."""

    def __init__(
        self,
        take: Write,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._take = take
        self._clock = clock
        self._sleep = sleep
        self._taken_at: float | None = None
        self._measured = 0
        self._waited_s = 0.0
        self._took_s = 0.0
        self._due = 0.0

    async def __call__(self, lines: bytes) -> None:
        came_at = self._clock()
        await self._take(lines)
        if self._measured < _MEASURED_BYTES:
            self._measure(len(lines), came_at)
        else:
            await self._wait(len(lines))
        self._taken_at = self._clock()

    def _measure(self, size: int, came_at: float) -> None:
        waited_s = 0.0 if self._taken_at is None else came_at - self._taken_at
        if self._taken_at is not None and waited_s < _LONGEST_WAIT_FOR_ROWS_S:
            self._measured += size
            self._waited_s += waited_s
            self._took_s += self._clock() - self._taken_at

    async def _wait(self, size: int) -> None:
        making_s = min(self._took_s, _WHOLE_TIME_TO_WAITS * self._waited_s) * size / self._measured
        now = self._clock()
        self._due = max(self._due, now - _MOST_CREDIT_S) + making_s / _SHARE
        if self._due > now:
            await self._sleep(self._due - now)
