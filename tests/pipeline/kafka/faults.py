"""What goes wrong, one thing after the other, while clients write."""

import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from app.workers.connect_worker import ConnectWorker
from app.workers.kafka_broker import KafkaBroker
from tests.pipeline.kafka.installation import Installation

# A loader may have to wait for servers that were killed before, until it has something to insert.
INSERT_WITHIN_S = 180.0


@dataclass(frozen=True)
class Faults:
    """Breaks an installation; each fault is over when it returns, though servers may still be on their way back."""

    installation: Installation
    dice: random.Random

    @property
    def all(self) -> dict[str, Callable[[], None]]:
        return {
            "service killed": self.kill_service,
            "loader killed during an insert": self.kill_loader_during_insert,
            "loader killed between insert and commit": self.kill_loader_before_commit,
            "loader stopped in good order": self.restart_loader,
            "Connect killed": self.kill_connect,
            "broker killed": self.kill_broker,
            "PostgreSQL stopped at once": self.installation.restart_postgres,
            "ClickHouse killed": self.kill_clickhouse,
        }

    def schedule(self, duration_s: float, say: Callable[[str], None]) -> None:
        """Visit every fault in a random order at random moments, and so on until the time is over."""
        began_at = time.monotonic()
        visited: set[str] = set()
        while time.monotonic() - began_at < duration_s or visited != self.all.keys():
            turns = list(self.all.items())
            self.dice.shuffle(turns)
            for name, fault in turns:
                if time.monotonic() - began_at >= duration_s and name in visited:
                    continue
                self._pause(0.3, 2.0)
                say(f"{time.monotonic() - began_at:5.1f} s: {name}")
                fault()
                visited.add(name)

    def kill_service(self) -> None:
        api = self.dice.choice(self.installation.apis)
        api.kill()
        self._pause(0.1, 1.0)
        api.start()

    def kill_loader_during_insert(self) -> None:
        """Kill it when its insert has reached ClickHouse and is not answered."""
        loader, proxy = self.installation.loaders[0], self.installation.proxy
        proxy.arrived.clear()
        assert proxy.arrived.wait(INSERT_WITHIN_S)
        loader.kill()
        self._pause(0.1, 1.0)
        loader.start()

    def kill_loader_before_commit(self) -> None:
        """Kill it when ClickHouse has the rows and the offsets are not committed."""
        loader, proxy = self.installation.loaders[0], self.installation.proxy
        proxy.stored.clear()
        proxy.holding = True
        assert proxy.stored.wait(INSERT_WITHIN_S)
        loader.kill()
        proxy.holding = False
        self._pause(0.1, 1.0)
        loader.start()

    def restart_loader(self) -> None:
        loader = self.installation.loaders[-1]
        loader.stop()
        loader.start()

    def kill_connect(self) -> None:
        connect = self.installation.stack.pipeline.connect
        assert connect is not None
        _kill(connect)

    def kill_broker(self) -> None:
        _kill(self.installation.stack.pipeline.kafka)

    def kill_clickhouse(self) -> None:
        self.installation.clickhouse.kill()
        self._pause(0.5, 3.0)
        self.installation.clickhouse.start()

    def _pause(self, least_s: float, most_s: float) -> None:
        time.sleep(self.dice.uniform(least_s, most_s))


def _kill(server: ConnectWorker | KafkaBroker) -> None:
    with suppress(ProcessLookupError):  # It is dead still from the last time.
        server.kill()


def seed_of_run() -> int:
    """Return the seed that is set, or any."""
    return int(os.environ.get("FAULT_SEED", str(random.randrange(10**6))))
