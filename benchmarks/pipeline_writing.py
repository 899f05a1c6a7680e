"""Events, written into PostgreSQL by the API's own statement: id, event and outbox row in one transaction."""

import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
from sqlalchemy import make_url

from app.core.db import Database
from app.core.migrations import migrate
from app.embedded.data_folder import DataFolder
from app.embedded.postgres import EmbeddedPostgres
from app.events.repository import EventRepository
from app.events.values import Event
from benchmarks.runs import note

# As much as the API takes in one batch.
EVENTS_PER_TRANSACTION = 1_000
_WRITERS = 2
_USERS = 50_000


@contextmanager
def running_postgres(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL of the service's kind, as durable as in normal work; yields its URL."""
    data = DataFolder.open(folder)
    postgres = EmbeddedPostgres(data, say=note)
    try:
        url = postgres.start()
        asyncio.run(migrate(url))
        yield url
    finally:
        postgres.stop()
        data.close()


async def connect(url: str) -> asyncpg.Connection:
    """Open a connection for whoever asks PostgreSQL itself."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return await asyncpg.connect(plain, ssl=False, server_settings={"timezone": "UTC"})


def made_up_events(count: int) -> list[Event]:
    """Return so many events of a shop, each with an id of its own."""
    return [
        Event(
            project_id=1,
            event_id=uuid4(),
            experiment_id=None,
            user_id=f"user-{random.randrange(_USERS)}",
            event_type="purchase",
            timestamp=None,
            value=random.randrange(10_000) / 100,
            properties={"sku": f"sku-{random.randrange(1000)}", "quantity": random.randrange(7)},
        )
        for _ in range(count)
    ]


async def write(url: str, n_events: int) -> float:
    """Write so many events as fast as PostgreSQL takes them; returns how many seconds that took."""
    database = Database.connect(url, pool_size=_WRITERS)
    batches = itertools.repeat(EVENTS_PER_TRANSACTION, n_events // EVENTS_PER_TRANSACTION)
    began = time.perf_counter()
    try:
        await asyncio.gather(*(_write_batches(database, batches) for _ in range(_WRITERS)))
    finally:
        await database.close()
    return time.perf_counter() - began


async def _write_batches(database: Database, batches: Iterator[int]) -> None:
    for count in batches:
        await record(database, count)


async def record(database: Database, count: int) -> None:
    """Write one batch, in one transaction."""
    events = made_up_events(count)
    async with database.begin() as connection:
        await EventRepository(connection).record(events)
