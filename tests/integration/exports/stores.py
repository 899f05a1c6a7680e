"""An export service on real stores, of which PostgreSQL gives up events as a test says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from sqlalchemy import text

from app.assignments.messages import ASSIGNED_PAYLOAD, OVERRIDDEN_PAYLOAD
from app.core.changes import Changes
from app.core.clickhouse import ClickHouse
from app.events.messages import RECORDED_PAYLOAD
from app.experiments.registry import ExperimentRegistry
from app.experiments.values import Experiment
from app.exports.service import ExportService
from app.exports.values import Export, ExportFormat
from app.results.values import Question
from tests.integration.results.services import Bench, running_service
from tests.integration.results.world import World

_COPY = "SELECT CAST({payload} AS text) FROM {table} AS stored WHERE {of} AND ingested_at < :watermark"
_OF_PROJECT, _OF_EXPERIMENT = "project_id = :project_id", "experiment_id = :experiment_id"
_COPIES = {
    "events": _COPY.format(payload=RECORDED_PAYLOAD, table="events", of=_OF_PROJECT),
    "exposures": _COPY.format(payload=ASSIGNED_PAYLOAD, table="assignments", of=_OF_EXPERIMENT),
    "overrides": _COPY.format(payload=OVERRIDDEN_PAYLOAD, table="overrides", of=_OF_EXPERIMENT),
}


@asynccontextmanager
async def exporting(world: World, bench: Bench, clickhouse: ClickHouse | None = None) -> AsyncIterator[ExportService]:
    """Run a service; `clickhouse` is its history, if it is another one than the world's."""
    changes = Changes(world.database)
    registry = ExperimentRegistry(world.database, changes)
    await changes.start()
    world.followers.append(changes)
    async with running_service(world, bench, clickhouse=world.clickhouse) as results:
        yield ExportService(
            database=world.database,
            clickhouse=clickhouse or world.clickhouse,
            registry=registry,
            watermark=bench.read_watermark,
            results=results,
        )
    world.followers.remove(changes)
    await changes.stop()


async def deliver(world: World, experiment: Experiment, watermark: datetime) -> None:
    """Bring what was ingested before the watermark into ClickHouse, twice, as the outbox says it."""
    values = {"project_id": experiment.project_id, "experiment_id": experiment.id, "watermark": watermark}
    async with world.database.read() as connection:
        for table, sql in _COPIES.items():
            lines = [line.encode() for line in (await connection.execute(text(sql), values)).scalars()]
            # In another order, or ClickHouse would know the insert again.
            for delivered in (lines, lines[1:] + lines[:1]):
                await world.clickhouse.insert_json(table, delivered)


async def drop(world: World, experiment: Experiment, before: datetime) -> None:
    """Do to the experiment's events what retention does to months."""
    async with world.database.begin() as connection:
        await connection.execute(
            text("DELETE FROM events WHERE project_id = :project_id AND ingested_at < :before"),
            {"project_id": experiment.project_id, "before": before},
        )
        await connection.execute(
            text("INSERT INTO dropped_partitions (name, upper_bound, row_count) VALUES ('events_p', :before, 0)"),
            {"before": before},
        )


async def restore(world: World) -> None:
    async with world.database.begin() as connection:
        await connection.execute(text("DELETE FROM dropped_partitions WHERE name = 'events_p'"))


async def events_of(
    service: ExportService, experiment: Experiment, form: ExportFormat, question: Question, *, counted: bool
) -> bytes:
    return await _made(await service.events(experiment.project_id, experiment.key, form, question, counted=counted))


async def assignments_of(service: ExportService, experiment: Experiment, form: ExportFormat) -> bytes:
    return await _made(await service.assignments(experiment.project_id, experiment.key, form))


async def _made(export: Export) -> bytes:
    pieces: list[bytes] = []

    async def write(piece: bytes) -> None:
        pieces.append(piece)

    await export.produce(write)
    return b"".join(pieces)
