"""All overrides in this process's memory; they are made by hand, so there are few."""

from app.assignments.repository import OverrideRepository
from app.assignments.values import Key, Override
from app.core.changes import Changes
from app.core.db import Database

TOPIC = "overrides"


class OverrideRegistry:
    """Answers by experiment and user; follows changes epoch by epoch."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._epoch = -1
        self._overrides: dict[Key, Override] = {}
        changes.subscribe(TOPIC, self._catch_up)

    def find(self, experiment_id: int, user_id: str) -> Override | None:
        return self._overrides.get((experiment_id, user_id)) if self._overrides else None

    async def _catch_up(self, epoch: int) -> None:
        async with self._database.read() as connection:
            changed = await OverrideRepository(connection).changed_since(self._epoch)
        for key, override in changed.items():
            if override is None:
                self._overrides.pop(key, None)
            else:
                self._overrides[key] = override
        self._epoch = epoch
