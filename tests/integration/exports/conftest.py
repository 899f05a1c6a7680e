"""A service of its own with many events, whose memory nobody else uses."""

from collections.abc import Iterator

import pytest

from tests.factories import make_experiment
from tests.integration.exports.many_events import Large, client_of, store_in_postgres
from tests.service_process import running_service


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Large]:
    with running_service(tmp_path_factory.mktemp("large") / "data") as service, client_of(service) as client:
        experiment = make_experiment(client)
        store_in_postgres(service, experiment)
        yield Large(service, client, experiment)
