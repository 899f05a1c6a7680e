"""Ports: the wanted one if it is free, another otherwise, and a clear word if there is none."""

import socket
import subprocess
import sys

from app.embedded.ports import LOOPBACK, free_port


def test_free_port__wanted_and_free__is_that() -> None:
    port = free_port()

    assert free_port(port) == port


def test_free_port__wanted_and_taken__is_another() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        taken = server.getsockname()[1]

        assert free_port(taken) != taken


def test_free_port__no_descriptor_for_a_socket__says_so() -> None:
    program = """
import resource
from app.embedded.errors import EmbeddedError
from app.embedded.ports import free_port
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    free_port()
except EmbeddedError as error:
    print(error)
"""

    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert answer.stdout.startswith(f"No free port on {LOOPBACK}: ")
