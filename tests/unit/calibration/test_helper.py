"""The process that splits and tests, seen by the service that feeds it."""

import asyncio
from collections.abc import Awaitable, Callable

import psutil
import pytest

from app.calibration.helper import HelperDied, run
from app.calibration.values import Column, Job


@pytest.mark.timeout(60)
async def test_run__process_killed_while_it_is_fed__has_died() -> None:
    async def feed(write: Callable[[bytes], Awaitable[None]]) -> None:
        for child in psutil.Process().children():
            if "app.calibration.worker" in " ".join(child.cmdline()):
                child.kill()
        # However long it takes until the pipe is known to be closed, writing ends.
        while True:
            await write(b"0,0,1,1,0,0\n")
            await asyncio.sleep(0.001)

    job = Job(resplits=100, seed=1, alpha=0.05, columns=(Column(metric="m", version=None, shape="mean", unit=1.0),))

    with pytest.raises(HelperDied, match="killed or memory ran out"):
        await run(job, feed, lambda _: None)
