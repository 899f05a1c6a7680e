"""Starting and stopping: what is refused is said in one line, and what is stopped leaves nothing behind."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service_process import (
    INTERRUPTED,
    ServiceProcess,
    experiment_body,
    service_environment,
    wait_until,
)

pytestmark = [pytest.mark.xdist_group("heavy"), pytest.mark.timeout(120)]

START_WITHIN_S = 10.0
STOP_WITHIN_S = 10.0
REFUSE_WITHIN_S = 30.0
SECRET = "a-long-and-random-secret-0123456789"
SERVERS = {
    "DATABASE_URL": "postgresql+asyncpg://app:secret@database.invalid/experiments",
    "REDIS_URL": "redis://cache.invalid/0",
    "CLICKHOUSE_HOST": "history.invalid",
    "KAFKA_BOOTSTRAP_SERVERS": "log.invalid:9092",
    "SECRET_KEY": SECRET,
    "BEARER_TOKENS": f'["{SECRET}"]',
}


def refusal(folder: Path, **environment: str) -> str:
    """Start a service that must not come up; returns the one line that it says."""
    done = subprocess.run(
        [sys.executable, "-m", "app"],
        cwd=folder,
        env=service_environment(folder / "refused", **environment),
        capture_output=True,
        text=True,
        timeout=REFUSE_WITHIN_S,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "ready:" not in done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def test_start__data_folder_in_use__names_the_process(service: ServiceProcess, tmp_path: Path) -> None:
    said = refusal(tmp_path, DATA_DIR=str(service.data_dir))

    assert f"in use by process {service.process.pid}" in said
    assert "DATA_DIR" in said


def test_start__port_in_use__names_it_and_touches_nothing(service: ServiceProcess, tmp_path: Path) -> None:
    port = service.url.rpartition(":")[2]

    said = refusal(tmp_path, PORT=port)

    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert not (tmp_path / "refused").exists()


def test_start__data_folder_cannot_be_written__names_it(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        unwritable = tmp_path / "data"
    elif sys.platform == "linux":
        unwritable = Path("/sys/experiments")  # Not even root makes folders there.
    else:
        pytest.skip("root may write anywhere on this system; an ordinary user is needed")

    said = refusal(Path("/"), DATA_DIR=str(unwritable))

    assert f"The data folder {unwritable} cannot be used" in said


def test_start__database_url_of_another_dialect__says_which_one_is_wanted(tmp_path: Path) -> None:
    said = refusal(tmp_path, DATABASE_URL="postgresql://app:secret@127.0.0.1/experiments")

    assert "DATABASE_URL: must start with postgresql+asyncpg://" in said


def test_start__database_unreachable__says_so_without_the_password(tmp_path: Path) -> None:
    said = refusal(tmp_path, DATABASE_URL="postgresql+asyncpg://app:hidden-word@127.0.0.1:1/experiments")

    assert "DATABASE_URL: PostgreSQL cannot be reached" in said
    assert "hidden-word" not in said


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("@127.0.0.1", "-and-more@127.0.0.1", "password"),
        ("/experiments", "/another", "another"),
    ],
    ids=["wrong-password", "no-such-database"],
)
def test_start__database_refuses__says_why_in_one_line(
    service: ServiceProcess, tmp_path: Path, old: str, new: str, reason: str
) -> None:
    url = service.postgres_url.replace("postgresql://", "postgresql+asyncpg://").replace(old, new)

    said = refusal(tmp_path, DATABASE_URL=url)

    assert "DATABASE_URL" in said
    assert reason in said


def test_start__production_without_a_real_server__names_the_variable(tmp_path: Path) -> None:
    missing = "KAFKA_BOOTSTRAP_SERVERS"
    settings = {name: value for name, value in SERVERS.items() if name != missing}

    said = refusal(tmp_path, ENVIRONMENT="production", **settings)

    assert f"error: {missing}: " in said


def test_start__production_with_a_weak_token__is_refused_without_showing_it(tmp_path: Path) -> None:
    said = refusal(tmp_path, **{**SERVERS, "ENVIRONMENT": "production", "BEARER_TOKENS": '["hunter2"]'})

    assert "error: BEARER_TOKENS: " in said
    assert "hunter2" not in said


def test_start__stopped_and_started_again__is_quick_leaves_nothing_and_answers_the_same(tmp_path: Path) -> None:
    data, users = tmp_path / "data", [f"user-{number}" for number in range(50)]
    first, seconds_to_start = start_timed(data)
    try:
        with first.client() as client:
            client.post("/api/v1/experiments", json=experiment_body("kept")).raise_for_status()
            before = bulk(first, users)
        seconds_to_terminate = timed(first.terminate)
    finally:
        first.end()
    second, seconds_to_start_again = start_timed(data)
    try:
        after = bulk(second, users)
        seconds_to_interrupt = timed(second.interrupt)
    finally:
        second.end()

    assert (first.process.returncode, second.process.returncode) == (0, INTERRUPTED), first.said() + second.said()
    for service in (first, second):
        assert service.left_behind() == []
        assert service.said().splitlines()[-2:] == ["stopping", "stopped"]
        assert "Traceback" not in service.said()
    assert {answer["reason"] for answer in before} == {"NEW_ASSIGNMENT"}
    assert after == [{**answer, "reason": "EXISTING_ASSIGNMENT"} for answer in before]
    # The faster of two, and with more patience where others use the machine, too.
    crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert min(seconds_to_start, seconds_to_start_again) < START_WITHIN_S * crowd
    assert min(seconds_to_terminate, seconds_to_interrupt) < STOP_WITHIN_S * crowd


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(ServiceProcess.interrupt, INTERRUPTED), (ServiceProcess.terminate, 0)],
    ids=["interrupted", "terminated"],
)
def test_start__stopped_before_it_is_ready__ends_without_a_trace(
    tmp_path: Path, stop: Callable[[ServiceProcess], int], expected: int
) -> None:
    service = ServiceProcess(tmp_path / "data")
    try:
        wait_until(lambda: "starting PostgreSQL" in service.said(), "PostgreSQL is being started")
        code = stop(service)
    finally:
        service.end()

    assert code == expected, service.said()
    assert service.left_behind() == []
    assert "Traceback" not in service.said()


def start_timed(data: Path) -> tuple[ServiceProcess, float]:
    started = time.monotonic()
    service = ServiceProcess.start(data)
    return service, time.monotonic() - started


def timed(stop: Callable[[], int]) -> float:
    started = time.monotonic()
    stop()
    return time.monotonic() - started


def bulk(service: ServiceProcess, users: list[str]) -> list[dict[str, object]]:
    with service.client() as client:
        answer = client.post("/api/v1/assignments/bulk", json={"experiment": "kept", "user_ids": users})
        answers: list[dict[str, object]] = answer.raise_for_status().json()["assignments"]
        return answers
