"""Histories with properties as raw JSON in both stores, and the three ways to measure them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import text

from app.experiments.values import Experiment
from app.measurement.stores import measure_cold, measure_hot, tail_events
from app.measurement.values import Asked, Exposed, Measured
from app.metrics.values import Recipe
from app.results.exposed_cold import exposed_in_clickhouse
from app.results.exposed_hot import exposed_in_postgres
from app.results.hot import HotStore
from app.results.tail import tables_for
from app.results.values import Question, Subject
from tests.integration.results.world import FAR, Assigned, History, World


@dataclass(frozen=True)
class Happened:
    """A stored event; `properties` is JSON as it was sent."""

    user_id: str
    event_type: str
    ts: datetime
    ingested_at: datetime
    value: float | None = None
    properties: str | None = None
    # Whether it names this experiment, another, or none.
    names: str = "none"
    event_id: UUID = field(default_factory=uuid4)


@dataclass(frozen=True)
class Stored:
    """An experiment with its users and what they did."""

    experiment: Experiment
    assignments: Sequence[Assigned]
    events: Sequence[Happened]


_HAPPEN = text(
    "INSERT INTO events (project_id, event_id, experiment_id, user_id, event_type, ts, value, properties, ingested_at)"
    " VALUES (:project_id, :event_id, :experiment_id, :user_id, :event_type, :ts, :value, CAST(:properties AS jsonb),"
    " :ingested_at)"
)
_RENDERED = text("SELECT event_id, CAST(properties AS text) AS properties FROM events WHERE project_id = :project_id")
_ONE_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


class Bench:
    """Stores histories, and measures them by PostgreSQL, by ClickHouse, and by both, split at a watermark."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def store(
        self,
        assignments: Sequence[Assigned],
        events: Sequence[Happened],
        *,
        delivered: Sequence[Happened] | None = None,
        as_sent: bool = False,
    ) -> Stored:
        """Store a history; `delivered` is how its events come to ClickHouse, by default once and in order.

        Properties come there as PostgreSQL writes them out, or, as_sent, in the very words they were sent in.
        """
        experiment = await self.world.experiment(["50", "30", "20"])
        await self.world.store(experiment, History(assignments))
        async with self.world.database.begin() as connection:
            for event in events:
                await connection.execute(_HAPPEN, _row(experiment, event) | {"properties": event.properties})
            found = await connection.execute(_RENDERED, {"project_id": experiment.project_id})
            rendered = {row.event_id: row.properties for row in found}
        for event in events if delivered is None else delivered:
            written = event.properties if as_sent else rendered[event.event_id]
            line = msgspec.json.encode(_row(experiment, event))[:-1] + b',"properties":%s}' % (written or "{}").encode()
            await self.world.clickhouse.insert_json("events", [line])
        return Stored(experiment, assignments, events)

    async def measure(
        self, stored: Stored, recipes: Mapping[str, Recipe], asked: Asked, *splits: datetime, confidence: float = 0.95
    ) -> Measured:
        """Measure by every source, and return what all of them say."""
        experiment = stored.experiment
        asked = replace(asked, project_id=experiment.project_id, experiment_id=experiment.id)
        subject, question = Subject(experiment.project_id, experiment.id), Question(start=asked.start, end=asked.end)
        exposed = Exposed(*exposed_in_postgres(subject, question))
        async with self.world.database.read() as connection:
            await connection.execute(_ONE_SNAPSHOT)
            hot = await measure_hot(connection, recipes, asked, exposed, confidence=confidence)
        exposed = Exposed(*exposed_in_clickhouse(subject, question, FAR, with_tail=False), tables_for(subject, None))
        clickhouse = self.world.clickhouse
        cold = await measure_cold(clickhouse, recipes, asked, exposed, FAR, confidence=confidence)
        assert cold == hot
        for split in splits:
            assert await self._both(subject, question, recipes, asked, split, confidence) == hot
        return hot

    async def _both(
        self,
        subject: Subject,
        question: Question,
        recipes: Mapping[str, Recipe],
        asked: Asked,
        split: datetime,
        confidence: float,
    ) -> Measured:
        tail, _ = await HotStore(self.world.database).tail(subject, question, split)
        async with self.world.database.read() as connection:
            events = await tail_events(connection, recipes, asked, split, most_rows=10_000)
        exposed = Exposed(*exposed_in_clickhouse(subject, question, split, with_tail=True), tables_for(subject, tail))
        return await measure_cold(
            self.world.clickhouse, recipes, asked, exposed, split, tail=events, confidence=confidence
        )


def _row(experiment: Experiment, event: Happened) -> dict[str, Any]:
    return {
        "project_id": experiment.project_id,
        "event_id": event.event_id,
        "experiment_id": {"none": None, "this": experiment.id, "another": 2**40}[event.names],
        "user_id": event.user_id,
        "event_type": event.event_type,
        "ts": event.ts,
        "value": event.value,
        "ingested_at": event.ingested_at,
    }


HOUR = timedelta(hours=1)
