"""Keeping a server running as a child: it is started, watched, started again when it dies, and stopped."""

import atexit
import os
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from app.embedded.child import PortTaken, Program, bound_log, cause_of_death, failure, size_of, spawn
from app.embedded.data_folder import DataFolder
from app.embedded.errors import EmbeddedError
from app.embedded.ports import free_port
from app.embedded.processes import end_leftovers

# Seconds before each further try of a server that keeps dying; the last one repeats.
RESTART_DELAYS_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# A server that ran this long had recovered, so its next death starts the delays anew.
HEALTHY_AFTER_S = 60.0

PORT_TRIES = 5

READY_POLL_S = 0.01
WATCH_POLL_S = 0.25
# After this time an operator wants to know what is being waited for.
PATIENCE_NOTE_S = 5.0


class Supervisor:
    """Runs one program from `start` to `stop`.

    A thread of its own does all that concerns the child. Linux ties the child's life to the thread that made
    it, and this one ends only after the child.
    """

    def __init__(self, program: Program, *, say: Callable[[str], None]) -> None:
        self._program = program
        self._say = say
        self._owner = os.getpid()
        self._pace = _RestartPace()
        self._stopping = threading.Event()
        self._first_start: Future[None] = Future()
        self._thread = threading.Thread(target=self._keep, name=f"keep-{program.name}", daemon=True)

    def start(self) -> None:
        """Start the program and return when it is ready.

        Raises:
            PortTaken: its port is in use.
            EmbeddedError: it ended, or did not become ready in time.
        """
        atexit.register(self.stop)
        self._thread.start()
        try:
            self._first_start.result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the program; it is gone when this returns. Calling it again does nothing."""
        if os.getpid() != self._owner:
            return  # A fork inherits this object, but not the child.
        atexit.unregister(self.stop)
        self._stopping.set()
        self._thread.join()

    def _keep(self) -> None:
        try:
            child: subprocess.Popen[bytes] | None = self._launch()
        except BaseException as error:  # noqa: BLE001  # `start` raises it.
            self._first_start.set_exception(error)
            return
        self._first_start.set_result(None)
        while child is not None:
            child = self._watch(child)

    def _watch(self, child: subprocess.Popen[bytes]) -> subprocess.Popen[bytes] | None:
        """Wait for the end of the child and return its successor; None when the service stops."""
        while not self._stopping.wait(WATCH_POLL_S):
            if (code := child.poll()) is not None:
                return self._revive(code)
            with suppress(OSError):
                bound_log(self._program.log_file)
        self._end(child)
        return None

    def _revive(self, code: int) -> subprocess.Popen[bytes] | None:
        """Start the program again and again until it runs or the service stops."""
        name = self._program.name
        self._tell(f"{name} {cause_of_death(code)}; it is started again.")
        while not self._stopping.wait(self._pace.next_delay_s()):
            started_at = time.monotonic()
            try:
                child = self._launch()
            except EmbeddedError as error:
                self._tell(f"{error} (it will be tried again)")
            else:
                self._tell(f"{name} runs again after {time.monotonic() - started_at:.1f} s.")
                return child
        return None

    def _launch(self) -> subprocess.Popen[bytes]:
        program = self._program
        try:
            end_leftovers(program)
            program.before_start()
            log_start = size_of(program.log_file)
            child = spawn(program)
        except OSError as error:
            raise EmbeddedError(f"{program.name} cannot be started: {error.strerror or error}.") from error
        try:
            self._await_ready(child, log_start)
        except EmbeddedError:
            self._end(child)
            raise
        return child

    def _await_ready(self, child: subprocess.Popen[bytes], log_start: int) -> None:
        program, started_at, noted = self._program, time.monotonic(), False
        while not program.is_ready(child.pid) and not self._stopping.wait(READY_POLL_S):
            waited_s = time.monotonic() - started_at
            if (code := child.poll()) is not None:
                raise failure(program, f"{cause_of_death(code)} at start", log_start)
            if waited_s > program.ready_within_s:
                raise failure(program, f"was not ready within {program.ready_within_s:.0f} s", log_start)
            if waited_s > PATIENCE_NOTE_S and not noted:
                noted = True
                self._tell(f"{program.name} is still starting; after a crash it may take a while to recover.")

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        for signal_, patience_s in self._program.farewell:
            child.send_signal(signal_)
            with suppress(subprocess.TimeoutExpired):
                child.wait(patience_s)
                break
        try:
            end_leftovers(self._program)
        except (EmbeddedError, OSError) as error:
            self._tell(str(error))

    def _tell(self, message: str) -> None:
        # Whatever is wrong with the terminal or the log must not take the server down.
        with suppress(Exception):
            self._say(message)


def start_on_free_port(
    folder: DataFolder, kept_as: str, program: Callable[[int], Program], *, say: Callable[[str], None]
) -> tuple[Supervisor, int]:
    """Start a server on the port it had the last time, or on another if that is taken, and note the port.

    Raises:
        EmbeddedError: the server cannot be started, or there is no free port.
    """
    kept = folder.read(kept_as)
    wanted = int(kept) if kept is not None and kept.isdecimal() else None
    for tries_left in reversed(range(PORT_TRIES)):
        port = free_port(wanted)
        supervisor = Supervisor(program(port), say=say)
        try:
            supervisor.start()
        except PortTaken:
            # Somebody was quicker, between our look and the server's.
            if not tries_left:
                raise
            wanted = None
        else:
            break
    try:
        folder.keep(kept_as, str(port))
    except EmbeddedError:
        supervisor.stop()
        raise
    return supervisor, port


class _RestartPace:
    """How long to wait before the next try of a server that died."""

    def __init__(self) -> None:
        self._tries = 0
        self._last_try = 0.0

    def next_delay_s(self) -> float:
        if time.monotonic() - self._last_try > HEALTHY_AFTER_S:
            self._tries = 0
        delay_s = RESTART_DELAYS_S[min(self._tries, len(RESTART_DELAYS_S) - 1)]
        self._tries += 1
        self._last_try = time.monotonic() + delay_s
        return delay_s
