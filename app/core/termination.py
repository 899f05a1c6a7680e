"""Being told to stop by SIGTERM, as `docker stop`, systemd and Kubernetes do it."""

import signal
from types import FrameType
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """The process was told to stop. What lets Ctrl-C through lets this through as well, and ends in the same order."""


def obey_termination() -> None:
    """Have SIGTERM end the process as Ctrl-C does, but told apart from it: who asked for the end gets the code 0."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated
