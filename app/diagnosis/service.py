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
    ValueOfUsers,
)
from app.diagnosis.judgement import judged
from app.diagnosis.measuring import Measurement, Measuring, OutOfReach
from app.diagnosis.repository import Attribute, DiagnosisRepository, Noted
from app.diagnosis.values import Diagnosis, Unchecked
from app.experiments.recording import noted_start
from app.experiments.registry import ExperimentRegistry
from app.experiments.values import Experiment, Variant
from app.measurement.values import Measured
from app.metrics.values import Metric, Role
from app.results.reach import Watermark, hold_events, store_reaches
from app.results.values import Question, Source, Subject

# Each keeps a processor of a server busy for a moment.
_MOST_AT_ONCE = 2
_EVERYTHING = Question()
_DROPPED = Unchecked(
    "Exposure events decide who counts, and PostgreSQL has dropped the oldest of them (EVENTS_RETENTION_DAYS)."
)
_OUT_OF_REACH = Unchecked("Neither PostgreSQL nor ClickHouse has all events that count any more.")


@dataclass(frozen=True, slots=True)
class _People:
    """What PostgreSQL says of who came in."""

    days: list[DayOfUsers] | Unchecked
    attributes: list[ValueOfUsers] | Unchecked
    in_two_variants: int | Unchecked
    changes: list[Change]
    start_noted: bool
    entrances: Entrances
    arrivals: Arrivals


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
            people = await self._people(experiment, variants, now)
            deeds = await self._deeds(experiment, variants, people.entrances.earliest, now)
            facts = _facts(experiment, variants, people, deeds, now, await self._measuring.history_until())
        findings, checked = judged(facts)
        return Diagnosis(
            experiment_id=experiment.id,
            computed_at=self._clock(),
            complete_until=deeds.complete_until,
            source=deeds.source,
            findings=findings,
            checked=checked,
        )

    async def _people(self, experiment: Experiment, variants: Sequence[Variant], now: datetime) -> _People:
        subject, ids = Subject.of(experiment), [variant.id for variant in variants]
        async with self._database.read() as connection:
            await hold_events(connection)
            repository = DiagnosisRepository(connection, subject)
            await repository.prepare()
            entrances = await repository.entrances(experiment.started_at)
            noted = [] if experiment.started_at is None else await repository.noted(experiment.started_at)
            start_noted = await noted_start(connection, experiment) is not None
            changes = changes_from([_change(entry) for entry in noted])
            arrivals = await repository.arrivals(now)
            if subject.exposed_by_events and not await store_reaches(connection, subject, _EVERYTHING):
                return _People(
                    days=_DROPPED,
                    attributes=_DROPPED,
                    in_two_variants=_DROPPED,
                    changes=with_users(changes, {}, ids),
                    start_noted=start_noted,
                    entrances=entrances,
                    arrivals=arrivals,
                )
            users = await repository.users(_EVERYTHING, moments_of(changes))
            in_two = await repository.in_two_variants(_EVERYTHING)
            attributes = await repository.attributes(_EVERYTHING)
        days = [DayOfUsers(day, _by_arm(users.by_day[day], ids)) for day in sorted(users.by_day)]
        return _People(
            days=days,
            attributes=_values_of(attributes, ids) or Unchecked("No exposed user has a context."),
            in_two_variants=in_two,
            changes=with_users(changes, users.by_stretch, ids),
            start_noted=start_noted,
            entrances=entrances,
            arrivals=arrivals,
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
        empty = [metric for metric, found in zip((one for one, _ in metrics), facts, strict=True) if not found.events]
        async with self._database.read() as connection:
            repository = DiagnosisRepository(connection, subject)
            await repository.prepare()
            sent = {
                metric.key: await repository.sent(
                    _EVERYTHING,
                    metric.recipe,
                    recipes.selection_to_explain(metric.recipe, measured, metric.key, ids),
                    earliest,
                )
                for metric in empty
                if earliest is not None
            }
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
        entrances=people.entrances,
        two_variants=people.in_two_variants,
        changes=people.changes,
        start_noted=people.start_noted,
        priors=deeds.priors,
        around=deeds.around,
        metrics=deeds.metrics,
        phases=deeds.phases,
        arrivals=people.arrivals,
        history_until=history_until,
        planned_sample=experiment.plan.sample_size,
    )


def _in_order(experiment: Experiment) -> list[Variant]:
    """Return the variants, the control first."""
    return sorted(experiment.variants, key=lambda variant: not variant.is_control)


def _change(entry: Noted) -> Change:
    return Change(at=entry.at, actor=entry.actor, action=entry.action, fields=entry.fields, before=(), after=())


def _by_arm(users: Mapping[int, int], ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(users.get(variant, 0) for variant in ids)


def _values_of(attributes: Sequence[Attribute], ids: Sequence[int]) -> list[ValueOfUsers]:
    found: dict[tuple[str, str], dict[int, int]] = {}
    for one in attributes:
        found.setdefault((one.name, one.value), {})[one.variant_id] = one.users
    return [ValueOfUsers(name, value, _by_arm(users, ids)) for (name, value), users in found.items()]
