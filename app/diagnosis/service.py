"""The use case of a diagnosis: gather the facts from both stores, and judge them."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from app.core.clickhouse import ClickHouse
from app.core.clock import Clock
from app.core.db import Database
from app.diagnosis import recipes
from app.diagnosis.changes import changes_from, moments_of, with_users
from app.diagnosis.facts import (
    Arm,
    Around,
    Arrivals,
    Change,
    DayOfUsers,
    Entrances,
    Facts,
    MetricFacts,
    Phases,
    Prior,
    Sent,
    ValueOfUsers,
)
from app.diagnosis.judgement import judged
from app.diagnosis.measuring import Measurement, Measuring, OutOfReach
from app.diagnosis.people import Attribute
from app.diagnosis.repository import DiagnosisRepository, Noted
from app.diagnosis.sought import sought
from app.diagnosis.values import Diagnosis, Unchecked
from app.events.messages import MOST_AHEAD
from app.experiments.recording import noted_start
from app.experiments.registry import ExperimentRegistry
from app.experiments.values import Experiment, Variant
from app.measurement.values import Measured
from app.metrics.values import Metric, Role
from app.results.reach import Watermark
from app.results.values import Source, Subject

# Each keeps a processor of a server busy for a moment.
_MOST_AT_ONCE = 2
_OUT_OF_REACH = Unchecked(
    "Neither PostgreSQL nor ClickHouse can be asked for all events that count: the oldest were dropped"
    " (EVENTS_RETENTION_DAYS, HISTORY_RETENTION_DAYS), or the store that has them does not answer now."
)


@dataclass(frozen=True, slots=True)
class _Record:
    """What PostgreSQL alone knows: how users came in, what was changed meanwhile, and how events arrive."""

    entrances: Entrances
    noted: Noted
    start_noted: bool
    arrivals: Arrivals


@dataclass(frozen=True, slots=True)
class _People:
    """What the stores say of who came in."""

    days: Sequence[DayOfUsers] | Unchecked
    attributes: Sequence[ValueOfUsers] | Unchecked
    in_two_variants: int | Unchecked
    changes: Sequence[Change]


@dataclass(frozen=True, slots=True)
class _Deeds:
    """What the stores say of what users did."""

    metrics: Sequence[MetricFacts] | Unchecked
    priors: Sequence[Prior] | Unchecked
    around: Around | Unchecked
    phases: Mapping[str, Phases] | Unchecked
    source: Source
    complete_until: datetime


class DiagnosisService:
    """Diagnoses experiments. Built once at startup."""

    def __init__(
        self,
        *,
        database: Database,
        clickhouse: ClickHouse | None,
        registry: ExperimentRegistry,
        watermark: Watermark,
        clock: Clock,
    ) -> None:
        self._database = database
        self._registry = registry
        self._clock = clock
        self._measuring = Measuring(database, clickhouse, watermark)
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)

    async def diagnose(self, project_id: int, reference: str) -> Diagnosis:
        """Look for everything that can be wrong with an experiment and its data.

        Raises:
            ExperimentNotFound: the project has no such experiment.
            StoreUnavailable: PostgreSQL cannot be reached.
        """
        await self._registry.ensure_fresh()
        experiment = self._registry.get(project_id, reference)
        async with self._turns:
            now, variants = self._clock(), _in_order(experiment)
            record = await self._record(experiment, now)
            people = await self._people(experiment, variants, changes_from(record.noted.entries))
            deeds = await self._deeds(experiment, variants, record.entrances.earliest, now)
            facts = _facts(experiment, variants, record, people, deeds, now, await self._measuring.history_until())
        findings, checked = judged(facts)
        return Diagnosis(
            experiment_id=experiment.id,
            computed_at=self._clock(),
            complete_until=deeds.complete_until,
            source=deeds.source,
            findings=findings,
            checked=checked,
        )

    async def _record(self, experiment: Experiment, now: datetime) -> _Record:
        started_at = experiment.started_at
        async with self._database.read() as connection:
            repository = DiagnosisRepository(connection, Subject.of(experiment))
            return _Record(
                entrances=await repository.entrances(started_at),
                noted=Noted() if started_at is None else await repository.noted(started_at),
                start_noted=await noted_start(connection, experiment) is not None,
                arrivals=await repository.arrivals(now),
            )

    async def _people(self, experiment: Experiment, variants: Sequence[Variant], changes: Sequence[Change]) -> _People:
        """Count who counts. Exposure events tell who was in two variants, so it takes a store that has all of them."""
        ids = [variant.id for variant in variants]
        try:
            seen = await self._measuring.people(Subject.of(experiment), moments_of(changes))
        except OutOfReach:
            return _People(_OUT_OF_REACH, _OUT_OF_REACH, _OUT_OF_REACH, changes)
        return _People(
            days=[DayOfUsers(day, _by_arm(seen.by_day[day], ids)) for day in sorted(seen.by_day)],
            attributes=_values_of(seen.attributes, ids) or Unchecked("No exposed user has a context."),
            in_two_variants=seen.in_two_variants,
            changes=with_users(changes, seen.by_stretch, ids),
        )

    async def _deeds(
        self, experiment: Experiment, variants: Sequence[Variant], earliest: datetime | None, now: datetime
    ) -> _Deeds:
        subject, ids = Subject.of(experiment), [variant.id for variant in variants]
        metrics = recipes.metrics_of(experiment)
        try:
            seen = await self._measuring.measure(subject, Measurement(recipes.recipes_of(metrics)))
            around, phases = await self._phases(subject, ids, metrics[0][0], earliest, seen.complete_until)
            return _Deeds(
                metrics=await self._metrics(subject, ids, metrics, seen.measured, earliest),
                priors=recipes.priors_of(seen.measured, ids),
                around=around,
                phases=phases,
                source=seen.source,
                complete_until=seen.complete_until,
            )
        except OutOfReach:
            return _Deeds(_OUT_OF_REACH, _OUT_OF_REACH, _OUT_OF_REACH, _OUT_OF_REACH, Source.HOT, now)

    async def _metrics(
        self,
        subject: Subject,
        ids: Sequence[int],
        metrics: Sequence[tuple[Metric, Role]],
        measured: Measured,
        earliest: datetime | None,
    ) -> list[MetricFacts]:
        """Look further into metrics that are empty, and into those that add up numbers."""
        facts = [recipes.metric_facts(metric, role, measured, ids) for metric, role in metrics]
        wanted = recipes.tail_recipes(metrics, measured, ids)
        cut = (await self._measuring.measure(subject, Measurement(wanted))).measured if wanted else None
        empty = [metric for (metric, _), found in zip(metrics, facts, strict=True) if not found.events]
        looked_for = {
            metric.key: sought(metric.recipe, recipes.selection_to_explain(metric.recipe, measured, metric.key, ids))
            for metric in empty
        }
        sent: Mapping[str, Sent] = {}
        if looked_for and earliest is not None:
            sent = await self._measuring.sent(subject, looked_for, earliest - MOST_AHEAD)
        return [
            replace(
                found,
                sent=sent.get(found.key),
                tails=recipes.tails_of(found.key, measured, cut, ids) if cut and found.key in wanted else None,
            )
            for found in facts
        ]

    async def _phases(
        self, subject: Subject, ids: Sequence[int], metric: Metric, earliest: datetime | None, until: datetime
    ) -> tuple[Around | Unchecked, Mapping[str, Phases] | Unchecked]:
        days = recipes.phase_days(earliest, until)
        if isinstance(days, Unchecked):
            return days, days
        exposed_until = until - timedelta(days=2 * days)
        wanted = Measurement(recipes.phase_recipes(metric.recipe, days), exposed_until=exposed_until, until=until)
        measured = (await self._measuring.measure(subject, wanted)).measured
        phases = recipes.phases_of(days, measured, ids)
        return recipes.around_of(measured, ids), phases if isinstance(phases, Unchecked) else {metric.key: phases}


def _facts(
    experiment: Experiment,
    variants: Sequence[Variant],
    record: _Record,
    people: _People,
    deeds: _Deeds,
    now: datetime,
    history_until: datetime | Unchecked,
) -> Facts:
    return Facts(
        now=now,
        status=experiment.status,
        started_at=experiment.started_at,
        arms=tuple(Arm(variant.key, variant.allocation_pct) for variant in variants),
        days=people.days,
        attributes=people.attributes,
        entrances=record.entrances,
        two_variants=people.in_two_variants,
        changes=people.changes,
        more_changes=record.noted.more,
        start_noted=record.start_noted,
        priors=deeds.priors,
        around=deeds.around,
        metrics=deeds.metrics,
        phases=deeds.phases,
        arrivals=record.arrivals,
        history_until=history_until,
        planned_sample=experiment.plan.sample_size,
    )


def _in_order(experiment: Experiment) -> list[Variant]:
    """Return the variants, the control first."""
    return sorted(experiment.variants, key=lambda variant: not variant.is_control)


def _by_arm(users: Mapping[int, int], ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(users.get(variant, 0) for variant in ids)


def _values_of(attributes: Sequence[Attribute], ids: Sequence[int]) -> list[ValueOfUsers]:
    found: dict[tuple[str, str], dict[int, int]] = {}
    for one in attributes:
        found.setdefault((one.name, one.value), {})[one.variant_id] = one.users
    return [ValueOfUsers(name, value, _by_arm(users, ids)) for (name, value), users in found.items()]
