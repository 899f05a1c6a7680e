"""A service of the benchmark's own: it has one core, its servers and everybody else share another."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.service_process import ServiceProcess

SERVICE_CORE, OTHER_CORE = 0, 1
# Where there is one core, or the system cannot pin, the measurements still run and say so.
CAN_PIN = hasattr(psutil.Process, "cpu_affinity") and (os.cpu_count() or 1) > 1

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB in use; what PostgreSQL's processes share is counted once."""

    service: float
    postgres: float
    valkey: float


class PinnedService(ServiceProcess):
    """The service with all its threads on one core; PostgreSQL and Valkey on the other."""

    def __init__(self, data_dir: Path, **environment: str) -> None:
        super().__init__(data_dir, **environment)
        # It has one thread yet; the others inherit its core.
        pin(self.process.pid, SERVICE_CORE)

    def await_ready(self) -> None:
        super().await_ready()
        for child in self.family():
            pin(child.pid, OTHER_CORE)

    def memory(self) -> Memory:
        parts = {"postgres": 0.0, "valkey-server": 0.0}
        for child in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's helpers come and go.
                if (name := child.name()) in parts:
                    parts[name] += _share(child)
        resident = psutil.Process(self.process.pid).memory_info().rss
        return Memory(resident / _MIB, parts["postgres"] / _MIB, parts["valkey-server"] / _MIB)


def _share(process: psutil.Process) -> float:
    """Return the process's memory with shared pages divided among those that share them, where that is known."""
    memory = process.memory_full_info()
    return float(getattr(memory, "pss", memory.rss))


def pin(pid: int, core: int) -> None:
    """Keep a process on a core; what it starts from now on stays there, too."""
    if CAN_PIN:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).cpu_affinity([core])


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Move this process to a core for the length of the block: a probe runs where the service runs."""
    pin(os.getpid(), core)
    try:
        yield
    finally:
        pin(os.getpid(), OTHER_CORE)
