"""Histories written straight into both stores, with ingestion times that a test chooses."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.changes import Changes
from app.core.clickhouse import ClickHouse
from app.core.db import Database
from app.experiments.registry import TOPIC
from app.experiments.repository import ExperimentRepository
from app.experiments.values import Experiment

_numbers = itertools.count(1)

# Later than everything in any history.
FAR = datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Assigned:
    """A stored assignment."""

    user_id: str
    variant: int
    at: datetime
    ingested_at: datetime
    context: dict[str, Any] | None = None


@dataclass(frozen=True)
class Overridden:
    """The newest state of an override."""

    user_id: str
    variant: int
    at: datetime
    ingested_at: datetime
    removed: bool = False


@dataclass(frozen=True)
class Happened:
    """A stored event. `experiment` and `project` tell whether it names this one, another, or none."""

    user_id: str
    event_type: str
    ts: datetime
    ingested_at: datetime
    value: float | None = None
    names: str = "none"
    foreign: bool = False
    event_id: UUID = field(default_factory=uuid4)
    properties: dict[str, Any] | None = None


@dataclass(frozen=True)
class History:
    """Everything that is stored about one experiment."""

    assignments: Sequence[Assigned] = ()
    overrides: Sequence[Overridden] = ()
    events: Sequence[Happened] = ()


class World:
    """Makes experiments, each in a project of its own, and stores histories of them."""

    def __init__(self, database: Database, clickhouse: ClickHouse) -> None:
        self.database = database
        self.clickhouse = clickhouse
        self.followers: list[Changes] = []

    async def experiment(
        self, allocations: Sequence[str] = ("50", "50"), *, status: str = "running", key: str | None = None
    ) -> Experiment:
        """Store an experiment whose first variant is the control; keys are `control`, `treatment_1`, ..."""
        number = next(_numbers)
        async with self.database.begin() as connection:
            epoch = await _insert(
                connection, "UPDATE change_epochs SET epoch = epoch + 1 WHERE topic = 'experiments' RETURNING epoch"
            )
            project_id = await _insert(
                connection, "INSERT INTO projects (key, name) VALUES (:key, 'Test') RETURNING id", key=f"p{uuid4().hex}"
            )
            experiment_id = await _insert(
                connection,
                "INSERT INTO experiments (project_id, key, name, status, seed, traffic_pct, started_at, ended_at,"
                " change_epoch) VALUES (:project_id, :key, 'Test', :status, 'seed', 100, now(), now(), :epoch)"
                " RETURNING id",
                epoch=epoch,
                project_id=project_id,
                key=key or f"e{number}",
                status=status,
            )
            start = 0
            for position, allocation in enumerate(allocations):
                end = start + int(Decimal(allocation) * 100)
                await _insert(
                    connection,
                    "INSERT INTO variants (experiment_id, key, name, position, allocation_pct, is_control,"
                    " bucket_start, bucket_end) VALUES (:experiment_id, :key, 'Test', :position, :allocation,"
                    " :is_control, :start, :end) RETURNING id",
                    experiment_id=experiment_id,
                    key="control" if position == 0 else f"treatment_{position}",
                    position=position,
                    allocation=Decimal(allocation),
                    is_control=position == 0,
                    start=start,
                    end=end,
                )
                start = end
            experiment = await ExperimentRepository(connection).get(experiment_id)
        for follower in self.followers:
            await follower.settle(TOPIC, epoch)
        return experiment

    async def store(self, experiment: Experiment, history: History) -> None:
        """Write a history into both stores."""
        await self.store_hot(experiment, history)
        await self.store_cold(experiment, history)

    async def store_hot(self, experiment: Experiment, history: History) -> None:
        async with self.database.begin() as connection:
            for assigned in history.assignments:
                row = _exposure_row(experiment, assigned) | {"context": _json(assigned.context)}
                await connection.execute(_ASSIGN, row)
            for overridden in history.overrides:
                row = _override_row(experiment, overridden)
                await connection.execute(_OVERRIDE, row | ({"variant_id": None} if overridden.removed else {}))
            for event in history.events:
                await connection.execute(_HAPPEN, _event_row(experiment, event))

    async def store_cold(self, experiment: Experiment, history: History) -> None:
        """Write a history into ClickHouse in the order given; what is given twice is delivered twice."""
        exposures = [
            _exposure_row(experiment, assigned)
            | {"source": "hash", "experiment_version": 1, "context": _json(assigned.context) or "{}"}
            for assigned in history.assignments
        ]
        overrides = [
            _override_row(experiment, overridden) | {"epoch": 1 + index}
            for index, overridden in enumerate(history.overrides)
        ]
        events = [_event_row(experiment, event) for event in history.events]
        events = [row | {"properties": row["properties"] or "{}"} for row in events]
        await self.clickhouse.insert_json("experiments", _lines([_experiment_row(experiment)]))
        await self.clickhouse.insert_json("exposures", _lines(exposures))
        await self.clickhouse.insert_json("overrides", _lines(overrides))
        await self.clickhouse.insert_json("events", _lines(events))


_ASSIGN = text(
    "INSERT INTO assignments (experiment_id, user_id, variant_id, source, experiment_version, context, assigned_at,"
    " ingested_at) VALUES (:experiment_id, :user_id, :variant_id, 'hash', 1, CAST(:context AS jsonb), :exposed_at,"
    " :ingested_at)"
)
_OVERRIDE = text(
    "INSERT INTO overrides (experiment_id, user_id, variant_id, exposed_at, removed, change_epoch, ingested_at)"
    " VALUES (:experiment_id, :user_id, :variant_id, :exposed_at, :removed, 1, :ingested_at)"
)
_HAPPEN = text(
    "INSERT INTO events (project_id, event_id, experiment_id, user_id, event_type, ts, value, properties, ingested_at)"
    " VALUES (:project_id, :event_id, :experiment_id, :user_id, :event_type, :ts, :value, CAST(:properties AS jsonb),"
    " :ingested_at)"
)


async def _insert(connection: AsyncConnection, sql: str, **values: object) -> int:
    return int((await connection.execute(text(sql), values)).scalar_one())


def _experiment_row(experiment: Experiment) -> dict[str, Any]:
    return {
        "experiment_id": experiment.id,
        "project_id": experiment.project_id,
        "key": experiment.key,
        "status": experiment.status.value,
        "version": experiment.version,
        "definition": "{}",
        "ingested_at": datetime(2026, 1, 1, tzinfo=UTC),
    }


def _exposure_row(experiment: Experiment, assigned: Assigned) -> dict[str, Any]:
    return {
        "experiment_id": experiment.id,
        "user_id": assigned.user_id,
        "variant_id": experiment.variants[assigned.variant].id,
        "exposed_at": assigned.at,
        "ingested_at": assigned.ingested_at,
    }


def _override_row(experiment: Experiment, overridden: Overridden) -> dict[str, Any]:
    return {
        "experiment_id": experiment.id,
        "user_id": overridden.user_id,
        "variant_id": experiment.variants[overridden.variant].id,
        "exposed_at": overridden.at,
        "removed": overridden.removed,
        "ingested_at": overridden.ingested_at,
    }


def _event_row(experiment: Experiment, event: Happened) -> dict[str, Any]:
    named = {"none": None, "this": experiment.id, "another": 2**40}[event.names]
    return {
        # No project has such an id.
        "project_id": 2**41 + experiment.project_id if event.foreign else experiment.project_id,
        "event_id": event.event_id,
        "experiment_id": named,
        "user_id": event.user_id,
        "event_type": event.event_type,
        "ts": event.ts,
        "value": event.value,
        "properties": _json(event.properties),
        "ingested_at": event.ingested_at,
    }


def _json(context: dict[str, Any] | None) -> str | None:
    return None if context is None else msgspec.json.encode(context).decode()


def _lines(rows: Iterable[dict[str, Any]]) -> list[bytes]:
    return [msgspec.json.encode(row) for row in rows]
