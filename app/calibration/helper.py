"""How the service starts the process that splits and tests, feeds it, and hears from it."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec

import app
from app.calibration.values import Job
from app.calibration.worker import END, Said

# What a program needs of the environment; passwords are not among it.
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")
# One processor is enough; the others serve requests.
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_LONGEST_LINE = 16 * 1024 * 1024

Feed = Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]


class HelperDied(Exception):
    """The process ended without a result."""


@contextlib.asynccontextmanager
async def helper() -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the process for the length of the block; it is gone afterwards."""
    folder = str(Path(app.__file__).parents[1])
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.calibration.worker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**environment, **_ONE_THREAD, "PYTHONPATH": folder},
        # Ctrl-C in a terminal is for the service, which ends the process itself.
        start_new_session=True,
        limit=_LONGEST_LINE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def run(job: Job, feed: Feed, progressed: Callable[[float], None]) -> Said:
    """Have the job done with the lines that `feed` writes; returns the last thing that was said.

    Raises:
        HelperDied: the process ended before it had a result, because it was killed or memory ran out.
    """
    async with helper() as process:
        assert process.stdin is not None  # noqa: S101  # Both are pipes.
        assert process.stdout is not None  # noqa: S101
        feeding = asyncio.create_task(_feed(process.stdin, job, feed))
        try:
            said = await _listen(process.stdout, progressed)
            # What kept the lines from being read is the reason why there is no result.
            if said is None or not feeding.done():
                feeding.cancel()
            with contextlib.suppress(asyncio.CancelledError, BrokenPipeError, ConnectionResetError):
                await feeding
        finally:
            feeding.cancel()
    if said is None:
        raise HelperDied("The process that worked on it ended; most likely it was killed or memory ran out.")
    return said


async def _feed(sink: asyncio.StreamWriter, job: Job, feed: Feed) -> None:
    async def write(piece: bytes) -> None:
        # Of a pipe whose reader is gone, one event loop says so in its own way when it is written to.
        if sink.is_closing():
            raise BrokenPipeError
        sink.write(piece)
        # The process takes as much as it can hold; the database sends no faster.
        await sink.drain()

    try:
        await write(msgspec.json.encode(job) + b"\n")
        await feed(write)
        await write(END)
    finally:
        sink.close()


async def _listen(source: asyncio.StreamReader, progressed: Callable[[float], None]) -> Said | None:
    while line := await source.readline():
        said = msgspec.json.decode(line, type=Said)
        if said.progress is None:
            return said
        progressed(said.progress)
    return None
