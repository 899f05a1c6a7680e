"""How Alembic reaches the database: an asyncpg engine, handed in or made from DATABASE_URL."""

import asyncio
import os
import re

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.sql.schema import SchemaItem

from alembic import context
from app.outbox.models import Xid8
from app.tables import metadata

ischema_names["xid8"] = Xid8  # SQLAlchemy does not know it when it reflects.
# Partitions come and go by the maintenance job; only their parents are part of the model.
_PARTITION = re.compile(r"^(events|outbox_events)_(p\d{6,8}|default)$")


def _is_modelled(
    item: SchemaItem,
    name: str | None,
    kind: str,
    _reflected: bool,  # noqa: FBT001  # Alembic's signature.
    _compare_to: SchemaItem | None,
) -> bool:
    if kind == "table":
        return name is not None and _PARTITION.match(name) is None
    table = getattr(item, "table", None)
    return table is None or _PARTITION.match(table.name) is None


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_object=_is_modelled,
        compare_server_default=False,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def _run_on(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.run_sync(_run)
    await engine.dispose()


def _url() -> str:
    url = context.config.get_main_option("sqlalchemy.url") or os.environ.get("DATABASE_URL")
    if not url:
        raise SystemExit("DATABASE_URL: must be set, as in postgresql+asyncpg://user:password@host:5432/database")
    return url


connection: Connection | None = context.config.attributes.get("connection")
if connection is not None:
    _run(connection)
else:
    asyncio.run(_run_on(create_async_engine(_url())))
