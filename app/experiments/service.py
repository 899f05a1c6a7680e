"""Use cases of experiments: create, list, change, move through the states, delete drafts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
from sqlalchemy.exc import IntegrityError

from app.access.caller import Caller
from app.core.changes import Changes
from app.core.clock import Clock
from app.core.db import Database, violated_constraint
from app.core.errors import Conflict, Invalid
from app.core.paging import Page, PageRequest, page_of
from app.experiments.allocation import bucket_ranges
from app.experiments.analysis_plan import AnalysisPlan
from app.experiments.errors import (
    ChangeNotAllowed,
    DraftInUse,
    ExperimentKeyTaken,
    ExperimentNotFound,
    MoveNotAllowed,
    NotADraft,
    VariantInUse,
)
from app.experiments.lifecycle import Move, Status, allowed_moves, refused_changes, state_after
from app.experiments.planning import seal, write_metrics
from app.experiments.population import Population
from app.experiments.recording import record_change
from app.experiments.registry import TOPIC, ExperimentRegistry
from app.experiments.repository import ExperimentRepository, plan_column, population_column
from app.experiments.values import Experiment, ExperimentFilter, ExperimentPlan, VariantPlan


class ExperimentService:
    """Owns the transactions that change experiments; each change is audited, announced and sent to the outbox."""

    def __init__(self, *, database: Database, changes: Changes, registry: ExperimentRegistry, clock: Clock) -> None:
        self._database = database
        self._changes = changes
        self._registry = registry
        self._clock = clock

    async def create(self, caller: Caller, plan: ExperimentPlan, *, running: bool) -> Experiment:
        """Store a draft, or an experiment that runs at once.

        Raises:
            ExperimentKeyTaken: the project has one with this key.
            Invalid: the plan names a metric that cannot be had.
        """
        status = Status.RUNNING if running else Status.DRAFT
        async with self._database.begin() as connection:
            epoch = await self._changes.bump(connection, TOPIC)
            repository = ExperimentRepository(connection)
            now = self._clock()
            started_at = now if running else None
            experiment_id = await repository.insert(caller.project_id, plan, status, started_at, epoch)
            if experiment_id is None:
                raise ExperimentKeyTaken(plan.key)
            await write_metrics(connection, experiment_id, caller.project_id, plan.analysis.metrics)
            experiment = await (seal(connection, experiment_id, now) if running else repository.get(experiment_id))
            details = {"status": status.value, **_sealed_as(experiment)}
            await record_change(connection, caller, "experiment.created", experiment, details)
        await self._changes.settle(TOPIC, epoch)
        return experiment

    async def get(self, caller: Caller, reference: str) -> Experiment:
        """Return an experiment.

        Raises:
            ExperimentNotFound: the project has none with this id or key.
        """
        await self._registry.ensure_fresh()
        return self._registry.get(caller.project_id, reference)

    async def find(self, caller: Caller, reference: str) -> Experiment | None:
        """Return the project's experiment with this id or key, if there is one."""
        await self._registry.ensure_fresh()
        return self._registry.find(caller.project_id, reference)

    async def running(self, caller: Caller) -> list[Experiment]:
        """Return the project's running experiments, newest first."""
        await self._registry.ensure_fresh()
        return self._registry.running(caller.project_id)

    async def list_(self, caller: Caller, wanted: ExperimentFilter, page: PageRequest) -> Page[Experiment]:
        async with self._database.read() as connection:
            rows = await ExperimentRepository(connection).list_(caller.project_id, wanted, page)
        return page_of(rows, page, lambda experiment: experiment.id)

    async def change(self, caller: Caller, reference: str, wanted: Mapping[str, Any]) -> Experiment:
        """Set the given fields; what already has its value is no change, and no change makes no version.

        Raises:
            ExperimentNotFound: the project has none with this id or key.
            ChangeNotAllowed: the state forbids a change.
            ExperimentKeyTaken: another experiment has the new key.
            VariantInUse: a draft's variant cannot go because assignments refer to it.
            Invalid: the dates would contradict each other, or the plan names a metric that cannot be had.
        """
        found = await self.get(caller, reference)
        try:
            async with self._database.begin() as connection:
                epoch = await self._changes.bump(connection, TOPIC)
                repository = ExperimentRepository(connection)
                current = await self._locked(repository, found)
                changed = _changed(current, wanted)
                if not changed:
                    return current
                self._refuse_forbidden(current, changed)
                if "plan" in changed:
                    await write_metrics(connection, current.id, current.project_id, changed["plan"].metrics)
                await self._apply(repository, current, changed, epoch)
                experiment = await repository.get(current.id)
                details = {field: _plain(value) for field, value in changed.items()}
                await record_change(connection, caller, "experiment.changed", experiment, details)
        except IntegrityError as error:
            if (refusal := _refusal(error, str(wanted.get("key", "")))) is None:
                raise
            raise refusal from error
        await self._changes.settle(TOPIC, epoch)
        return experiment

    async def move(self, caller: Caller, reference: str, move: Move) -> Experiment:
        """Take the experiment to the state that `move` leads to; when this returns, every process obeys it.

        Raises:
            ExperimentNotFound: the project has none with this id or key.
            MoveNotAllowed: the state does not allow it.
        """
        found = await self.get(caller, reference)
        async with self._database.begin() as connection:
            epoch = await self._changes.bump(connection, TOPIC)
            repository = ExperimentRepository(connection)
            current = await self._locked(repository, found)
            status = state_after(current.status, move)
            if status is None:
                raise MoveNotAllowed(move, current.status, allowed_moves(current.status))
            values: dict[str, Any] = {"status": status.value}
            if move is Move.START:
                values["started_at"] = self._clock()
            if move is Move.COMPLETE:
                values["ended_at"] = self._clock()
            await repository.update(current.id, values, epoch)
            details = {"from": current.status.value, "to": status.value}
            if move is Move.START:
                experiment = await seal(connection, current.id, values["started_at"])
                details |= _sealed_as(experiment)
            else:
                experiment = await repository.get(current.id)
            await record_change(connection, caller, f"experiment.{move.value}", experiment, details)
        await self._changes.settle(TOPIC, epoch)
        return experiment

    async def delete(self, caller: Caller, reference: str) -> None:
        """Delete a draft.

        Raises:
            ExperimentNotFound: the project has none with this id or key.
            NotADraft: it has been started.
            DraftInUse: imported assignments or overrides refer to its variants.
        """
        found = await self.get(caller, reference)
        try:
            async with self._database.begin() as connection:
                epoch = await self._changes.bump(connection, TOPIC)
                repository = ExperimentRepository(connection)
                current = await self._locked(repository, found)
                if current.status is not Status.DRAFT:
                    raise NotADraft(current.status)
                await repository.delete(current.id)
                await record_change(connection, caller, "experiment.deleted", current, {"key": current.key})
        except IntegrityError as error:
            if _refusal(error, found.key) is None:
                raise
            raise DraftInUse from error
        await self._changes.settle(TOPIC, epoch)

    @staticmethod
    async def _locked(repository: ExperimentRepository, found: Experiment) -> Experiment:
        experiment = await repository.find_locked(found.id)
        if experiment is None:  # Deleted a moment ago.
            raise ExperimentNotFound(found.key)
        return experiment

    def _refuse_forbidden(self, current: Experiment, changed: Mapping[str, Any]) -> None:
        plans: tuple[VariantPlan, ...] = changed.get("variants", ())
        refusals = refused_changes(
            current.status,
            frozenset(changed),
            rebuckets="variants" in changed and _rebuckets(current, plans),
            reexposes="population" in changed and _reexposes(current.population, changed["population"]),
            has_begun=current.starts_at is None or current.starts_at <= self._clock(),
        )
        if refusals:
            raise ChangeNotAllowed(current.status, refusals)
        after = replace(current, **{field: changed[field] for field in ("starts_at", "ends_at") if field in changed})
        if after.starts_at is not None and after.ends_at is not None and after.ends_at <= after.starts_at:
            raise Invalid.field("ends_at", "must be later than starts_at")

    @staticmethod
    async def _apply(
        repository: ExperimentRepository, current: Experiment, changed: Mapping[str, Any], epoch: int
    ) -> None:
        if "variants" in changed:
            await repository.replace_variants(current.id, changed["variants"])
        columns = {field: value for field, value in changed.items() if field != "variants"}
        if "population" in columns:
            columns["population"] = population_column(columns["population"])
        if "plan" in columns:
            columns["plan"] = plan_column(columns["plan"])
        await repository.update(current.id, columns, epoch)


def _changed(current: Experiment, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields whose value would differ."""
    if current.seal is not None and isinstance(plan := wanted.get("plan"), AnalysisPlan):
        wanted = {**wanted, "plan": plan.with_versions_of(current.plan)}
    return {field: value for field, value in wanted.items() if _differs(value, _value_of(current, field))}


def _value_of(experiment: Experiment, field: str) -> object:
    if field == "variants":
        return tuple(variant.plan for variant in experiment.variants)
    return getattr(experiment, field)


def _differs(wanted: object, stored: object) -> bool:
    """Compare as JSON does, where `true` is not 1 and the order of keys means nothing."""
    return _canonical(wanted) != _canonical(stored)


def _canonical(value: object) -> bytes:
    return msgspec.json.encode(value, order="deterministic")


def _rebuckets(current: Experiment, plans: tuple[VariantPlan, ...]) -> bool:
    """Tell whether the plans differ from the stored variants in more than names and configurations."""
    stored = [(item.key, item.is_control, (item.bucket_start, item.bucket_end)) for item in current.variants]
    ranges = bucket_ranges([plan.allocation_pct for plan in plans])
    return stored != [(plan.key, plan.is_control, bounds) for plan, bounds in zip(plans, ranges, strict=True)]


def _reexposes(stored: Population, wanted: Population) -> bool:
    """Tell whether other users would be exposed, or at other moments."""
    return (stored.exposure, stored.exposure_event_type) != (wanted.exposure, wanted.exposure_event_type)


def _sealed_as(experiment: Experiment) -> dict[str, str]:
    """Name the hash of a plan that was just sealed: beside it in the audit log, it cannot be exchanged unseen."""
    return {} if experiment.seal is None else {"plan_hash": experiment.seal.hash}


def _refusal(error: IntegrityError, key: str) -> Conflict | None:
    match violated_constraint(error):
        case "uq_experiments_project_id_key":
            return ExperimentKeyTaken(key)
        case "fk_assignments_experiment_id_variant_id" | "fk_overrides_experiment_id_variant_id":
            return VariantInUse()
        case _:
            return None


def _plain(value: object) -> object:
    """Make a changed value fit for the audit log's JSON."""
    if isinstance(value, tuple):
        return [
            {"key": plan.key, "name": plan.name, "allocation_pct": str(plan.allocation_pct)}
            for plan in value
            if isinstance(plan, VariantPlan)
        ]
    if isinstance(value, Population | AnalysisPlan):
        plain: dict[str, Any] = msgspec.to_builtins(value)
        return plain
    return value if isinstance(value, dict | str | int | bool | None) else str(value)
