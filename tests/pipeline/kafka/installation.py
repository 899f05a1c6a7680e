"""The whole platform as processes: the service, loaders and ClickHouse, on the servers of the stack."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from app.embedded.ports import LOOPBACK, free_port
from app.embedded.processes import read_pid
from tests.pipeline.kafka.conftest import Stack
from tests.pipeline.kafka.holding import HoldingProxy, holding_proxy
from tests.pipeline.kafka.loading import ClickHouseProgram, LoaderProcess, clickhouse_program, wait_for
from tests.service_process import TOKEN, ServiceProcess, experiment_body

# A line for every answer about results would be too many.
_LOG_LEVEL = "WARNING"
_STARTED_WITHIN_S = 120.0
_START_AGAIN_AFTER_S = 0.5
_TABLE = "events"


class Experiment(NamedTuple):
    id: int
    key: str


class Api:
    """A place for a process of the service, which has one address as if it were behind a balancer."""

    def __init__(self, data_dir: Path, variables: dict[str, str]) -> None:
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}"
        self._data_dir = data_dir
        self._variables = {**variables, "PORT": str(port)}
        self._process: ServiceProcess | None = None

    def start(self) -> None:
        """Start it until it runs, as what keeps it in production does: without PostgreSQL it ends at once."""
        give_up_at = time.monotonic() + _STARTED_WITHIN_S
        while self._process is None:
            try:
                self._process = ServiceProcess.start(self._data_dir, **self._variables)
            except AssertionError:
                if time.monotonic() >= give_up_at:
                    raise
                time.sleep(_START_AGAIN_AFTER_S)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def end(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)


class Loader:
    """A place for a loader: one process after the other."""

    def __init__(self, folder: Path, name: str, variables: dict[str, str]) -> None:
        self._folder = folder
        self._name = name
        self._variables = variables
        self._runs = 0
        self._process: LoaderProcess | None = None

    def start(self) -> None:
        """Start it; it is ready when it has joined its group, which nobody waits for here."""
        self._runs += 1
        self._process = LoaderProcess(self._folder / f"{self._name}-{self._runs}.log", self._variables)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def stop(self) -> None:
        """Stop it in good order."""
        if self._process is not None:
            wait_for(self._process.is_up, "the loader has begun")
            try:
                code = self._process.terminate()
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            assert code == 0, self._process.said()
            self._process = None

    def is_ready(self) -> bool:
        return self._process is not None and self._process.is_ready()


class Installation:
    """Processes of the service, loaders of one group, and a ClickHouse that nobody else fills.

    The first loader sees ClickHouse through a proxy, which can let it be killed at a chosen moment of an insert.
    """

    def __init__(self, stack: Stack, clickhouse: ClickHouseProgram, proxy: HoldingProxy, group_id: str) -> None:
        self.stack = stack
        self.clickhouse = clickhouse
        self.proxy = proxy
        self.group_id = group_id
        self.apis: list[Api] = []
        self.loaders: list[Loader] = []

    @property
    def urls(self) -> Sequence[str]:
        return [api.url for api in self.apis]

    @property
    def url(self) -> str:
        return self.apis[0].url

    def client(self) -> httpx.Client:
        return self.apis[0].client()

    @property
    def variables(self) -> dict[str, str]:
        """What a worker needs besides the stack's addresses."""
        return {**self.clickhouse.variables, "LOADER_GROUP_ID": self.group_id}

    def create_experiment(self, key: str, *allocations: float) -> Experiment:
        """Make a running experiment."""
        with self.client() as client:
            answer = client.post("/api/v1/experiments", json=experiment_body(key, *allocations)).raise_for_status()
        return Experiment(answer.json()["id"], key)

    def restart_postgres(self) -> None:
        """Have PostgreSQL end at once, as it does at an immediate stop; it is then started again."""
        if (pid := read_pid(self.stack.folder / "postgres.pid")) is not None:
            os.kill(pid, signal.SIGQUIT)


@contextmanager
def installed(
    stack: Stack, folder: Path, *, apis: int = 1, loaders: int = 1, **variables: str
) -> Iterator[Installation]:
    """Run everything for the length of the block; what runs at its end is ended."""
    group = f"loader-{folder.name}-{os.urandom(4).hex()}"
    with ExitStack() as running:
        clickhouse = running.enter_context(clickhouse_program(folder / "clickhouse"))
        proxy = running.enter_context(holding_proxy(clickhouse.port, table=_TABLE))
        installation = Installation(stack, clickhouse, proxy, group)
        names = ("DATABASE_URL", "REDIS_URL", "KAFKA_BOOTSTRAP_SERVERS")
        common = {
            **{name: stack.addresses[name] for name in names},
            **installation.variables,
            "LOG_LEVEL": _LOG_LEVEL,
            **variables,
        }
        for number in range(apis):
            api = Api(folder / f"api-{number}", common)
            installation.apis.append(api)
            running.callback(api.end)
            api.start()
        for number in range(loaders):
            through = {"CLICKHOUSE_PORT": str(proxy.port)} if number == 0 else {}
            loader = Loader(folder, f"loader-{number}", {**common, **through})
            installation.loaders.append(loader)
            running.callback(loader.kill)
            loader.start()
        for loader in installation.loaders:
            wait_for(loader.is_ready, "the loader is ready")
        yield installation
