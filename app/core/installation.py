"""Which installation this is."""

from uuid import UUID

from sqlalchemy import select

from app.core.db import Database
from app.core.models import installation


async def installation_id(database: Database) -> UUID:
    """Return the id that the database was given when it was made."""
    async with database.read() as connection:
        found: UUID = (await connection.execute(select(installation.c.id))).scalar_one()
        return found
