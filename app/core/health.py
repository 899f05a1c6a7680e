"""Liveness and readiness."""

import asyncio
from collections.abc import Coroutine
from typing import Literal

from pydantic import BaseModel
from sqlalchemy import text

from app.core.clickhouse import ClickHouse
from app.core.db import Database, StoreUnavailable
from app.core.redis import RedisAid

_PATIENCE_S = 2.0
State = Literal["ok", "down"]


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """`ready`: all is well; `degraded`: an aid or the history is away; `unavailable`: PostgreSQL is away."""

    status: Literal["ready", "degraded", "unavailable"]
    checks: dict[str, State]


async def readiness(database: Database, redis: RedisAid, clickhouse: ClickHouse) -> Readiness:
    """Ask every server whether it answers."""
    states = await asyncio.gather(
        _within_patience(_database_answers(database)),
        _within_patience(redis.ping()),
        _within_patience(clickhouse.ping()),
    )
    checks: dict[str, State] = {
        name: "ok" if up else "down" for name, up in zip(("postgresql", "redis", "clickhouse"), states, strict=True)
    }
    if checks["postgresql"] == "down":
        return Readiness(status="unavailable", checks=checks)
    return Readiness(status="ready" if all(states) else "degraded", checks=checks)


async def _within_patience(check: Coroutine[None, None, bool]) -> bool:
    try:
        return await asyncio.wait_for(check, _PATIENCE_S)
    except TimeoutError:
        return False


async def _database_answers(database: Database) -> bool:
    try:
        async with database.read() as connection:
            await connection.execute(text("SELECT 1"))
    except StoreUnavailable:
        return False
    return True
