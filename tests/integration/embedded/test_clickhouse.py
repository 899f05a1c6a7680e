"""The embedded ClickHouse, in processes of its own: a process can have one engine, and these end theirs badly."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.embedded.clickhouse import EmbeddedClickHouse
from app.embedded.data_folder import DataFolder
from app.embedded.errors import EmbeddedError

OPENED = """
import ctypes, sys, threading, time
from pathlib import Path
from app.embedded.clickhouse import EmbeddedClickHouse
from app.embedded.data_folder import DataFolder
folder = DataFolder.open(Path(sys.argv[1]))
clickhouse = EmbeddedClickHouse(folder, say=print)
connect = clickhouse.start()
"""


def run(program: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", OPENED + program, str(path)], capture_output=True, text=True, check=False, timeout=30
    )


def test_clickhouse__opened__is_durable_and_in_utc(tmp_path: Path) -> None:
    done = run(
        """
client = connect()
client.command("CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
print(client.query("SELECT currentDatabase(), timezone()").result_rows)
print(client.query("SELECT value FROM system.merge_tree_settings WHERE name LIKE 'fsync_%' ORDER BY name").result_rows)
clickhouse.stop()
clickhouse.stop()
print(clickhouse.start()().query("SELECT name FROM system.tables WHERE database = 'experiments'").result_rows)
clickhouse.stop()
""",
        tmp_path / "a folder",
    )

    assert done.stdout.splitlines() == ["[('experiments', 'UTC')]", "[('1',), ('1',)]", "[('t',)]"], done.stderr
    assert done.returncode == 0


def test_clickhouse__stopped_during_a_query__breaks_it_off(tmp_path: Path) -> None:
    done = run(
        """
def work():
    try:
        connect().query("SELECT count() FROM numbers(1000000000000) WHERE cityHash64(number) = 1")
    except Exception as error:
        print(error.name)
thread = threading.Thread(target=work)
thread.start()
time.sleep(0.3)
clickhouse.stop()
thread.join()
""",
        tmp_path / "data",
    )

    assert done.stdout.splitlines() == ["QUERY_WAS_CANCELLED"], done.stderr
    assert done.returncode == 0


def test_clickhouse__process_crashes__ends_instead_of_hanging(tmp_path: Path) -> None:
    done = run("ctypes.string_at(0)", tmp_path / "data")

    assert done.returncode == -signal.SIGSEGV


def test_clickhouse__path_that_the_engine_misreads__is_refused(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path / "what?")

    with pytest.raises(EmbeddedError, match=r"because of the \? in it"):
        EmbeddedClickHouse(folder, say=print).start()

    folder.close()
