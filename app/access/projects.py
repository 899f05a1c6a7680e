"""Projects in memory: there are few, and they never change."""

from app.access.repository import ProjectRepository
from app.access.values import Project
from app.core.db import Database

DEFAULT_PROJECT = "default"


class Projects:
    """Looks projects up by key; an unknown key asks PostgreSQL once more."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_key: dict[str, Project] = {}

    async def load(self) -> None:
        async with self._database.read() as connection:
            self._by_key = {project.key: project for project in await ProjectRepository(connection).all()}

    @property
    def default_id(self) -> int:
        return self._by_key[DEFAULT_PROJECT].id

    async def find(self, key: str) -> Project | None:
        if key not in self._by_key:
            await self.load()
        return self._by_key.get(key)
