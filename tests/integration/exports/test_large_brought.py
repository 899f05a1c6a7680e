"""Many events of which PostgreSQL has dropped most: exact in each form, in bounded memory and time, over HTTP."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.factories import Json, make_experiment, unique
from tests.integration.exports.many_events import (
    EVENTS,
    FORMS,
    MIB,
    USERS,
    Large,
    check_export,
    client_of,
    store_in_postgres,
)
from tests.service_process import ServiceProcess, ask_history, running_service, wait_for_history, wait_until

# The engine of ClickHouse is in the same process here, and keeps what it has read of files for a while.
_MOST_GROWTH = 320 * MIB
_LONGEST_S = 30.0 * max(1.0, EVENTS / 500_000)
_DROPPED_BEFORE = datetime(2026, 2, 1, tzinfo=UTC)
_KEPT = 4  # What PostgreSQL still has: every fourth event.
# Some of them twice.
_DROPPED_EVENTS = """
INSERT INTO events
SELECT {project_id}, toUUID(concat('00000000-0000-0000-0000-', leftPad(lower(hex(i)), 12, '0'))), NULL,
    concat('user-', toString(i % {users})), concat('type ', toString(i % 5)),
    toDateTime64('2026-01-02 00:00:00', 6, 'UTC') + toIntervalMicrosecond(i), i / 7.,
    if(i % 3 = 0, concat('{{"i": ', toString(i), '}}'), '{{}}'),
    toDateTime64('2026-01-02 00:00:00', 6, 'UTC') + toIntervalMicrosecond(i)
FROM (SELECT number AS i FROM numbers({events})) WHERE i % {kept} <> 0 AND i % {every} = 0
"""
_EXPOSURES = """
INSERT INTO exposures
SELECT {experiment_id}, concat('user-', toString(number)), [{variants}][1 + number % 2], 'hash', 1, '{{}}',
    toDateTime64('2026-01-01 00:00:00', 6, 'UTC'), toDateTime64('2026-01-01 00:00:00', 6, 'UTC')
FROM numbers({users})
"""

pytestmark = pytest.mark.xdist_group("large-export-brought")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("brought") / "data"


@pytest.fixture(scope="module")
def brought(data_dir: Path) -> Iterator[Large]:
    """Run a service whose PostgreSQL lacks most events."""
    with running_service(data_dir) as service, client_of(service) as client:
        experiment = make_experiment(client)
        project_id = store_in_postgres(service, experiment, every=_KEPT)
        service.rows(
            "INSERT INTO dropped_partitions (name, upper_bound, row_count) VALUES ('events_p202601', $1, 1)",
            _DROPPED_BEFORE,
        )
    values = {
        "project_id": project_id,
        "experiment_id": experiment["id"],
        "variants": ", ".join(str(variant["id"]) for variant in experiment["variants"]),
        "users": USERS,
        "events": EVENTS,
        "kept": _KEPT,
    }
    # The engine's folder is one process's at a time.
    for sql, every in ((_EXPOSURES, 1), (_DROPPED_EVENTS, 1), (_DROPPED_EVENTS, 10)):
        ask_history(data_dir, sql.format(**values, every=every))
    with running_service(data_dir) as service, client_of(service) as client:
        _wait_for_history(service, experiment)
        yield Large(service, client, experiment)


def _wait_for_history(service: ServiceProcess, experiment: Json) -> None:
    with service.client(timeout_s=120) as client:
        wait_for_history(client, experiment["key"])


@pytest.mark.parametrize("form", FORMS)
def test_export__most_events_dropped__is_exact_in_bounded_memory_and_time(
    brought: Large, form: str, tmp_path: Path
) -> None:
    check_export(brought, form, tmp_path, most_growth=_MOST_GROWTH, longest_s=_LONGEST_S)


def test_export__events_by_the_stream_and_dropped__is_as_before_to_the_last_byte(brought: Large) -> None:
    client = brought.client
    experiment = make_experiment(client)
    user = unique("user")
    assert client.get(f"/experiments/{experiment['key']}/assignment/{user}").json()["enrolled"]
    events = [
        {
            "user_id": user,
            "event_type": unique("é"),
            "value": value,
            "properties": {"text": f'{value} "\\/ é😀\u2028\n', "deep": [{"n": None}, 1e300, {}], "": 0},
        }
        for value in (None, 0.1 + 0.2, 5e-324, 1e22, 1e23, -1.7976931348623157e308, 0)
    ]
    assert client.post("/events/batch", json={"events": events}).json()["accepted"] == len(events)
    _wait_for_history(brought.service, experiment)
    path, query = f"/experiments/{experiment['key']}/export", {"of": "events", "format": "csv"}
    before = client.get(path, params=query)
    everything = client.get(path, params=query | {"counted": "false"})
    brought.service.rows("DELETE FROM events WHERE user_id = $1", user)
    dropped = "INSERT INTO dropped_partitions (name, upper_bound, row_count) VALUES ('now', clock_timestamp(), 1)"
    brought.service.rows(dropped)
    # The watermark has to pass what was dropped.
    _wait_for_history(brought.service, experiment)
    try:
        after = client.get(path, params=query)
        assert sorted(after.content.splitlines()) == sorted(before.content.splitlines())
        assert len(after.content.splitlines()) == 1 + len(events)
        again = client.get(path, params=query | {"counted": "false"})
        assert sorted(again.content.splitlines()) == sorted(everything.content.splitlines())
    finally:
        brought.service.rows("DELETE FROM dropped_partitions WHERE name = 'now'")


def test_export__client_gone_while_events_are_brought__frees_connections_and_its_turn(brought: Large) -> None:
    for _ in range(3):
        query = {"of": "events", "format": "csv"}
        with brought.client.stream("GET", brought.path, params=query) as response:
            next(response.iter_bytes())
        wait_until(lambda: brought.exporting() == [], "the connections are free")
