"""Rows of every kind in PostgreSQL: written by the service's own repositories, or dated by the test."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID, uuid4

import asyncpg

from app.assignments import messages as assignments
from app.assignments.repository import AssignmentRepository, OverrideRepository
from app.assignments.values import Question
from app.core.db import Database
from app.events import messages as events
from app.events.repository import EventRepository
from app.events.values import Event
from app.experiments import messages as experiments
from app.experiments.lifecycle import Status
from app.experiments.repository import ExperimentRepository
from app.experiments.values import Experiment, ExperimentPlan, VariantPlan
from app.outbox.repository import OutboxRepository

PROJECT = 1
_NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)

# Into the outbox, too, if $4 says so.
_EVENTS_AT = f"""
WITH stored AS (
    INSERT INTO events (project_id, event_id, user_id, event_type, ts, value, ingested_at)
    SELECT 1, event_id, 'user-' || left(event_id::text, 2), 'purchase', ingested_at, 2.5, ingested_at
    FROM unnest($1::uuid[], $2::timestamptz[]) AS dated (event_id, ingested_at)
    RETURNING *
)
INSERT INTO outbox_events (id, aggregatetype, aggregateid, type, payload)
SELECT event_id, '{events.AGGREGATE}', user_id, '{events.RECORDED}', {events.RECORDED_PAYLOAD} FROM stored WHERE $3
"""
_ASSIGNMENTS_AT = f"""
WITH stored AS (
    INSERT INTO assignments (experiment_id, user_id, variant_id, source, experiment_version, assigned_at, ingested_at)
    SELECT $1, user_id, $2, 'hash', 1, $4, $4 FROM unnest($3::text[]) AS users (user_id)
    RETURNING *
)
INSERT INTO outbox_events (aggregatetype, aggregateid, type, payload)
SELECT '{assignments.AGGREGATE}', user_id, '{assignments.ASSIGNED}', {assignments.ASSIGNED_PAYLOAD} FROM stored
WHERE $5
"""


async def store_experiment(database: Database, key: str = "one") -> Experiment:
    """Store an experiment and its outbox row, as the service does."""
    plan = ExperimentPlan(
        key=key,
        name="Ein Versuch: naïve ☕",
        description=None,
        seed=f"{key}-seed",
        traffic_pct=Decimal("33.30"),
        config={},
        starts_at=None,
        ends_at=None,
        variants=(
            VariantPlan("control", "A", Decimal("50.00"), is_control=True, config={}),
            VariantPlan("other", "B", Decimal("50.00"), is_control=False, config={}),
        ),
    )
    async with database.begin() as connection:
        repository = ExperimentRepository(connection)
        made = await repository.insert(PROJECT, plan, Status.RUNNING, datetime.now(UTC), epoch=1)
        assert made is not None
        experiment = await repository.get(made)
        await OutboxRepository(connection).append(
            aggregatetype=experiments.AGGREGATE,
            aggregateid=str(experiment.id),
            type_=experiments.CHANGED,
            payload=experiments.experiment_changed(experiment),
        )
    return experiment


async def store_one_of_each(database: Database) -> Experiment:
    """Store rows of every kind, with whatever is awkward in them, and their outbox rows."""
    experiment = await store_experiment(database)
    control, other = experiment.variants
    async with database.begin() as connection:
        repository = AssignmentRepository(connection)
        contexts = [None, {}, {"land": "Österreich", "n": 1.5, "deep": {"list": [1, None, True]}}]
        await repository.enroll_many(
            [
                (Question(experiment=experiment, user_id=f"üser/{number}", enroll=True, context=context), control.id)
                for number, context in enumerate(contexts)
            ]
        )
        await repository.import_many(experiment.id, [("imported 'user'", other.id, _NOW)])
        overrides = OverrideRepository(connection)
        await overrides.put(experiment.id, "forced", other.id, 1)
        await overrides.put(experiment.id, "no longer", other.id, 2)
        await overrides.remove(experiment.id, "no longer", 3)
        values = [None, 0.1, -1e-300, 1.7976931348623157e308, 3.0]
        await EventRepository(connection).record(
            [
                Event(
                    PROJECT,
                    uuid4(),
                    experiment.id if number % 2 else None,
                    f"üser/{number}",
                    "purchase",
                    _NOW if number else None,
                    value,
                    {"größe": 'a "b"', "number": number, "at": None} if number else None,
                )
                for number, value in enumerate(values)
            ]
        )
    return experiment


async def store_events_at(
    postgres: asyncpg.Connection, moments: Sequence[datetime], *, in_outbox: bool = True
) -> list[UUID]:
    """Store an event for each ingestion time."""
    ids = [uuid4() for _ in moments]
    await postgres.execute(_EVENTS_AT, ids, list(moments), in_outbox)
    return ids


async def store_assignments_at(
    postgres: asyncpg.Connection,
    experiment: Experiment,
    users: Sequence[str],
    moment: datetime,
    *,
    in_outbox: bool = True,
) -> None:
    """Store assignments to the control that were ingested at this moment."""
    variant_id = experiment.variants[0].id
    await postgres.execute(_ASSIGNMENTS_AT, experiment.id, variant_id, list(users), moment, in_outbox)
