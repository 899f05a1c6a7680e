"""What every command of the workers does alike: run to an exit code, say lines, and fail in one clear line."""

import argparse
import sys
from collections.abc import Callable, Sequence

from sqlalchemy.exc import DBAPIError

from app.core.settings import SettingsError
from app.core.termination import Terminated

_INTERRUPTED = 130
_DEFAULT_WAIT_S = 120.0


class CommandFailed(Exception):
    """A server is away or refused, or it is no time for it; the message is one clear line."""


def exit_code_of(work: Callable[[], int | None], *failures: type[Exception], interrupted: int = _INTERRUPTED) -> int:
    """Run a command's work; what fails for a known reason is one line on standard error and the code 1.

    failures: known ones besides wrong settings and `CommandFailed`. interrupted: the code after Ctrl-C.
    """
    known: tuple[type[Exception], ...] = (SettingsError, CommandFailed, *failures)
    try:
        return work() or 0
    except known as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except Terminated:
        return 0
    except KeyboardInterrupt:
        return interrupted


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(f"{line.rstrip()}\n")
    sys.stdout.flush()


def one_line(error: BaseException) -> str:
    """Return what an error says, without the statement that SQLAlchemy adds."""
    said = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(said).split()) or type(said).__name__


def wait_s_of(arguments: Sequence[str] | None, *, prog: str, description: str, servers: str) -> float:
    """Read the one option of a command that waits for its servers."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument(
        "--wait",
        type=float,
        default=_DEFAULT_WAIT_S,
        metavar="SECONDS",
        help=f"how long to wait for {servers} (default: %(default)g)",
    )
    wait_s: float = parser.parse_args(arguments).wait
    return wait_s
