"""All embedded parts in a service of their own, which is killed, interrupted and started again."""

import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.embedded.data_folder import DataFolder
from app.embedded.errors import EmbeddedError

NOBODY = 65534
SITE_PACKAGES = sysconfig.get_path("purelib")


def test_service__killed_while_it_works__leaves_no_process_and_no_row_behind(
    tmp_path: Path, run_service: Callable[..., Any], sql: Callable[..., Any]
) -> None:
    path = tmp_path / "data"
    service = run_service(path, "valkey", "clickhouse")
    urls = service.says()
    assert service.says() == {"last": 0, "rows": 0}
    sql(urls["postgres"], "CREATE TABLE kept AS SELECT 42 AS answer")
    while service.says()["acknowledged"] < 500:
        pass

    heard = service.kill()

    assert service.leaves_nothing_behind()
    acknowledged = heard[-1]["acknowledged"] if heard else 500
    again = run_service(path, "valkey", "clickhouse")
    assert again.says() == urls
    assert sql(urls["postgres"], "SELECT answer FROM kept") == [(42,)]
    found = again.says()
    assert found["rows"] == found["last"] >= acknowledged


def test_service__interrupted__stops_all_in_good_order(tmp_path: Path, run_service: Callable[..., Any]) -> None:
    service = run_service(tmp_path / "data", "valkey", "clickhouse")
    service.says()
    service.says()

    heard = service.interrupt()

    assert heard.endswith("stopped\n")
    assert service.leaves_nothing_behind()
    log = (tmp_path / "data" / "postgres.log").read_text()
    assert "received fast shutdown request" in log
    assert log.rstrip().endswith("database system is shut down")


def test_service__second_instance__is_refused_with_one_line(tmp_path: Path, run_service: Callable[..., Any]) -> None:
    first = run_service(tmp_path / "data")
    first.says()

    second = run_service(tmp_path / "data")

    assert second.complaint() == (
        f"The data folder {tmp_path}/data is in use by process {first.pid}; "
        "stop that, or set DATA_DIR to another folder.\n"
    )
    with pytest.raises(EmbeddedError, match="in use"):
        DataFolder.open(tmp_path / "data")


def test_service__killed_and_started_at_once__waits_for_the_leftover(
    tmp_path: Path, run_service: Callable[..., Any]
) -> None:
    urls = []
    for _ in range(3):
        service = run_service(tmp_path / "data", "valkey")
        urls.append(service.says())
        service.kill()

    assert urls[0] == urls[1] == urls[2]
    assert service.leaves_nothing_behind()


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to become an ordinary user")
def test_service__ordinary_user__works(run_service: Callable[..., Any], sql: Callable[..., Any]) -> None:
    python = python_for_nobody()

    # The folders of pytest are closed to others.
    with tempfile.TemporaryDirectory() as path:
        os.chown(path, NOBODY, NOBODY)
        service = run_service(
            path, "valkey", python=[python], modules=[SITE_PACKAGES], user=NOBODY, group=NOBODY, extra_groups=[]
        )

        assert sql(service.says()["postgres"], "SELECT 1") == [(1,)]
        assert service.interrupt().endswith("stopped\n")


def python_for_nobody() -> str:
    """Find a Python of our version that an ordinary user may run; the one in use may lie under /root."""
    version = f"python3.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/local/bin/{version}", f"/usr/bin/{version}"):
        try:
            probe = subprocess.run(
                [python, "-c", "import asyncpg, psutil"],
                env={"PYTHONPATH": SITE_PACKAGES},
                user=NOBODY,
                extra_groups=[],
                capture_output=True,
                check=False,
            )
        except OSError:
            continue
        if probe.returncode == 0:
            return python
    pytest.skip("there is no Python here that user nobody may run")
