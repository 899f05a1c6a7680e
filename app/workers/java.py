"""How the local stack runs a server written in Java."""

import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from app.embedded.accounts import account_for, give
from app.embedded.child import Program
from app.embedded.data_folder import DataFolder, explained
from app.workers.jars import Jars

READY_WITHIN_S = 90.0
FAREWELL = ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0))
_TEMPORARY = "tmp"

# Small and quickly up, rather than fast after hours.
_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xshare:auto")
_LOG_OPTIONS = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.showThreadName=false",
    # Once a second and client while the broker is away; what comes of it is logged elsewhere.
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.clients.NetworkClient=error",
)


def java_arguments(home: Path, jars: Jars, main_class: str, arguments: Sequence[str], *, heap_mb: int) -> list[str]:
    """Return what follows `java` on the command line."""
    return [
        # A leftover is known by its working folder among the arguments; of two class paths the last holds.
        *("-cp", str(home), "-cp", f"{jars.library}/*"),
        *(f"-Xmx{heap_mb}m", *_OPTIONS, *_LOG_OPTIONS),
        f"-Djava.io.tmpdir={home / _TEMPORARY}",
        main_class,
        *arguments,
    ]


def java_server(
    folder: DataFolder,
    jars: Jars,
    *,
    name: str,
    main_class: str,
    arguments: Sequence[str],
    heap_mb: int,
    is_ready: Callable[[], bool],
    before_start: Callable[[], None],
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Program:
    """Return the program that runs this class in the subfolder `name`, which is its working folder."""
    home = folder.path / name
    return Program(
        name=name,
        executable=jars.java,
        arguments=java_arguments(home, jars, main_class, arguments, heap_mb=heap_mb),
        folder=home,
        pid_file=folder.path / f"{name}.pid",
        log_file=folder.path / f"{name}.log",
        account=account_for(folder.path),
        environment={"LC_ALL": "C.UTF-8", "TZ": "UTC", "PATH": os.environ.get("PATH", os.defpath), **environment},
        is_ready=lambda _pid: is_ready(),
        ready_within_s=READY_WITHIN_S,
        port_taken="Address already in use",
        # In good order, and if that hangs the next start ends it.
        death_signal=signal.SIGTERM,
        farewell=FAREWELL,
        before_start=before_start,
    )


def make_home(folder: DataFolder, name: str) -> Path:
    """Make the server's folder, with an empty one for the libraries that Java unpacks, and give it to the server."""
    home = folder.subfolder(name)
    with explained(home):
        shutil.rmtree(home / _TEMPORARY, ignore_errors=True)
        (home / _TEMPORARY).mkdir()
        give(home, account_for(folder.path))
        if (account := account_for(folder.path)) is not None:
            os.chown(home / _TEMPORARY, account.uid, account.gid)
    return home


def keep_properties(folder: DataFolder, name: str, template: Path, overrides: Mapping[str, str]) -> Path:
    """Write a properties file: the template's lines, then the overrides, which hold because they come last."""
    lines = [template.read_text(encoding="utf-8"), *(f"{key}={value}" for key, value in overrides.items())]
    path = folder.keep(name, "\n".join(lines))
    if (account := account_for(folder.path)) is not None:
        os.chown(path, account.uid, account.gid)
    return path
