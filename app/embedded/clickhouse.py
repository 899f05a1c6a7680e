"""ClickHouse's engine inside this process, with its tables in the data folder."""

import ctypes
import signal
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import MappingProxyType

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from app.embedded.data_folder import DataFolder
from app.embedded.errors import EmbeddedError

FOLDER = "clickhouse"
CONFIGURATION_FILE = "clickhouse.xml"
DATABASE = "experiments"

# An acknowledged insert is on the disk; the engine and its caches leave room for PostgreSQL and the service.
CONFIGURATION = """\
<clickhouse>
    <max_server_memory_usage_to_ram_ratio>0.5</max_server_memory_usage_to_ram_ratio>
    <mark_cache_size>268435456</mark_cache_size>
    <merge_tree>
        <fsync_after_insert>1</fsync_after_insert>
        <fsync_part_directory>1</fsync_part_directory>
    </merge_tree>
</clickhouse>"""

# The engine takes its path out of a URL and does not decode it.
UNUSABLE_CHARACTERS = frozenset("?&")

# For these the engine installs handlers of its own, under which a crash of whatever library hangs the process
# for ever instead of ending it.
SIGNALS_TO_RESET = (
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGABRT,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGTSTP,
)


class EmbeddedClickHouse:
    """The engine of this process; it can have one at a time.

    A client may be shared by threads but serves one call at a time, so parallel work takes a client each.
    """

    def __init__(
        self,
        folder: DataFolder,
        *,
        say: Callable[[str], None],
        extra_options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._folder = folder
        self._say = say
        self._extra_options = extra_options
        self._clients: weakref.WeakSet[Client] = weakref.WeakSet()
        self._first_client: Client | None = None

    def start(self) -> Callable[..., Client]:
        """Open the engine, make the database, and return `connect`.

        Raises:
            EmbeddedError: the engine cannot be opened.
        """
        path = self._folder.subfolder(FOLDER)
        if unusable := UNUSABLE_CHARACTERS.intersection(str(path)):
            raise EmbeddedError(
                f"ClickHouse cannot work in {path} because of the {' and '.join(sorted(unusable))} in it; "
                "set DATA_DIR to another folder."
            )
        self._folder.keep(CONFIGURATION_FILE, CONFIGURATION)
        # Loading the engine blocks signals in the thread that does it, which therefore is not the caller's.
        with ThreadPoolExecutor(max_workers=1) as executor:
            self._first_client = executor.submit(self._open).result()
        return self.connect

    def connect(self, *, database: str = DATABASE, settings: Mapping[str, object] | None = None) -> Client:
        """Return a new client of the open engine; the caller closes it, or in the end `stop` does."""
        if self._first_client is None:
            raise EmbeddedError("The ClickHouse engine is not open.")
        return self._connect(database, settings)

    def stop(self) -> None:
        """Break off running queries and close the engine; calling it again does nothing."""
        if self._first_client is None:
            return
        # An engine that is torn down under a running query takes the process with it.
        with suppress(ClickHouseError):
            self._first_client.command("KILL QUERY WHERE true SYNC")
        for client in list(self._clients):
            client.close()
        self._first_client = None

    def _open(self) -> Client:
        try:
            client = self._connect("default", None)
            client.command(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
        except ImportError as error:
            raise EmbeddedError(
                f"ClickHouse is missing ({error}): install the package chdb-core, or set CLICKHOUSE_HOST."
            ) from error
        except (ClickHouseError, OSError, ValueError, RuntimeError) as error:
            raise EmbeddedError(f"ClickHouse cannot open {self._folder.path / FOLDER}: {_one_line(error)}") from error
        finally:
            _reset_signal_handlers()
        return client

    def _connect(self, database: str, settings: Mapping[str, object] | None) -> Client:
        configuration = str(self._folder.path / CONFIGURATION_FILE)
        client = clickhouse_connect.get_client(
            interface="chdb",
            path=str(self._folder.path / FOLDER),
            database=database,
            settings={"session_timezone": "UTC", "async_insert": 0, **(settings or {})},
            tz_mode="aware",
            chdb_options={"config-file": configuration, **self._extra_options},
        )
        self._clients.add(client)
        return client


def _reset_signal_handlers() -> None:
    # Python's own function works in the main thread alone.
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    for signal_ in SIGNALS_TO_RESET:
        libc.signal(signal_.value, None)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
