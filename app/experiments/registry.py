"""All experiments in this process's memory: no SQL and no Redis to find out what an experiment looks like."""

from collections.abc import Iterable

from app.core.changes import Changes
from app.core.db import Database
from app.experiments.errors import ExperimentNotFound
from app.experiments.lifecycle import Status
from app.experiments.repository import ExperimentRepository
from app.experiments.values import Experiment

TOPIC = "experiments"
_MAX_ID = 2**63 - 1


class ExperimentRegistry:
    """Answers by id or key; follows changes epoch by epoch."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._epoch = -1
        self._by_id: dict[int, Experiment] = {}
        self._by_key: dict[tuple[int, str], Experiment] = {}
        self._changes = changes
        changes.subscribe(TOPIC, self._catch_up)

    async def ensure_fresh(self) -> None:
        """Look for changes if the last look is too old to trust memory."""
        await self._changes.ensure_fresh()

    def get(self, project_id: int, reference: str) -> Experiment:
        """Return the project's experiment with this numeric id or key.

        Raises:
            ExperimentNotFound: the project has none.
        """
        if (experiment := self.find(project_id, reference)) is None:
            raise ExperimentNotFound(reference)
        return experiment

    def find(self, project_id: int, reference: str) -> Experiment | None:
        if reference.isascii() and reference.isdecimal():
            # An experiment has one number: 01 is not another way to write 1.
            is_id = reference[0] != "0" and len(reference) < len(str(_MAX_ID))
            experiment = self._by_id.get(int(reference)) if is_id else None
            return experiment if experiment is not None and experiment.project_id == project_id else None
        return self._by_key.get((project_id, reference))

    def find_by_id(self, experiment_id: int) -> Experiment | None:
        return self._by_id.get(experiment_id)

    def running(self, project_id: int) -> list[Experiment]:
        """Return the project's running experiments, newest first."""
        found = (item for item in self._by_id.values() if item.project_id == project_id)
        return sorted((item for item in found if item.status is Status.RUNNING), key=lambda item: item.id, reverse=True)

    async def _catch_up(self, epoch: int) -> None:
        async with self._database.read() as connection:
            repository = ExperimentRepository(connection)
            changed = await repository.changed_since(self._epoch)
            living = await repository.all_ids()
        self._forget([item for item in self._by_id.values() if item.id not in living])
        self._forget([self._by_id[item.id] for item in changed if item.id in self._by_id])
        for item in changed:
            self._by_id[item.id] = item
            self._by_key[item.project_id, item.key] = item
        self._epoch = epoch

    def _forget(self, experiments: Iterable[Experiment]) -> None:
        for item in experiments:
            del self._by_id[item.id]
            self._by_key.pop((item.project_id, item.key), None)
