"""The one folder that holds all that the embedded servers keep, and the lock that gives it to one service."""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.embedded.errors import EmbeddedError

# A fresh PostgreSQL cluster takes 40 MB and grows by its first WAL segments; ClickHouse needs room to merge.
FREE_SPACE_FIRST_START = 256 * 1024 * 1024
# An existing folder must be able to recover and checkpoint, so that the operator can delete something.
FREE_SPACE_LATER_START = 32 * 1024 * 1024

LOCK_FILE = "lock"


class DataFolder:
    """An open data folder: it exists, can be written to, and no other service uses it."""

    path: Path

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock: int | None = lock
        # flock belongs to the open file, which a fork shares: without this a forked worker that outlives
        # the service would keep the folder locked.
        os.register_at_fork(after_in_child=self._forget_lock)

    @classmethod
    def open(cls, path: Path) -> "DataFolder":
        """Make the folder if need be and take it.

        Raises:
            EmbeddedError: it is in use, cannot be written to, or its disk is full.
        """
        path = path.expanduser().absolute()
        try:
            # When root runs servers under another account, that must pass through, not see what is there.
            path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
            path = path.resolve(strict=True)
            first_start = not any(entry.is_dir() for entry in path.iterdir())
            lock = _take_lock(path)
        except OSError as error:
            raise EmbeddedError(f"The data folder {path} cannot be used: {explain(error)}.") from error
        folder = cls(path, lock)
        try:
            _check_free_space(path, FREE_SPACE_FIRST_START if first_start else FREE_SPACE_LATER_START)
        except EmbeddedError:
            folder.close()
            raise
        return folder

    def close(self) -> None:
        """Give the folder back; the servers in it must have stopped."""
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._forget_lock()

    def subfolder(self, name: str) -> Path:
        """Return a folder inside, making it if need be."""
        path = self.path / name
        with explained(path):
            path.mkdir(mode=0o700, exist_ok=True)
        return path

    def read(self, name: str) -> str | None:
        """Return what was kept under this name, if anything."""
        path = self.path / name
        with explained(path):
            return path.read_text(encoding="utf-8").strip() or None if path.exists() else None

    def keep(self, name: str, text: str) -> Path:
        """Store a short text for the next start, readable by its owner alone, wholly or not at all."""
        path = self.path / name
        unfinished = path.with_name(f"{path.name}.unfinished")
        with explained(path):
            # A leftover of a start that was killed is written anew.
            unfinished.unlink(missing_ok=True)
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(descriptor)
            unfinished.replace(path)
        return path

    def secret(self, name: str) -> str:
        """Return the password kept under this name, choosing it the first time."""
        if (secret := self.read(name)) is None:
            secret = secrets.token_hex(24)
            self.keep(name, secret)
        return secret

    def _forget_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def explain(error: OSError) -> str:
    """Say in a few words what the operator can do about a refusal of the file system."""
    match error.errno:
        case errno.EROFS:
            return "its file system is read-only; set DATA_DIR to another folder"
        case errno.EACCES | errno.EPERM:
            return f"this user (uid {os.geteuid()}) lacks the permission; set DATA_DIR to another folder"
        case errno.ENOSPC | errno.EDQUOT:
            return "the disk is full"
        case errno.ENOTDIR | errno.EEXIST:
            return "a file is in its place"
        case _:
            return error.strerror or str(error)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError about a path of the data folder into an EmbeddedError."""
    try:
        yield
    except OSError as error:
        raise EmbeddedError(f"{path} cannot be used: {explain(error)}.") from error


def _take_lock(path: Path) -> int:
    descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
        os.close(descriptor)
        raise EmbeddedError(
            f"The data folder {path} is in use by process {holder}; stop that, or set DATA_DIR to another folder."
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_free_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path).free
    if free < needed:
        raise EmbeddedError(
            f"The disk of the data folder {path} is full: {free >> 20} MB are free, {needed >> 20} MB are needed."
        )
