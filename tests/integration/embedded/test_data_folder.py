"""The data folder: who may use it, and what is said when it cannot be used."""

import multiprocessing
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.embedded.data_folder import DataFolder
from app.embedded.errors import EmbeddedError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    point = tmp_path / "mounted"
    point.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", point], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip("this machine does not let root mount a file system")
        return point

    yield mount
    subprocess.run(["umount", point], capture_output=True, check=False)


def test_data_folder__new_path__is_closed_to_other_users(folder: DataFolder) -> None:
    readable_by_others = folder.path.stat().st_mode & 0o066

    assert readable_by_others == 0
    assert folder.keep("x", "secret").stat().st_mode & 0o077 == 0


def test_data_folder__opened_twice__names_the_process_that_has_it(folder: DataFolder) -> None:
    with pytest.raises(EmbeddedError, match=f"in use by process {os.getpid()}"):
        DataFolder.open(folder.path)


def test_data_folder__closed__can_be_opened_again(folder: DataFolder) -> None:
    secret = folder.secret("password")
    folder.close()

    again = DataFolder.open(folder.path)

    assert again.secret("password") == secret
    again.close()


def test_data_folder__forked_worker_outlives_service__is_free(folder: DataFolder) -> None:
    worker = multiprocessing.get_context("fork").Event()
    process = multiprocessing.get_context("fork").Process(target=worker.wait, daemon=True)
    process.start()
    folder.close()

    DataFolder.open(folder.path).close()

    worker.set()
    process.join()


def test_data_folder__file_in_its_place__is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").touch()

    with pytest.raises(EmbeddedError, match="a file is in its place"):
        DataFolder.open(tmp_path / "data")


@needs_root
def test_data_folder__read_only_file_system__is_refused(mount: Callable[[str], Path]) -> None:
    with pytest.raises(EmbeddedError, match="read-only"):
        DataFolder.open(mount("ro") / "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; an ordinary user is needed")
def test_data_folder__no_permission__is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(EmbeddedError, match="lacks the permission"):
        DataFolder.open(tmp_path / "data")


@needs_root
def test_data_folder__full_disk__says_how_much_is_missing(mount: Callable[[str], Path]) -> None:
    path = mount("size=5m")

    for _ in range(2):  # It stays refused, and is not locked by the first try.
        with pytest.raises(EmbeddedError, match="4 MB are free, 256 MB are needed"):
            DataFolder.open(path / "data")
