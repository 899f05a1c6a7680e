"""The process that splits and tests, so that whoever serves requests does not have to.

It reads a line of JSON, the lines of `reading`, and a last line `END` from its input, and writes lines of JSON: how far
it is, and at last the result or why there is none. It gives way to everything else on the machine, and ends when nobody
reads what it writes.
"""

import logging
import os
import sys
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from app.calibration.errors import CannotCalibrate
from app.calibration.reading import read_users
from app.calibration.resplits import calibrate
from app.calibration.values import CalibrationResult, Job

# Of the standard library: without being set up it writes to the standard error, where the service's own log goes, and
# never to the standard output, where the result does.
log = logging.getLogger(__name__)

END = b"end\n"
_PIECE_BYTES = 1024 * 1024
_NICENESS = 10
_MISTAKE = "An error of the service, in the process that worked on it; its log says which."


class Said(msgspec.Struct, omit_defaults=True):
    """One line of the process."""

    progress: float | None = None
    result: CalibrationResult | None = None
    failure: str | None = None


class Incomplete(Exception):
    """The input ended without its last line: whoever wrote it gave up."""


def pieces(source: BinaryIO) -> Iterator[bytes]:
    """Yield the input up to its last line, in pieces.

    Raises:
        Incomplete: it ends without that line.
    """
    held = b""
    while piece := source.read(_PIECE_BYTES):
        held += piece
        if held.endswith(END) and (len(held) == len(END) or held[-len(END) - 1 : -len(END)] == b"\n"):
            yield held[: -len(END)]
            return
        # The last line may arrive in two pieces.
        yield held[: -len(END) - 1]
        held = held[-len(END) - 1 :]
    raise Incomplete


def work(source: BinaryIO, sink: BinaryIO) -> None:
    """Do the one job that the input holds."""

    def say(said: Said) -> None:
        sink.write(msgspec.json.encode(said) + b"\n")
        sink.flush()

    job = msgspec.json.decode(source.readline(), type=Job)
    try:
        users = read_users(job, pieces(source))
        result = calibrate(job, users, lambda progress: say(Said(progress=progress)))
    except Incomplete:
        return
    except (CannotCalibrate, MemoryError) as error:
        say(Said(failure=str(error) or "The numbers of the control's users do not fit into memory."))
        return
    except BrokenPipeError:
        raise
    except Exception:  # The outermost loop of this process. Ending without a word would look as if it had been killed.
        log.exception("calibration.worker_failed")
        say(Said(failure=_MISTAKE))
        return
    say(Said(result=result))


def main() -> None:
    os.nice(_NICENESS)
    try:
        work(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        # Nobody is there any more; nor is there anything to tidy up.
        os._exit(1)


if __name__ == "__main__":
    main()
