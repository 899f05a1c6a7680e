"""The compose file as Compose understands it, with secrets made by `make env`."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.containers.programs import COMPOSE_FILE, ROOT, Json, require

_BUILD_WITHIN_S = 300


@pytest.fixture(scope="session")
def compose_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that reads a compose file with the library that Docker Compose is made of."""
    go = require("go", "golang (1.25 or later)")
    program = tmp_path_factory.mktemp("compose") / "compose_config"
    source = Path(__file__).parent / "compose_config"
    done = subprocess.run(
        [go, "build", "-o", program, "."],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=_BUILD_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="session")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The .env that `make env` writes, in a folder of its own."""
    folder = tmp_path_factory.mktemp("env")
    (folder / "deploy").mkdir()
    shutil.copy(ROOT / ".env.example", folder)
    script = shutil.copy(ROOT / "deploy" / "make_env.sh", folder / "deploy")
    subprocess.run([script], check=True, capture_output=True)
    return folder / ".env"


@pytest.fixture(scope="session")
def project(compose_config: Path, env_file: Path) -> Json:
    """The project: services, volumes and secrets, everything filled in."""
    done = subprocess.run([compose_config, COMPOSE_FILE, env_file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: Json = json.loads(done.stdout)
    return found


@pytest.fixture(scope="session")
def services(project: Json) -> dict[str, Json]:
    found: dict[str, Json] = project["services"]
    return found
