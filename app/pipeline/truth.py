"""PostgreSQL's stored rows: how many there are, what identifies them, and the messages that brought them.

Each row has an identity of 64 bits, the same in PostgreSQL and in ClickHouse. Sums of identities modulo 2^64 depend
on no order and can be added up, so that both databases can say by one number which rows they hold.
"""

import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Self
from uuid import UUID

import asyncpg
import msgspec

from app.assignments import messages as assignments
from app.core.db import Database
from app.events import messages as events
from app.experiments import messages as experiments
from app.experiments.repository import ExperimentRepository
from app.experiments.values import Experiment
from app.pipeline.messages import Message

# Rows that are read, sent and forgotten together.
_BATCH_ROWS = 5_000
_MODULUS = 2**64
# An hour of many rows takes its time; it reads by index and holds nobody up.
_TIMEOUT_S = 300.0


class Unit(StrEnum):
    """Into which pieces a range of ingestion times is cut."""

    HOUR = "hour"
    MINUTE = "minute"


class Digest(NamedTuple):
    """What rows there are: their number and the sum of their identities."""

    row_count: int
    checksum: int

    def plus(self, other: Self) -> "Digest":
        return Digest(self.row_count + other.row_count, (self.checksum + other.checksum) % _MODULUS)


NOTHING = Digest(0, 0)


class Piece(NamedTuple):
    """A piece of time, and an experiment; `None` stands for events that name none."""

    start: datetime
    experiment_id: int | None


class StoredRow(NamedTuple):
    """A row's identity, the message that brings it, and when it was ingested."""

    identity: int
    message: Message
    ingested_at: datetime


@dataclass(frozen=True, slots=True)
class Subject:
    """Rows that both databases hold. In PostgreSQL's expressions `stored` is the row."""

    # In ClickHouse.
    table: str
    # What identifies a row, as text, in PostgreSQL and in ClickHouse.
    identity: str
    copied_identity: str
    source: str
    aggregatetype: str
    type: str
    ingested_at: str = "stored.ingested_at"
    experiment_id: str = "stored.experiment_id"
    # The outbox's payload; experiments have none, since theirs is not made by SQL.
    payload: str | None = None
    message_id: str | None = None


_US = "(extract(epoch FROM stored.{column}) * 1000000)::bigint"

EVENTS = Subject(
    table="events",
    identity="stored.project_id || '/' || coalesce(stored.experiment_id::text, '') || '/' || stored.event_id",
    copied_identity=("concat(toString(project_id), '/', ifNull(toString(experiment_id), ''), '/', toString(event_id))"),
    source="events AS stored",
    aggregatetype=events.AGGREGATE,
    type=events.RECORDED,
    payload=events.RECORDED_PAYLOAD,
    message_id="stored.event_id",
)
EXPOSURES = Subject(
    table="exposures",
    identity=(
        f"stored.experiment_id || '/' || stored.variant_id || '/' || {_US.format(column='assigned_at')}"
        " || '/' || stored.user_id"
    ),
    copied_identity=(
        "concat(toString(experiment_id), '/', toString(variant_id), '/',"
        " toString(toUnixTimestamp64Micro(exposed_at)), '/', user_id)"
    ),
    # By experiment, as the index is ordered.
    source="experiments JOIN assignments AS stored ON stored.experiment_id = experiments.id",
    aggregatetype=assignments.AGGREGATE,
    type=assignments.ASSIGNED,
    payload=assignments.ASSIGNED_PAYLOAD,
)
OVERRIDES = Subject(
    table="overrides",
    identity=(
        "stored.experiment_id || '/' || coalesce(stored.variant_id, 0) || '/' ||"
        f" {_US.format(column='exposed_at')} || '/' || stored.change_epoch || '/' || stored.user_id"
    ),
    copied_identity=(
        "concat(toString(experiment_id), '/', toString(variant_id), '/',"
        " toString(toUnixTimestamp64Micro(exposed_at)), '/', toString(epoch), '/', user_id)"
    ),
    source="overrides AS stored",
    aggregatetype=assignments.OVERRIDE_AGGREGATE,
    type=assignments.OVERRIDDEN,
    payload=assignments.OVERRIDDEN_PAYLOAD,
)
# Every change of an experiment makes a new version.
EXPERIMENTS = Subject(
    table="experiments",
    identity="stored.id || '/' || stored.version || '/' || stored.status || '/' || stored.key",
    copied_identity="concat(toString(experiment_id), '/', toString(version), '/', status, '/', key)",
    source="experiments AS stored",
    ingested_at="stored.updated_at",
    experiment_id="stored.id",
    aggregatetype=experiments.AGGREGATE,
    type=experiments.CHANGED,
)

_RANGE = "{subject.ingested_at} >= $1 AND {subject.ingested_at} < $2"
# The first half of the text's MD5. It keeps nobody out; it tells rows apart, and both databases know it.
_IDENTITY = "('x' || left(md5({subject.identity}), 16))::bit(64)::bigint"
_DIGESTS = f"""
SELECT date_trunc('{{unit}}', {{subject.ingested_at}}, 'UTC') AS start, {{subject.experiment_id}} AS experiment_id,
    count(*) AS row_count, sum({_IDENTITY}) AS checksum
FROM {{subject.source}} WHERE {_RANGE} GROUP BY 1, 2
"""  # noqa: S608  # Made of constants.
_ROWS = f"""
SELECT {_IDENTITY} AS identity, {{message_id}} AS message_id, {{subject.ingested_at}} AS ingested_at,
    convert_to(({{subject.payload}})::text, 'UTF8') AS payload
FROM {{subject.source}} WHERE {_RANGE}
"""  # noqa: S608  # Likewise.
# An assignment's message had an id at random. One that is derived from the row makes no second dead letter.
_DERIVED_ID = "md5({subject.identity})::uuid"
# As the outbox writes it: see `app.outbox.repository`.
_AS_IN_OUTBOX = (
    "SELECT convert_to((payload::jsonb || jsonb_build_object('ingested_at', ingested_at))::text, 'UTF8') AS payload"
    " FROM unnest($1::text[], $2::timestamptz[]) WITH ORDINALITY AS made (payload, ingested_at, position)"
    " ORDER BY position"
)

# Partitions that were filled a moment ago have no statistics, and assignments have an index by experiment only.
WALK_THE_INDEXES = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"


class Truth:
    """Reads PostgreSQL's rows, by index and piece by piece."""

    def __init__(self, connection: asyncpg.Connection, database: Database) -> None:
        self._connection = connection
        self._database = database

    async def digests(self, subject: Subject, start: datetime, end: datetime, unit: Unit) -> Mapping[Piece, Digest]:
        """Say what rows were ingested in the range, for each piece and experiment that has any."""
        sql = _DIGESTS.format(subject=subject, unit=unit.value)
        found = await self._connection.fetch(sql, start, end, timeout=_TIMEOUT_S)
        return {
            Piece(row["start"], row["experiment_id"]): Digest(row["row_count"], int(row["checksum"]) % _MODULUS)
            for row in found
        }

    async def rows(self, subject: Subject, start: datetime, end: datetime) -> AsyncGenerator[Sequence[StoredRow], None]:
        """Return the rows that were ingested in the range, some at a time.

        Whoever does not read them all has to close the generator, which holds a transaction open.
        """
        if subject.payload is None:
            yield await self._experiments(start, end)
            return
        message_id = subject.message_id or _DERIVED_ID.format(subject=subject)
        sql = _ROWS.format(subject=subject, message_id=message_id)
        async with self._connection.transaction(readonly=True):
            cursor = await self._connection.cursor(sql, start, end)
            while found := await cursor.fetch(_BATCH_ROWS, timeout=_TIMEOUT_S):
                yield [_stored_row(subject, row) for row in found]

    async def _experiments(self, start: datetime, end: datetime) -> Sequence[StoredRow]:
        async with self._database.read() as connection:
            current = await ExperimentRepository(connection).changed_since(-1)
        wanted = [experiment for experiment in current if start <= experiment.updated_at < end]
        payloads = [msgspec.json.encode(experiments.experiment_changed(item)).decode() for item in wanted]
        moments = [item.updated_at for item in wanted]
        made = await self._connection.fetch(_AS_IN_OUTBOX, payloads, moments)
        return [_experiment_row(item, row["payload"]) for item, row in zip(wanted, made, strict=True)]


def identity_of(text: str) -> int:
    """Return the identity of a row that this text identifies."""
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:8])


def _stored_row(subject: Subject, row: asyncpg.Record) -> StoredRow:
    message = Message(row["message_id"], subject.aggregatetype, subject.type, row["payload"])
    return StoredRow(row["identity"] % _MODULUS, message, row["ingested_at"])


def _experiment_row(experiment: Experiment, payload: bytes) -> StoredRow:
    text = f"{experiment.id}/{experiment.version}/{experiment.status.value}/{experiment.key}"
    message_id = UUID(bytes=hashlib.md5(text.encode(), usedforsecurity=False).digest())
    message = Message(message_id, experiments.AGGREGATE, experiments.CHANGED, payload)
    return StoredRow(identity_of(text), message, experiment.updated_at)
