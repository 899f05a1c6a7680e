"""Use cases of overrides: force a variant for one user, and end it."""

from sqlalchemy.ext.asyncio import AsyncConnection

from app.access.caller import Caller
from app.access.repository import AuditRepository
from app.assignments.decisions import overridden
from app.assignments.errors import OverrideClosed, OverrideNotFound, UnknownVariant
from app.assignments.overrides import TOPIC
from app.assignments.repository import OverrideRepository
from app.assignments.values import Answer, Question
from app.core.changes import Changes
from app.core.db import Database
from app.experiments.errors import ExperimentNotFound
from app.experiments.lifecycle import Status
from app.experiments.repository import ExperimentRepository
from app.experiments.values import Experiment

_OVERRIDABLE = frozenset({Status.DRAFT, Status.RUNNING, Status.PAUSED})


class OverrideService:
    """Owns the transactions that change overrides; each change is audited, announced and sent to the outbox."""

    def __init__(self, *, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def put(self, caller: Caller, experiment: Experiment, user_id: str, variant_key: str) -> Answer:
        """Force a variant; when this returns, every process gives it.

        Raises:
            ExperimentNotFound: it was deleted a moment ago.
            OverrideClosed: the experiment is neither draft nor running nor paused.
            UnknownVariant: the experiment has no variant with this key.
        """
        async with self._database.begin() as connection:
            epoch = await self._changes.bump(connection, TOPIC)
            # Judged as it stands now, and so it stays until the override is stored.
            current = await ExperimentRepository(connection).find_unchanging(experiment.id)
            if current is None:
                raise ExperimentNotFound(experiment.key)
            if current.status not in _OVERRIDABLE:
                raise OverrideClosed(current.status)
            if (variant := current.variant_with_key(variant_key)) is None:
                raise UnknownVariant(current, variant_key)
            override = await OverrideRepository(connection).put(current.id, user_id, variant.id, epoch)
            await _audit(connection, caller, current, "put", user_id, variant.id)
        await self._changes.settle(TOPIC, epoch)
        return overridden(Question(current, user_id, enroll=False), override)

    async def remove(self, caller: Caller, experiment: Experiment, user_id: str) -> None:
        """Remove an override; a stored assignment is in force again.

        Raises:
            OverrideNotFound: the user has none.
        """
        async with self._database.begin() as connection:
            # Overrides change one after the other from here on, so that the one found is the one removed.
            epoch = await self._changes.bump(connection, TOPIC)
            repository = OverrideRepository(connection)
            override = await repository.find(experiment.id, user_id)
            if override is None or not await repository.remove(experiment.id, user_id, epoch):
                raise OverrideNotFound
            await _audit(connection, caller, experiment, "removed", user_id, override.variant_id)
        await self._changes.settle(TOPIC, epoch)


async def _audit(
    connection: AsyncConnection, caller: Caller, experiment: Experiment, action: str, user_id: str, variant_id: int
) -> None:
    variant = experiment.variant_with_id(variant_id)
    await AuditRepository(connection).append(
        project_id=caller.project_id,
        actor=caller.actor,
        request_id=caller.request_id,
        action=f"override.{action}",
        subject=f"experiment:{experiment.id}",
        details={"user_id": user_id, "variant": None if variant is None else variant.key},
    )
