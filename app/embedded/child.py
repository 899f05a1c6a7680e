"""How the service starts a child: the program, its log, and what is said when it fails."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.embedded import launch
from app.embedded.accounts import Account
from app.embedded.errors import EmbeddedError

# Signals in the order they are sent, each with the seconds given to it.
Farewell = Sequence[tuple[signal.Signals, float]]

LOG_LIMIT_BYTES = 16 * 1024 * 1024
LOG_TAIL_LINES = 3
LOG_TAIL_BYTES = 4096
# Lines with these say why, those around them how.
REASON_WORDS = ("FATAL", "PANIC", "error", "Fatal", "cannot", "could not", "No space")


class PortTaken(EmbeddedError):
    """The server could not listen on its port."""


def nothing() -> None:
    """Do nothing; the default for what a program may need done."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A server: how to start it, to see that it is ready, and to end it.

    Its arguments name its working folder: by both a leftover is known.
    """

    name: str
    executable: Path
    arguments: Sequence[str]
    folder: Path
    pid_file: Path
    log_file: Path
    account: Account | None
    environment: Mapping[str, str]
    is_ready: Callable[[int], bool]  # Given its process id.
    ready_within_s: float
    port_taken: str  # What it logs when it cannot listen.
    death_signal: signal.Signals  # What Linux sends it when the service dies.
    farewell: Farewell
    before_start: Callable[[], None] = nothing


def spawn(program: Program, *, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Start the program; Linux ends it when the calling thread ends."""
    account = program.account or Account(-1, -1)
    program.log_file.touch(mode=0o600)
    with program.log_file.open("ab") as log:
        return subprocess.Popen(  # noqa: S603  # Every argument is ours.
            [
                *(sys.executable, "-I", "-S", launch.__file__),
                *map(str, (os.getpid(), program.death_signal.value, account.uid, account.gid)),
                *(str(program.pid_file), str(program.executable)),
                *program.arguments,
            ],
            cwd=program.folder,
            env=dict(program.environment),
            stdin=stdin,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C in a terminal signals its whole process group; the servers must outlast the service.
            start_new_session=True,
        )


def task(server: Program, executable: str, arguments: Sequence[str], *, folder: Path) -> Program:
    """Return a program beside the server's that does a piece of work for it, and ends."""
    path = server.executable.with_name(executable)
    return replace(server, name=executable, executable=path, arguments=arguments, folder=folder)


def run_to_end(program: Program, *, said: str = "", within_s: float) -> None:
    """Run a task that ends by itself, saying to it what it wants to read.

    Raises:
        EmbeddedError: it failed.
    """
    log_start = size_of(program.log_file)
    try:
        child = spawn(program, stdin=subprocess.PIPE)
    except OSError as error:
        raise EmbeddedError(f"{program.name} cannot be started: {error.strerror or error}.") from error
    try:
        child.communicate(said.encode(), timeout=within_s)
    except subprocess.TimeoutExpired:
        raise failure(program, f"took longer than {within_s:.0f} s", log_start) from None
    finally:
        child.kill()
        child.wait()
    if child.returncode != 0:
        raise failure(program, cause_of_death(child.returncode), log_start)


def cause_of_death(code: int) -> str:
    """Put the exit code of a child into words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def failure(program: Program, what: str, log_start: int) -> EmbeddedError:
    """Make the error that says what happened and what the program wrote last."""
    written = _tail(program.log_file, log_start)
    kind = PortTaken if program.port_taken in written else EmbeddedError
    lines = [line.strip() for line in written.splitlines() if line.strip()]
    reasons = [line for line in lines if any(word in line for word in REASON_WORDS)]
    said = " / ".join((reasons or lines)[-LOG_TAIL_LINES:]) or "it logged nothing"
    return kind(f"{program.name} {what}: {said}")


def size_of(log_file: Path) -> int:
    """Return the length of a file that need not exist, in bytes."""
    return log_file.stat().st_size if log_file.exists() else 0


def bound_log(log_file: Path) -> None:
    """Empty a log that has grown too long; the server, which appends, goes on at its new end."""
    if size_of(log_file) > LOG_LIMIT_BYTES:
        os.truncate(log_file, 0)


def _tail(log_file: Path, start: int) -> str:
    try:
        with log_file.open("rb") as file:
            file.seek(max(start, size_of(log_file) - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
