"""Kafka, Connect and Debezium as programs of this machine, one stack for all tests that need them."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from app.core.clickhouse import ClickHouse
from app.core.settings import ClickHouseSettings
from app.embedded.data_folder import DataFolder
from app.workers.connect_api import ConnectApi
from app.workers.connector import Connector
from app.workers.jars import Jars, build_jars
from app.workers.local_pipeline import LocalPipeline
from app.workers.settings import CdcSettings
from tests.pipeline.kafka.loading import ClickHouseProgram, LoaderProcess, clickhouse_program
from tests.pipeline.kafka.reading import Reader
from tests.service_process import ServiceProcess, running_service

ROOT = Path(__file__).resolve().parents[3]

# No test cuts the power. A slot that nobody reads is given up so soon that a test can see it happen, and late enough
# for what is written while Connect and Kafka are killed.
POSTGRES_OPTIONS = {"fsync": "off", "shared_buffers": "64MB", "max_slot_wal_keep_size": "256MB"}

_COMMAND_WITHIN_S = 60.0

StartLoader = Callable[..., LoaderProcess]


@dataclass(frozen=True)
class Stack:
    """The running servers, and the settings with which programs find them."""

    pipeline: LocalPipeline
    addresses: Mapping[str, str]
    folder: Path

    @property
    def settings(self) -> CdcSettings:
        return CdcSettings.model_validate(self.addresses)

    @property
    def brokers(self) -> str:
        return self.addresses["KAFKA_BOOTSTRAP_SERVERS"]

    @property
    def connect(self) -> ConnectApi:
        return ConnectApi(self.addresses["CONNECT_URL"])

    @property
    def connector(self) -> Connector:
        return Connector.for_source(self.settings.source())

    def run(self, module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a worker as an operator would, with the addresses and no other settings."""
        return subprocess.run(
            [sys.executable, "-m", f"app.workers.{module}", *arguments],
            cwd=ROOT.parent,  # Not the checkout, whose .env is a developer's own.
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **self.addresses, **environment},
            capture_output=True,
            text=True,
            timeout=_COMMAND_WITHIN_S,
            check=False,
        )


@pytest.fixture(scope="session")
def jars() -> Jars:
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing and os.environ.get("CI") != "true":
        pytest.skip(f"missing on this machine: {' and '.join(missing)}")
    return build_jars()


@pytest.fixture(scope="session")
def stack(jars: Jars, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole stack, with the connector running."""
    folder = DataFolder.open(tmp_path_factory.mktemp("kafka"))
    pipeline = LocalPipeline(folder, jars, say=print, postgres_options=POSTGRES_OPTIONS)
    try:
        yield Stack(pipeline, pipeline.start(), folder.path)
    finally:
        pipeline.stop()
        folder.close()


@pytest.fixture(scope="session")
def kafka_service(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service that has its outbox carried by Kafka."""
    names = ("DATABASE_URL", "REDIS_URL", "KAFKA_BOOTSTRAP_SERVERS")
    with running_service(
        tmp_path_factory.mktemp("kafka-service") / "data",
        HEARTBEAT_SECONDS="0.2",
        **{name: stack.addresses[name] for name in names},
    ) as running:
        yield running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ClickHouseProgram]:
    """A ClickHouse of the test's own, which is empty."""
    with clickhouse_program(tmp_path / "clickhouse") as program:
        yield program


@pytest.fixture
async def history(server: ClickHouseProgram) -> AsyncIterator[ClickHouse]:
    client = await ClickHouse.connect_server(ClickHouseSettings.model_validate(server.variables))
    yield client
    await client.close()


@pytest.fixture
def start_loader(stack: Stack, server: ClickHouseProgram, tmp_path: Path) -> Iterator[StartLoader]:
    """Start loaders of one group, which is the test's own and so begins at the earliest offsets."""
    group = f"loader-{uuid4().hex[:8]}"
    started: list[LoaderProcess] = []

    def start(**variables: str) -> LoaderProcess:
        log = tmp_path / f"loader-{len(started)}.log"
        addresses = {**server.variables, "KAFKA_BOOTSTRAP_SERVERS": stack.brokers, "LOADER_GROUP_ID": group}
        started.append(LoaderProcess.start(log, {**addresses, **variables}))
        return started[-1]

    yield start
    for loader in started:
        loader.kill()


@pytest.fixture
async def reader(stack: Stack) -> AsyncIterator[Reader]:
    opened = await Reader.open(stack.brokers)
    yield opened
    await opened.close()


@pytest.fixture
async def connect_stack(stack: Stack) -> AsyncIterator[Callable[..., Any]]:
    """A function that opens connections to the stack's PostgreSQL."""
    opened: list[asyncpg.Connection] = []

    async def open_one() -> asyncpg.Connection:
        url = stack.addresses["DATABASE_URL"].replace("+asyncpg", "")
        opened.append(await asyncpg.connect(url, server_settings={"timezone": "UTC"}))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.terminate()


@pytest.fixture
async def outbox(connect_stack: Callable[..., Any]) -> asyncpg.Connection:
    """A connection to the stack's PostgreSQL."""
    return await connect_stack()


async def eventually(condition: Callable[[], bool], what: str, *, within_s: float = 20.0) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110  # It happens in other processes.
            await asyncio.sleep(0.2)
    assert condition(), what
