"""Free ports on the loopback interface."""

import random
import socket

from app.embedded.errors import EmbeddedError

LOOPBACK = "127.0.0.1"

# Above the ports of well-known services, and below those that Linux (32768) and macOS (49152) give to
# outgoing connections: a port that is wanted again at the next start is seldom taken by a passing one.
PREFERRED = range(15_000, 32_000)
TRIES = 64


def free_port(wanted: int | None = None) -> int:
    """Return the wanted port if nobody listens on it, otherwise another free one.

    Raises:
        EmbeddedError: no port can be had.
    """
    candidates = random.sample(PREFERRED, TRIES)
    if wanted is not None:
        candidates.insert(0, wanted)
    candidates.append(0)  # Let the system choose.
    problem: Exception | None = None
    for port in candidates:
        try:
            return _bind(port)
        except (OSError, OverflowError) as error:
            problem = error
    raise EmbeddedError(f"No free port on {LOOPBACK}: {problem}.") from problem


def _bind(port: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, port))
        name: tuple[str, int] = probe.getsockname()
        return name[1]
