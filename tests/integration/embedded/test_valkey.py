"""The embedded Valkey: a cache with a password that comes back when it dies."""

import os
import signal
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from app.embedded.data_folder import DataFolder
from app.embedded.ports import LOOPBACK
from app.embedded.processes import read_pid
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
    with Redis(host=LOOPBACK, port=urlsplit(url).port or 0) as stranger, pytest.raises(AuthenticationError):
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
        eventually(lambda deaths=deaths: sum("runs again" in line for line in said) == deaths)

    with Redis.from_url(url) as client:
        assert client.ping()
