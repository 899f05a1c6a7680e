"""Bringing PostgreSQL's schema up to date."""

import asyncio
from pathlib import Path

from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from alembic import command

ROOT = Path(__file__).resolve().parents[2]
# Processes that start together take turns; the number is arbitrary but must never change.
_MIGRATION_LOCK = 7_310_422_001
_LOCK_POLL_S = 0.1


async def migrate(database_url: str) -> None:
    """Run every migration that has not run yet."""
    engine = create_async_engine(database_url)
    try:
        async with engine.connect() as connection:
            await _take_turn(connection)
            await connection.run_sync(_upgrade)
            await connection.commit()
    finally:
        await engine.dispose()


async def _take_turn(connection: AsyncConnection) -> None:
    """Wait for the lock by asking again and again.

    An index that is built concurrently waits for all statements that were running, also for one that waits for this
    lock.
    """
    while not (
        await connection.execute(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _MIGRATION_LOCK})
    ).scalar_one():
        await connection.commit()
        await asyncio.sleep(_LOCK_POLL_S)
    await connection.commit()


def _upgrade(connection: Connection) -> None:
    config = Config(ROOT / "alembic.ini")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
