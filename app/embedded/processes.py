"""Finding and ending servers that an earlier start of the service left behind in its data folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from app.embedded.child import Farewell, Program
from app.embedded.errors import EmbeddedError

POLL_S = 0.02

# For processes whose parent has died: there is nobody left to end them in good order.
ORPHAN_FAREWELL = ((signal.SIGQUIT, 2.0), (signal.SIGKILL, 5.0))


def end_leftovers(program: Program) -> None:
    """End what an earlier run of the program left in its folder, and forget its process id.

    Raises:
        EmbeddedError: something does not end.
    """
    noted = read_pid(program.pid_file)
    if noted is not None and is_program(noted, program.executable, program.folder):
        _end([noted], program.farewell)
    left = list(_working_in(program.folder, program.executable))
    if not _end(left, ORPHAN_FAREWELL):
        raise EmbeddedError(f"{program.name} of an earlier start cannot be ended: see the processes {left}.")
    program.pid_file.unlink(missing_ok=True)


def read_pid(pid_file: Path) -> int | None:
    """Return the process id on the file's first line; None if there is no file or no sense in it."""
    try:
        return int(pid_file.read_text(encoding="utf-8").split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def is_program(pid: int, executable: Path, folder: Path) -> bool:
    """Tell whether this process is the program at work in this folder, not a later bearer of its number."""
    command = _command(pid)
    return f"{executable.name} " in command and f" {folder} " in f"{command} "


def is_alive(pid: int) -> bool:
    """Tell whether a process of this number does or holds anything."""
    return is_listed(pid) and not _is_zombie(pid)


def is_listed(pid: int) -> bool:
    """Tell whether the number is taken, if only by a dead process that its parent has not asked about."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _end(pids: Collection[int], farewell: Farewell) -> bool:
    """Send each signal in turn, waiting for its time at most; tell whether all processes have gone."""
    for signal_, patience_s in farewell:
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal_)
        deadline = time.monotonic() + patience_s
        while any(map(is_alive, pids)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    return not any(map(is_alive, pids))


def _is_zombie(pid: int) -> bool:
    """A dead process that its parent has not asked about stays listed, in some containers for ever."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] == "Z"


def _command(pid: int) -> str:
    """Return the command line of a process, empty if it cannot be known."""
    if sys.platform != "linux":
        return _command_from_ps(pid)
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "))
    except OSError:
        return ""


def _command_from_ps(pid: int) -> str:
    listing = subprocess.run(  # noqa: S603  # The only argument is a number.
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listing.stdout


def _working_in(folder: Path, executable: Path) -> Iterator[int]:
    """Search Linux's process table by working folder: it tells even those that have renamed themselves."""
    if sys.platform != "linux":
        return
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if (
                entry.name.isdecimal()
                and (entry / "cwd").readlink() == folder
                and (entry / "exe").readlink().name.removesuffix(" (deleted)") == executable.name
            ):
                yield int(entry.name)
