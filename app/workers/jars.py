"""The jars of Kafka, Connect and Debezium: built once by Maven, and kept outside the repository's history."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.embedded.errors import EmbeddedError

ROOT = Path(__file__).resolve().parents[2]
POM = ROOT / "debezium" / "pom.xml"
JARS_FOLDER = ROOT / ".data" / "jars"

_BUILD_WITHIN_S = 600.0
_LAST_LINES = 3


@dataclass(frozen=True, slots=True)
class Jars:
    """`java`, the folder with Kafka's and Connect's jars, and the one with Connect's plugins."""

    java: Path
    library: Path
    plugins: Path


def build_jars(folder: Path = JARS_FOLDER, pom: Path = POM) -> Jars:
    """Return the jars that the POM asks for, building them when they are not there yet.

    Raises:
        EmbeddedError: Java or Maven is missing, or the build failed.
    """
    java = _program("java", "the Kafka stack needs Java 17")
    version = hashlib.sha256(pom.read_bytes()).hexdigest()[:12]
    built = folder / version
    # The data folder around it is as private as the service would make it.
    folder.parent.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    with _alone(folder):
        if not built.is_dir():
            _build(folder, built, pom)
    return Jars(java, built / "lib", built / "plugins")


def _build(folder: Path, built: Path, pom: Path) -> None:
    """Build beside the place and move it there whole: a build that is cut short leaves no half of it."""
    maven = _program("mvn", "the Kafka stack is built by Maven")
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder))
    try:
        _run([str(maven), "-B", "-q", "-f", str(pom), f"-Djars.folder={unfinished}", "package"])
        unfinished.chmod(0o755)  # The servers may run as another user.
        unfinished.rename(built)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603  # Every argument is ours.
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_BUILD_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EmbeddedError(f"Maven took longer than {_BUILD_WITHIN_S:.0f} s to build the Kafka stack.") from error
    if done.returncode != 0:
        said = [line for line in done.stdout.decode(errors="replace").splitlines() if "ERROR" in line]
        raise EmbeddedError(f"Maven cannot build the Kafka stack: {' / '.join(said[:_LAST_LINES])}")


def _program(name: str, purpose: str) -> Path:
    home = os.environ.get("JAVA_HOME")
    places = [f"{home}/bin"] if home and name == "java" else []
    found = shutil.which(name, path=os.pathsep.join([*places, os.environ.get("PATH", os.defpath)]))
    if found is None:
        raise EmbeddedError(f"{name} is missing: {purpose}. Install it, or use the containers.")
    # Linux lists a process under its program's real name.
    return Path(found).resolve()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
