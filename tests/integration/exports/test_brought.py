"""Exports of what PostgreSQL has dropped and ClickHouse still has: the same bytes as before, or a refusal."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.core.db import StoreUnavailable
from app.experiments.population import ExposureRule, Population
from app.experiments.values import Experiment
from app.exports import bringing, history
from app.exports.bringing import Bringing
from app.exports.copying import Copying
from app.exports.gaps import Gaps
from app.exports.history import HistoryPages
from app.exports.service import ExportService, write_file
from app.exports.statements import (
    ASSIGNMENT_COLUMNS,
    EVENT_COLUMNS,
    FREEZE,
    SNAPSHOT,
    Rows,
    assignment_rows,
    event_rows,
)
from app.exports.values import ExportFormat
from app.results.errors import NoSourceAvailable, StoreDropped
from app.results.values import Question, Subject
from tests.integration.exports.stores import assignments_of, deliver, drop, events_of, exporting, restore
from tests.integration.results import test_equality as histories
from tests.integration.results.services import Bench, BrokenClickHouse
from tests.integration.results.world import FAR, Assigned, Happened, History, World

_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_DAY = timedelta(days=1)
_BEFORE = _T0 + 2 * _DAY
_ALL = Question()


@pytest.fixture(scope="module")
def world(database: Any, clickhouse: Any) -> World:
    return World(database, clickhouse)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page for every few rows, and a batch for every two pages."""
    monkeypatch.setattr(history, "_MARK_EVERY_BYTES", 256)
    monkeypatch.setattr(history, "_MARKS_IN_PAGE", 1)
    monkeypatch.setattr(bringing, "_PAGES_IN_BATCH", 2)


@pytest.fixture(autouse=True)
async def undropped(world: World) -> AsyncIterator[None]:
    yield
    await restore(world)


@pytest.fixture
def bench() -> Bench:
    return Bench(watermark=FAR)


@pytest.fixture
async def service(world: World, bench: Bench) -> AsyncIterator[ExportService]:
    async with exporting(world, bench) as running:
        yield running


def _lines(form: ExportFormat, content: bytes) -> list[Any]:
    """Return a file's lines, or rows, whose order nothing says."""
    match form:
        case ExportFormat.CSV:
            head, *lines = content.split(b"\r\n")
            return [head, *sorted(lines)]
        case ExportFormat.JSON:
            assert content.startswith(b"[")
            return sorted(line.lstrip(b"[,") for line in content.splitlines())
        case ExportFormat.PARQUET:
            return sorted(map(repr, parquet.read_table(pa.BufferReader(content)).to_pylist()))


_ODD = (
    *("=1+1", 'a,b;"c"', "\\N", "\\.", "\\\\n", "null", " ", "'", "é😀", "\u2028line", "}{][", "x" * 256, "tab?", "/a"),
    *("a\u0301", "\U0010ffff"),
)
_VALUES = (None, 0.0, 0.1 + 0.2, 5e-324, -1.7976931348623157e308, 1e22, 1e23, 1e15, 123456789012345.6, 1e-5, 2**53 + 2)
_PROPERTIES: tuple[dict[str, Any] | None, ...] = (
    None,
    {"text": 'line\nbreak\ttab, "quoted" \\ / é😀\u2028', "deep": [{"n": None}, 1.5, True, {}], "": 0},
    {"n": 1e300, "small": 1e-7, "big": 12345678901234567890, "empty": {}, "\\": "\\N", "b\bf\f": "\r"},
)


async def _odd_world(world: World) -> Experiment:
    experiment = await world.experiment()
    users = [Assigned(user, index % 2, _T0, _T0, {"c": index}) for index, user in enumerate(_ODD)]
    events = [
        Happened(
            user,
            f"type {index % 3} \\ 'é'",
            _T0 + timedelta(hours=7 * (index + turn) - 24, microseconds=index),
            _T0 + timedelta(hours=7 * (index + turn), microseconds=turn),
            _VALUES[(index + 5 * turn) % len(_VALUES)],
            ("none", "this", "another")[(index + turn) % 3],
            event_id=uuid4(),
            properties=_PROPERTIES[(index + turn) % 3],
        )
        for index, user in enumerate((*_ODD, "stranger"))
        for turn in range(3)
    ]
    await world.store_hot(experiment, History(users, (), events))
    return experiment


@pytest.mark.parametrize("form", list(ExportFormat))
async def test_events__dropped_by_postgresql__are_exported_as_before_to_the_last_byte(
    world: World, service: ExportService, form: ExportFormat
) -> None:
    experiment = await _odd_world(world)
    questions = (_ALL, Question(start=_T0 + _DAY / 2, end=_T0 + 3 * _DAY), Question(event_types=("type 1 \\ 'é'",)))

    async def exports() -> list[list[Any]]:
        return [
            _lines(form, await events_of(service, experiment, form, question, counted=counted))
            for question in questions
            for counted in (True, False)
        ]

    before = await exports()
    await deliver(world, experiment, FAR)
    await drop(world, experiment, _BEFORE)

    assert len({len(lines) for lines in before}) > 3
    assert await exports() == before


class _Exporter:
    """Exports as the service does, for subjects of any population."""

    def __init__(self, world: World, bench: Bench) -> None:
        self._copying = Copying(world.database)
        self._bringing = Bringing(self._copying, HistoryPages(world.clickhouse))
        self._gaps = Gaps(database=world.database, clickhouse=world.clickhouse, watermark=bench.read_watermark)
        self.gaps = 0

    async def events(self, form: ExportFormat, subject: Subject, question: Question, *, counted: bool) -> list[Any]:
        async def copy(gap: Any, outlet: Any) -> None:
            if gap is None:
                return await self._copy(event_rows(subject, question, counted=counted), outlet)
            self.gaps += 1
            return await self._bringing.events(subject, question, gap, outlet, counted=counted)

        return await self._made(
            form, EVENT_COLUMNS, lambda: self._gaps.of_events(subject, question, counted=counted), copy
        )

    async def assignments(self, form: ExportFormat, subject: Subject) -> list[Any]:
        async def copy(gap: Any, outlet: Any) -> None:
            if gap is None:
                return await self._copy(assignment_rows(subject), outlet)
            self.gaps += 1
            return await self._bringing.assignments(subject, gap, outlet)

        return await self._made(form, ASSIGNMENT_COLUMNS, lambda: self._gaps.of_assignments(subject), copy)

    async def _copy(self, rows: Rows, outlet: Any) -> None:
        await self._copying.copy(outlet.statement(rows), rows.parameters, outlet.form, outlet.take)

    async def _made(self, form: ExportFormat, columns: Any, find: Any, copy: Any) -> list[Any]:
        pieces: list[bytes] = []

        async def write(piece: bytes) -> None:
            pieces.append(piece)

        await write_file(form, columns, write, find, copy)
        return _lines(form, b"".join(pieces))


# Every example takes dozens of round trips, so shrinking would take minutes.
_MANY = settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


@_MANY
@given(
    stored=histories._histories(histories._any_values.map(lambda value: value + 0.0)),
    question=histories._questions,
    population=histories._populations,
    before=histories._moments,
    known_for=st.timedeltas(timedelta(0), timedelta(hours=6)),
    form=st.sampled_from([ExportFormat.CSV, ExportFormat.JSON]),
)
async def test_exports__any_history_partly_dropped__are_as_before(
    world: World,
    bench: Bench,
    stored: History,
    question: Question,
    population: Population,
    before: datetime,
    known_for: timedelta,
    form: ExportFormat,
) -> None:
    experiment = replace(await world.experiment(["50", "30", "20"]), population=population)
    subject, exporter = Subject.of(experiment), _Exporter(world, bench)
    asked = replace(question, breakdown=None)
    bench.watermark = before + known_for

    async def exports() -> list[Any]:
        return [
            await exporter.events(form, subject, asked, counted=True),
            await exporter.events(form, subject, replace(asked, context=()), counted=False),
            await exporter.assignments(form, subject),
        ]

    await world.store_hot(experiment, stored)
    complete = await exports()
    await deliver(world, experiment, before + known_for)
    await drop(world, experiment, before)
    try:
        assert await exports() == complete
    finally:
        await restore(world)
    assert exporter.gaps > 0


async def _plain_world(world: World, **population: Any) -> Experiment:
    """Store two users with an event a day each, and what exposes them on the first one."""
    experiment = await world.experiment()
    if population:
        async with world.database.begin() as connection:
            await connection.execute(
                text("UPDATE experiments SET population = CAST(:population AS jsonb) WHERE id = :id"),
                {"id": experiment.id, "population": json.dumps(population)},
            )
    users = [Assigned(user, index, _T0, _T0) for index, user in enumerate("ab")]
    events = [
        Happened(user, kind, _T0 + day * _DAY, _T0 + day * _DAY, 1.0, event_id=UUID(int=100 * day + index + kind_id))
        for day in range(5)
        for index, user in enumerate("ab")
        for kind, kind_id in (("exposure", 10), ("buy", 20))
    ]
    await world.store_hot(experiment, History(users, (), events))
    await deliver(world, experiment, FAR)
    return experiment


async def _give_up(world: World, before: datetime) -> None:
    record = {"ingested_before": before, "decided_at": before}
    await world.clickhouse.insert_json("dropped_history", [msgspec.json.encode(record)])


@pytest.mark.parametrize("watermark", [None, _BEFORE - timedelta(microseconds=1)])
async def test_events__dropped_and_history_not_known_to_have_them__is_unavailable(
    world: World, service: ExportService, bench: Bench, watermark: datetime | None
) -> None:
    experiment = await _plain_world(world)
    await drop(world, experiment, _BEFORE)
    bench.watermark = watermark

    for counted in (True, False):
        with pytest.raises(NoSourceAvailable, match="EVENTS_RETENTION_DAYS"):
            await events_of(service, experiment, ExportFormat.CSV, _ALL, counted=counted)
    with pytest.raises(NoSourceAvailable, match="ClickHouse does not answer"):
        await assignments_of(service, experiment, ExportFormat.CSV)


async def test_events__dropped_and_history_away__later_ones_are_exported(world: World, bench: Bench) -> None:
    experiment = await _plain_world(world)
    await drop(world, experiment, _BEFORE)
    later = Question(start=_BEFORE + _DAY)

    async with exporting(world, bench, BrokenClickHouse()) as service:
        with pytest.raises(NoSourceAvailable):
            await events_of(service, experiment, ExportFormat.CSV, _ALL, counted=True)
        content = await events_of(service, experiment, ExportFormat.CSV, later, counted=True)

    assert len(_lines(ExportFormat.CSV, content)) == 2 + 2 * 4


async def test_events__given_up_by_both__are_refused_but_from_a_later_start(
    world: World, service: ExportService
) -> None:
    experiment = await _plain_world(world)
    await drop(world, experiment, _BEFORE + _DAY)
    complete = await events_of(service, experiment, ExportFormat.CSV, Question(start=_T0 + 2 * _DAY), counted=False)
    await _give_up(world, _T0 + _DAY)
    try:
        for counted in (True, False):
            with pytest.raises(StoreDropped, match="HISTORY_RETENTION_DAYS") as refused:
                await events_of(service, experiment, ExportFormat.CSV, _ALL, counted=counted)
            complete_from = str(refused.value.extensions["complete_from"])
            assert complete_from == (_T0 + 2 * _DAY).isoformat()
            later = Question(start=datetime.fromisoformat(complete_from))
            content = await events_of(service, experiment, ExportFormat.CSV, later, counted=counted)
            assert _lines(ExportFormat.CSV, content) == _lines(ExportFormat.CSV, complete)
        # Every assignment is there.
        assert len(_lines(ExportFormat.CSV, await assignments_of(service, experiment, ExportFormat.CSV))) == 2 + 2
    finally:
        await world.clickhouse.command("TRUNCATE TABLE dropped_history")


async def test_events__exposures_given_up_by_both__say_that_all_can_be_exported_uncounted(
    world: World, bench: Bench
) -> None:
    experiment = await _plain_world(world)
    subject = replace(Subject.of(experiment), population=Population(ExposureRule.EVENT))
    await drop(world, experiment, _BEFORE)
    await _give_up(world, _T0 + _DAY)
    exporter, later = _Exporter(world, bench), Question(start=_T0 + 4 * _DAY)
    try:
        with pytest.raises(StoreDropped, match="With counted=false they can be exported from start_date="):
            await exporter.events(ExportFormat.CSV, subject, later, counted=True)
        assert len(await exporter.events(ExportFormat.CSV, subject, later, counted=False)) == 2 + 4
        assert exporter.gaps == 0
    finally:
        await world.clickhouse.command("TRUNCATE TABLE dropped_history")


async def test_events__history_exchanged_meanwhile__never_look_whole(world: World, service: ExportService) -> None:
    experiment = await _plain_world(world)
    await drop(world, experiment, _BEFORE)
    marker = {"id": str(uuid4()), "generation": 1}
    pieces: list[bytes] = []

    async def write(piece: bytes) -> None:
        if not pieces:
            await world.clickhouse.insert_json("history_marker", [msgspec.json.encode(marker)])
        pieces.append(piece)

    export = await service.events(experiment.project_id, experiment.key, ExportFormat.JSON, _ALL, counted=True)
    try:
        with pytest.raises(StoreUnavailable, match="exchanged"):
            await export.produce(write)
    finally:
        await world.clickhouse.command("TRUNCATE TABLE history_marker")

    assert pieces
    assert not b"".join(pieces).endswith(b"]\n")


async def test_events__being_brought_to_a_slow_reader__hold_up_no_transaction(
    world: World, service: ExportService
) -> None:
    experiment = await _plain_world(world)
    await drop(world, experiment, _BEFORE)
    pieces: list[bytes] = []

    async def write(piece: bytes) -> None:
        # The reader takes nothing more until no transaction has an id: so none that has one waits for the reader.
        async with asyncio.timeout(10):
            while await _transaction_ids_of_exports(world):  # noqa: ASYNC110  # What is awaited is PostgreSQL.
                await asyncio.sleep(0.01)
        pieces.append(piece)

    export = await service.events(experiment.project_id, experiment.key, ExportFormat.CSV, _ALL, counted=True)
    await export.produce(write)

    # Some of the newer events, and some of the older ones.
    assert len(pieces) >= 2


async def _transaction_ids_of_exports(world: World) -> list[int]:
    """Return the ids of running transactions; a connection that has just ended clears away its tables in one."""
    async with world.database.read() as connection:
        found = await connection.execute(
            text(
                "SELECT CAST(CAST(backend_xid AS text) AS bigint) FROM pg_stat_activity WHERE backend_xid IS NOT NULL"
                " AND application_name = 'experimentation-export' AND datname = current_database()"
            )
        )
        return list(found.scalars())


async def test_events__month_dropped_while_the_export_begins__is_asked_for_again(
    world: World, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = await _plain_world(world)
    await drop(world, experiment, _BEFORE)
    subject, exporter = Subject.of(experiment), _Exporter(world, bench)
    read = HistoryPages.read

    async def dropping(self: HistoryPages, wanted: history.Wanted) -> AsyncIterator[bytes]:
        async with world.database.begin() as connection:
            await connection.execute(
                text("UPDATE dropped_partitions SET upper_bound = :before WHERE name = 'events_p'"),
                {"before": _BEFORE + _DAY},
            )
        async for page in read(self, wanted):
            yield page

    monkeypatch.setattr(HistoryPages, "read", dropping)
    with pytest.raises(StoreUnavailable, match="just now"):
        await exporter.events(ExportFormat.CSV, subject, _ALL, counted=True)


async def test_freeze__rows_written_and_months_dropped_afterwards__are_not_seen_and_wait(world: World) -> None:
    experiment = await _plain_world(world)
    of_project = "SELECT count(*) AS number FROM events WHERE project_id = $1"
    async with Copying(world.database).session(writes=True) as session:
        await session.run(FREEZE)
        assert (await session.rows(SNAPSHOT))[0]["dropped_before"] is None
        (before,) = await session.rows(of_project, experiment.project_id)
        await world.store_hot(experiment, History((), (), [Happened("a", "buy", _T0 + _DAY, _T0 + _DAY)]))
        (after,) = await session.rows(of_project, experiment.project_id)
        async with world.database.begin() as connection:
            await connection.execute(text("SET LOCAL lock_timeout = '50ms'"))
            with pytest.raises(DBAPIError, match="lock timeout"):
                await connection.execute(text("LOCK TABLE events IN ACCESS EXCLUSIVE MODE"))
            await connection.rollback()

    assert before["number"] == after["number"] == 20
