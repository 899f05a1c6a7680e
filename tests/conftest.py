"""Fixtures for every test: one whole service for each worker, and clients with tokens and projects of their own."""

import signal
from collections.abc import Callable, Generator, Iterator
from typing import Any

import httpx
import hypothesis
import pytest
from _pytest.nodeid import coerce_node_id

from tests.factories import Json, unique
from tests.service_process import TOKEN, ServiceProcess, running_service

# Shared machines pause at will; a slow example is no failure. Where CI is set, Hypothesis draws the same in every run.
hypothesis.settings.register_profile(
    "project", deadline=None, max_examples=60, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("project")

# Whoever runs the tests in the background of a script has them ignore Ctrl-C, and their children with them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_LOG_TAIL_LINES = 25
_TIMEOUT_S = 30.0

MakeClient = Callable[..., httpx.Client]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A running service on embedded servers, one for each worker."""
    with running_service(tmp_path_factory.mktemp("service") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def second_service(service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Another process on the same PostgreSQL and Redis."""
    with running_service(tmp_path_factory.mktemp("second") / "data", **shared_stores(service)) as running:
        yield running


def shared_stores(service: ServiceProcess) -> dict[str, str]:
    """Return the variables with which another process uses this service's PostgreSQL and Redis."""
    lines = (service.data_dir / "urls.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line)


@pytest.fixture(scope="session")
def client_of() -> Iterator[MakeClient]:
    """Make clients of a service's API: `client_of(service, token=..., project=...)`; `token=None` sends none."""
    made: list[httpx.Client] = []

    def make(
        service: ServiceProcess, *, token: str | None = TOKEN, project: str | None = None, **headers: str
    ) -> httpx.Client:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if project is not None:
            headers["X-Project"] = project
        made.append(httpx.Client(base_url=f"{service.url}/api/v1", headers=headers, timeout=_TIMEOUT_S))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture(scope="session")
def client(service: ServiceProcess, client_of: MakeClient) -> httpx.Client:
    """A client that may do everything, in the default project."""
    return client_of(service)


@pytest.fixture(scope="session")
def root(service: ServiceProcess) -> Iterator[httpx.Client]:
    """A client of the paths outside the API, without a token."""
    with httpx.Client(base_url=service.url, timeout=_TIMEOUT_S) as without_token:
        yield without_token


@pytest.fixture(scope="session")
def make_token(client: httpx.Client) -> Callable[..., Json]:
    """Make a token: `make_token("events", project="*")`; the answer holds `id` and `token`."""

    def make(*scopes: str, **fields: Any) -> Json:
        created = client.post("/tokens", json={"name": unique("token"), "scopes": list(scopes), **fields})
        assert created.status_code == 201, created.text
        token: Json = created.json()
        return token

    return make


@pytest.fixture(scope="session")
def make_project(client: httpx.Client) -> Callable[[], str]:
    """Make a project and return its key."""

    def make() -> str:
        key = unique("project")
        created = client.post("/projects", json={"key": key, "name": "A project"})
        assert created.status_code == 201, created.text
        return key

    return make


@pytest.fixture
def empty_project(
    service: ServiceProcess, client_of: MakeClient, make_project: Callable[[], str]
) -> Iterator[httpx.Client]:
    """A client in a project in which there is nothing yet."""
    in_project = client_of(service, project=make_project())
    yield in_project
    in_project.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of an `xdist_group` on one worker.

    xdist 3.8 appends the group to `_nodeid`, which pytest 9.2 does not read any more, so that its groups come apart.
    """
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        if (group := item.get_closest_marker("xdist_group")) is not None:
            item._id = coerce_node_id(f"{item.nodeid}@{group.args[0]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the services said last beside a test that failed."""
    report = yield
    if call.when == "call" and report.failed and isinstance(item, pytest.Function):
        for name, value in item.funcargs.items():
            if isinstance(value, ServiceProcess):
                report.sections.append((f"log of {name}", "\n".join(value.said().splitlines()[-_LOG_TAIL_LINES:])))
    return report
