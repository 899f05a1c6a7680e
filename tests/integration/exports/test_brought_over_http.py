"""Events brought back through ClickHouse's HTTP interface, and what the API's callers see of it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import clickhouse_connect
import httpx
import msgspec
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from app.core.clickhouse import ClickHouse, ClickHouseUnavailable
from app.core.problems import install_problem_handlers
from app.core.settings import ClickHouseSettings
from app.experiments.values import Experiment
from app.exports import history
from app.exports.router import router
from app.exports.values import ExportFormat
from app.results.values import Question
from tests.integration.exports.stores import deliver, drop, events_of, exporting, restore
from tests.integration.results.services import Bench
from tests.integration.results.test_http import OpenGate
from tests.integration.results.world import FAR, Assigned, Happened, History, World
from tests.pipeline import clickhouse_http
from tests.pipeline.clickhouse_http import Fault

_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_BEFORE = _T0 + 60 * _HOUR
_PAGES = b"nullIf(properties"


@pytest.fixture(scope="module")
def world(database: Any, clickhouse: ClickHouse) -> World:
    return World(database, clickhouse)


@pytest.fixture(autouse=True)
async def undropped(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(history, "_MARK_EVERY_BYTES", 512)
    yield
    await restore(world)


@pytest.fixture
async def experiment(world: World) -> Experiment:
    made = await world.experiment()
    users = [Assigned(f"user {number} é'\\\t", number % 2, _T0, _T0) for number in range(20)]
    events = [
        Happened(user.user_id, f"a 'type'\\ {turn % 2}", at, at, turn / 3, properties={"n": [number, "\t\\\n'é"]})
        for number, user in enumerate(users)
        for turn in range(10)
        for at in [_T0 + 10 * turn * _HOUR + number * timedelta(microseconds=1)]
    ]
    await world.store_hot(made, History(users, (), events))
    await deliver(world, made, FAR)
    return made


@contextmanager
def _serving(engine_folder: Path, fault: Fault | None = None) -> Iterator[int]:
    def connect(**options: Any) -> Any:
        return clickhouse_connect.get_client(interface="chdb", path=str(engine_folder), tz_mode="aware", **options)

    with clickhouse_http.serving(connect, misbehave=lambda sql: fault if _PAGES in sql else None) as port:
        yield port


@asynccontextmanager
async def _server(world: World, port: int) -> AsyncIterator[ClickHouse]:
    settings = ClickHouseSettings(
        CLICKHOUSE_HOST="127.0.0.1",
        CLICKHOUSE_PORT=port,
        CLICKHOUSE_DATABASE=world.clickhouse.database,
        CLICKHOUSE_USER=clickhouse_http.USER,
        CLICKHOUSE_PASSWORD=SecretStr(clickhouse_http.PASSWORD),
    )
    server = await ClickHouse.connect_server(settings)
    yield server
    await server.close()


async def test_events__history_behind_http__are_exported_as_before(
    world: World, engine_folder: Path, experiment: Experiment
) -> None:
    with _serving(engine_folder) as port:
        async with _server(world, port) as server, exporting(world, Bench(watermark=FAR), server) as service:
            before = await events_of(service, experiment, ExportFormat.CSV, Question(), counted=True)
            await drop(world, experiment, _BEFORE)
            after = await events_of(service, experiment, ExportFormat.CSV, Question(), counted=True)

    assert len(before.splitlines()) == 1 + 200
    assert sorted(after.splitlines()) == sorted(before.splitlines())


@pytest.mark.parametrize("fault", [Fault.RESET_AFTERWARDS, Fault.CUT, Fault.CUT_CHUNKS, Fault.EXCEPTION, Fault.BUSY])
async def test_events__page_goes_wrong_on_its_way__never_look_whole(
    world: World, engine_folder: Path, experiment: Experiment, fault: Fault
) -> None:
    await drop(world, experiment, _BEFORE)
    pieces: list[bytes] = []

    async def write(piece: bytes) -> None:
        pieces.append(piece)

    with _serving(engine_folder, fault) as port:
        async with _server(world, port) as server, exporting(world, Bench(watermark=FAR), server) as service:
            export = await service.events(
                experiment.project_id, experiment.key, ExportFormat.JSON, Question(), counted=True
            )
            # PostgreSQL does not take an exception's text for an event.
            with pytest.raises(asyncpg.DataError if fault is Fault.EXCEPTION else ClickHouseUnavailable):
                await export.produce(write)

    assert not b"".join(pieces).endswith(b"]\n")


async def test_endpoint__events_dropped__answers_or_says_what_is_in_the_way(
    world: World, experiment: Experiment
) -> None:
    await drop(world, experiment, _BEFORE)
    bench, gate, api = Bench(watermark=FAR), OpenGate(), FastAPI()
    gate.project_id = experiment.project_id
    install_problem_handlers(api, [])
    api.include_router(router)
    path, query = f"/experiments/{experiment.key}/export", {"of": "events"}
    async with exporting(world, bench) as service:
        api.state.services = SimpleNamespace(gate=gate, exports=service)
        transport = httpx.ASGITransport(app=api)
        async with httpx.AsyncClient(transport=transport, base_url="http://test/api/v1") as client:
            whole = await client.get(path, params=query)
            bench.watermark = None
            away = await client.get(path, params=query)
            bench.watermark = FAR
            given_up = {"ingested_before": _T0 + _HOUR, "decided_at": _T0}
            await world.clickhouse.insert_json("dropped_history", [msgspec.json.encode(given_up)])
            gone = await client.get(path, params=query)
            await world.clickhouse.command("TRUNCATE TABLE dropped_history")

    assert whole.status_code == 200
    assert len(whole.content.splitlines()) == 1 + 200
    assert (away.status_code, away.json()["type"].rpartition(":")[2]) == (503, "results-unavailable")
    assert (gone.status_code, gone.json()["type"].rpartition(":")[2]) == (409, "events-dropped")
    assert gone.json()["complete_from"] == (_T0 + 25 * _HOUR).isoformat()
