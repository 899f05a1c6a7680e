"""The embedded Valkey: a cache with a password that comes back when it dies."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from urllib.parse import urlsplit

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from app.embedded.child import PortTaken
from app.embedded.data_folder import DataFolder
from app.embedded.ports import LOOPBACK
from app.embedded.processes import read_pid
from app.embedded.supervisor import Supervisor
from app.embedded.valkey import EmbeddedValkey


@pytest.fixture
def valkey(folder: DataFolder, said: list[str]) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(folder, say=said.append)
    yield server
    server.stop()


def test_valkey__started__is_a_bounded_cache_behind_a_password(valkey: EmbeddedValkey) -> None:
    url = valkey.start()

    with Redis.from_url(url) as client:
        assert client.set("key", "value")
        assert client.config_get("maxmemory*")["maxmemory-policy"] == "allkeys-lru"
        assert client.config_get("maxmemory")["maxmemory"] == str(256 * 1024 * 1024)
        assert client.config_get("appendonly")["appendonly"] == "no"
        assert client.config_get("save")["save"] == ""
    without_password = f"redis://{LOOPBACK}:{urlsplit(url).port}"
    with Redis.from_url(without_password, retry=None) as stranger, pytest.raises(AuthenticationError):
        stranger.get("key")


def test_valkey__restarted__has_the_same_url(valkey: EmbeddedValkey) -> None:
    url = valkey.start()
    valkey.stop()
    valkey.stop()

    assert valkey.start() == url


def test_valkey__killed_twice__comes_back_at_the_same_url(
    valkey: EmbeddedValkey,
    folder: DataFolder,
    said: list[str],
    eventually: Callable[[Callable[[], bool]], None],
) -> None:
    url = valkey.start()

    for deaths in (1, 2):
        os.kill(read_pid(folder.path / "valkey.pid") or 0, signal.SIGKILL)
        eventually(partial(has_come_back, said, deaths))

    with Redis.from_url(url) as client:
        assert client.ping()


def test_valkey__port_taken_at_the_last_moment__is_told_apart(valkey: EmbeddedValkey, said: list[str]) -> None:
    valkey.start()
    valkey.stop()

    with socket.create_server((LOOPBACK, 0)) as stranger:
        program = valkey._program(port=stranger.getsockname()[1], password="any")

        with pytest.raises(PortTaken):
            Supervisor(program, say=said.append).start()


def has_come_back(said: list[str], times: int) -> bool:
    return sum("runs again" in line for line in said) == times
