"""The embedded PostgreSQL: what it promises, and what it survives."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from app.embedded import launch
from app.embedded.child import PortTaken, spawn
from app.embedded.data_folder import DataFolder
from app.embedded.errors import EmbeddedError
from app.embedded.ports import LOOPBACK
from app.embedded.postgres import UNFINISHED_PREFIX, EmbeddedPostgres
from app.embedded.processes import _command_from_ps, is_alive, is_program, read_pid
from app.embedded.supervisor import Supervisor

Make = Callable[..., EmbeddedPostgres]
Sql = Callable[[str, str], list[tuple[Any, ...]]]
Eventually = Callable[[Callable[[], bool]], None]

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux's process table is needed")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

NOBODY = 65534


def test_postgres__fresh_start__is_durable_and_the_same_everywhere(
    folder: DataFolder, said: list[str], sql: Sql
) -> None:
    postgres = EmbeddedPostgres(folder, say=said.append)
    promised = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "data_checksums": "on",
        "wal_level": "logical",
        "max_replication_slots": "10",
        "max_wal_senders": "10",
        "max_slot_wal_keep_size": "4GB",
        "TimeZone": "UTC",
        "server_encoding": "UTF8",
        "listen_addresses": LOOPBACK,
        "max_connections": "200",
        "jit": "off",
    }

    url = postgres.start()

    try:
        assert url.startswith("postgresql+asyncpg://postgres:")
        assert urlsplit(url).path == "/experiments"
        names = ", ".join(f"current_setting('{name}')" for name in promised)
        assert sql(url, f"SELECT {names}") == [tuple(promised.values())]
        assert sql(url, "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = current_database()") == [
            (b"b", "C.UTF-8")
        ]
        assert sql(url, "SELECT 'ä' < 'z', upper('ä')") == [(False, "Ä")]
    finally:
        postgres.stop()
    assert said == []


def test_postgres__wrong_password__is_refused(make_postgres: Make, sql: Sql) -> None:
    url = make_postgres().start()
    guessed = url.replace(urlsplit(url).password or "", "guess")

    with pytest.raises(Exception, match="password authentication failed"):
        sql(guessed, "SELECT 1")


def test_postgres__restarted__keeps_rows_and_address(make_postgres: Make, sql: Sql) -> None:
    postgres = make_postgres()
    url = postgres.start()
    sql(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    postgres.stop()
    postgres.stop()

    again = make_postgres().start()

    assert again == url
    assert sql(again, "SELECT answer FROM kept") == [(42,)]


def test_postgres__killed__comes_back_with_its_rows(
    make_postgres: Make, folder: DataFolder, said: list[str], sql: Sql, eventually: Eventually
) -> None:
    url = make_postgres().start()
    sql(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    first = server_pid(folder)

    os.kill(first, signal.SIGKILL)
    eventually(lambda: any("runs again" in line for line in said))

    assert "was ended by SIGKILL" in said[0]
    assert server_pid(folder) != first
    assert sql(url, "SELECT answer FROM kept") == [(42,)]


def test_postgres__port_taken_meanwhile__moves_to_another(make_postgres: Make, sql: Sql) -> None:
    postgres = make_postgres()
    first = urlsplit(postgres.start()).port
    postgres.stop()

    with socket.create_server((LOOPBACK, first or 0)):
        url = make_postgres().start()

    assert urlsplit(url).port != first
    assert sql(url, "SELECT 1") == [(1,)]


def test_postgres__port_taken_at_the_last_moment__is_told_apart(make_postgres: Make, said: list[str]) -> None:
    postgres = make_postgres()
    postgres.start()
    postgres.stop()

    with socket.create_server((LOOPBACK, 0)) as stranger:
        supervisor = Supervisor(postgres._program(stranger.getsockname()[1]), say=said.append)

        with pytest.raises(PortTaken):
            supervisor.start()


def test_postgres__bad_option__says_what_the_server_logged(make_postgres: Make, folder: DataFolder) -> None:
    with pytest.raises(EmbeddedError, match=r'exit code 1 at start: .*invalid value for parameter "work_mem"'):
        make_postgres(work_mem="plenty").start()

    assert read_pid(folder.path / "postgres.pid") is None


def test_postgres__cluster_of_another_version__is_refused(make_postgres: Make, folder: DataFolder) -> None:
    cluster = folder.subfolder("postgres")
    (cluster / "PG_VERSION").write_text("16\n")

    with pytest.raises(EmbeddedError, match="made by PostgreSQL 16, this is 18"):
        make_postgres().start()


def test_postgres__unfinished_cluster__is_removed_and_made_anew(
    make_postgres: Make, folder: DataFolder, sql: Sql
) -> None:
    unfinished = folder.subfolder(f"{UNFINISHED_PREFIX}abc")
    (unfinished / "PG_VERSION").write_text("18\n")

    url = make_postgres().start()

    assert not unfinished.exists()
    assert sql(url, "SELECT 1") == [(1,)]


def test_postgres__pid_file_names_a_stranger__starts(make_postgres: Make, folder: DataFolder) -> None:
    postgres = make_postgres()
    postgres.start()
    postgres.stop()
    # After a restart of the machine, or in a container, another process may have the number: here, this one.
    (folder.path / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{folder.path}/postgres\n1\n1\n\n\n1 1\n")
    (folder.path / "postgres.pid").write_text(f"{os.getpid()}\n")

    make_postgres().start()

    assert server_pid(folder) != os.getpid()


def test_postgres__server_left_over__is_stopped_before_the_next_start(
    make_postgres: Make, sql: Sql, eventually: Eventually
) -> None:
    postgres = make_postgres()
    port = urlsplit(postgres.start()).port
    postgres.stop()
    leftover = spawn(postgres._program(port or 0))
    eventually(lambda: postgres._is_ready(leftover.pid))

    url = make_postgres().start()

    assert leftover.wait(timeout=1) == 0
    assert urlsplit(url).port == port
    assert sql(url, "SELECT 1") == [(1,)]


@needs_linux
def test_postgres__backend_outlives_its_server__is_ended(
    make_postgres: Make, folder: DataFolder, said: list[str], eventually: Eventually
) -> None:
    make_postgres().start()
    server = psutil.Process(server_pid(folder))
    backends = server.children()
    backends[0].suspend()  # It cannot see that its server dies.

    server.kill()
    eventually(lambda: any("runs again" in line for line in said))

    assert not is_alive(backends[0].pid)


def test_postgres__password_lost__gets_a_new_one(make_postgres: Make, folder: DataFolder, sql: Sql) -> None:
    postgres = make_postgres()
    lost = postgres.start()
    postgres.stop()
    (folder.path / "postgres.password").unlink()

    url = make_postgres().start()

    assert url != lost
    assert sql(url, "SELECT 1") == [(1,)]


def test_postgres__deep_path_with_spaces__works(make_postgres: Make, tmp_path: Path, sql: Sql) -> None:
    folder = DataFolder.open(tmp_path / ("deep folder " * 8) / ("ünd deeper " * 8))
    postgres = make_postgres(folder)

    assert len(str(folder.path)) > 200
    assert sql(postgres.start(), "SELECT 1") == [(1,)]

    postgres.stop()
    folder.close()


@needs_root
def test_postgres__root_and_closed_folders__runs_as_another_user(make_postgres: Make, tmp_path: Path, sql: Sql) -> None:
    tmp_path.chmod(0o700)
    folder = DataFolder.open(tmp_path / "closed")
    folder.path.chmod(0o700)
    postgres = make_postgres(folder)

    url = postgres.start()

    assert sql(url, "SELECT 1") == [(1,)]
    assert psutil.Process(server_pid(folder)).uids().effective != 0
    postgres.stop()
    folder.close()


@needs_root
def test_postgres__root_in_the_folder_of_a_user__leaves_the_cluster_to_that_user(
    make_postgres: Make, tmp_path: Path
) -> None:
    (tmp_path / "owned").mkdir()
    os.chown(tmp_path / "owned", 12345, 12345)
    folder = DataFolder.open(tmp_path / "owned")

    with pytest.raises(EmbeddedError, match="12345"):  # It is not in the password file, which initdb wants.
        make_postgres(folder).start()

    folder.close()


@needs_linux
@needs_root
def test_launch__program_in_a_closed_folder__runs_as_another_user(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    shell = Path(shutil.copy("/bin/sh", tmp_path))
    secret = tmp_path / "secret"
    secret.write_text("for root alone")
    secret.chmod(0o600)
    # `test -x` asks as PostgreSQL asks about its own program: with access(2), which has rules of its own.
    question = f"id -u; test -x {shell} && test -r {secret} && echo reachable"

    answer = subprocess.run(
        [
            *(sys.executable, "-I", "-S", launch.__file__),
            *map(str, (os.getpid(), signal.SIGKILL.value, NOBODY, NOBODY)),
            *(str(tmp_path / "pid"), str(shell), "-c", question),
        ],
        capture_output=True,
        text=True,
        check=True,
    )

    assert answer.stdout.split() == [str(NOBODY), "reachable"]


@pytest.mark.skipif(not Path("/bin/ps").exists(), reason="/bin/ps is needed")
def test_command_line__asked_of_ps__is_what_the_process_table_has(make_postgres: Make, folder: DataFolder) -> None:
    make_postgres().start()
    cluster, pid = folder.path / "postgres", server_pid(folder)

    assert f" {cluster} " in _command_from_ps(pid)
    assert is_program(pid, Path("postgres"), cluster)
    assert not is_program(pid, Path("postgres"), folder.path)


def server_pid(folder: DataFolder) -> int:
    pid = read_pid(folder.path / "postgres.pid")
    assert pid is not None
    return pid
