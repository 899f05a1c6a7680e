"""SQL of assignments and overrides."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.assignments import messages
from app.assignments.values import Key, Override, Question, Source, Stored, StoredAssignment

_FIND = text(
    "SELECT experiment_id, user_id, variant_id, source, experiment_version, assigned_at FROM assignments"
    " JOIN unnest(CAST(:experiment_ids AS bigint[]), CAST(:user_ids AS text[])) AS asked (experiment_id, user_id)"
    " USING (experiment_id, user_id)"
)

# In the order of the primary key, so that two processes with overlapping batches cannot deadlock. The join makes
# sure that the decision was taken on the experiment as it stands now: any change of it makes a new version.
_ENROLL = text(
    f"""
WITH moment AS MATERIALIZED (
    SELECT ingestion_time() AS now
), wanted AS (
    SELECT * FROM unnest(
        CAST(:experiment_ids AS bigint[]), CAST(:user_ids AS text[]), CAST(:variant_ids AS bigint[]),
        CAST(:versions AS int[]), CAST(:contexts AS text[])
    ) AS asked (experiment_id, user_id, variant_id, version, context)
), stored AS (
    INSERT INTO assignments
        (experiment_id, user_id, variant_id, source, experiment_version, context, assigned_at, ingested_at)
    SELECT wanted.experiment_id, wanted.user_id, wanted.variant_id, 'hash', wanted.version,
           wanted.context::jsonb, moment.now, moment.now
    FROM wanted
    JOIN experiments ON experiments.id = wanted.experiment_id
        AND experiments.version = wanted.version AND experiments.status = 'running'
    CROSS JOIN moment
    ORDER BY wanted.experiment_id, wanted.user_id
    ON CONFLICT (experiment_id, user_id) DO NOTHING
    RETURNING *
), sent AS (
    INSERT INTO outbox_events (aggregatetype, aggregateid, type, payload)
    SELECT '{messages.AGGREGATE}', stored.user_id, '{messages.ASSIGNED}', {messages.ASSIGNED_PAYLOAD} FROM stored
)
SELECT experiment_id, user_id, variant_id, source, experiment_version, assigned_at FROM stored
"""  # noqa: S608  # Made of constants only.
)

_IMPORT = text(
    f"""
WITH moment AS MATERIALIZED (
    SELECT ingestion_time() AS now
), wanted AS (
    SELECT * FROM unnest(
        CAST(:user_ids AS text[]), CAST(:variant_ids AS bigint[]), CAST(:moments AS timestamptz[])
    ) AS asked (user_id, variant_id, assigned_at)
), stored AS (
    INSERT INTO assignments
        (experiment_id, user_id, variant_id, source, experiment_version, assigned_at, ingested_at)
    SELECT experiments.id, wanted.user_id, wanted.variant_id, 'import', experiments.version,
           wanted.assigned_at, moment.now
    FROM wanted
    JOIN experiments ON experiments.id = :experiment_id
    CROSS JOIN moment
    ORDER BY wanted.user_id
    ON CONFLICT (experiment_id, user_id) DO NOTHING
    RETURNING *
), sent AS (
    INSERT INTO outbox_events (aggregatetype, aggregateid, type, payload)
    SELECT '{messages.AGGREGATE}', stored.user_id, '{messages.ASSIGNED}', {messages.ASSIGNED_PAYLOAD} FROM stored
)
SELECT user_id FROM stored
"""  # noqa: S608  # Made of constants only.
)

_LIST = text(
    "SELECT user_id, variant_id, source, experiment_version, context, assigned_at, ingested_at FROM assignments"
    " WHERE experiment_id = :experiment_id"
    " AND (CAST(:variant_id AS bigint) IS NULL OR variant_id = :variant_id)"
    " AND (CAST(:after_at AS timestamptz) IS NULL OR (ingested_at, user_id) < (:after_at, :after_user))"
    " ORDER BY ingested_at DESC, user_id DESC LIMIT :limit"
)

_SEND_OVERRIDE = f"""
INSERT INTO outbox_events (aggregatetype, aggregateid, type, payload)
SELECT '{messages.OVERRIDE_AGGREGATE}', stored.user_id, '{messages.OVERRIDDEN}', {messages.OVERRIDDEN_PAYLOAD}
FROM stored
"""  # noqa: S608  # Made of constants only.

# The same override again changes nothing: its user stays exposed from the first time.
_PUT_OVERRIDE = text(
    f"""
WITH moment AS MATERIALIZED (
    SELECT ingestion_time() AS now
), stored AS (
    INSERT INTO overrides AS kept (experiment_id, user_id, variant_id, exposed_at, removed, change_epoch, ingested_at)
    SELECT :experiment_id, :user_id, :variant_id, moment.now, false, :epoch, moment.now
    FROM moment
    ON CONFLICT (experiment_id, user_id) DO UPDATE SET
        variant_id = excluded.variant_id, exposed_at = excluded.exposed_at, removed = false,
        change_epoch = excluded.change_epoch, ingested_at = excluded.ingested_at
        WHERE kept.removed OR kept.variant_id <> excluded.variant_id
    RETURNING *
), sent AS ({_SEND_OVERRIDE})
SELECT variant_id, exposed_at FROM stored
"""  # noqa: S608  # Made of constants only.
)

_REMOVE_OVERRIDE = text(
    f"""
WITH stored AS (
    UPDATE overrides SET removed = true, variant_id = NULL, change_epoch = :epoch, ingested_at = ingestion_time()
    WHERE experiment_id = :experiment_id AND user_id = :user_id AND NOT removed
    RETURNING *
)
{_SEND_OVERRIDE}
"""  # noqa: S608  # Made of constants only.
)

_FIND_OVERRIDE = text(
    "SELECT variant_id, exposed_at FROM overrides WHERE experiment_id = :experiment_id AND user_id = :user_id"
)

_CHANGED_OVERRIDES = text(
    "SELECT experiment_id, user_id, variant_id, exposed_at, removed FROM overrides WHERE change_epoch > :epoch"
)


class AssignmentRepository:
    """Reads and writes stored assignments, many at a time."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find_many(self, keys: Sequence[Key]) -> dict[Key, Stored]:
        """Return what is stored of (experiment id, user id) pairs."""
        rows = await self._connection.execute(
            _FIND, {"experiment_ids": [key[0] for key in keys], "user_ids": [key[1] for key in keys]}
        )
        return {(row.experiment_id, row.user_id): _stored(row) for row in rows}

    async def enroll_many(self, wanted: Sequence[tuple[Question, int]]) -> dict[Key, Stored]:
        """Store (question, variant id) pairs with distinct keys, each with its outbox row.

        Returns:
            what was stored now. A key is missing when the user was assigned already, or when the experiment is
            not as the question has it any more.
        """
        rows = await self._connection.execute(
            _ENROLL,
            {
                "experiment_ids": [question.experiment.id for question, _ in wanted],
                "user_ids": [question.user_id for question, _ in wanted],
                "variant_ids": [variant_id for _, variant_id in wanted],
                "versions": [question.experiment.version for question, _ in wanted],
                "contexts": [_json_or_none(question.context) for question, _ in wanted],
            },
        )
        return {(row.experiment_id, row.user_id): _stored(row) for row in rows}

    async def import_many(self, experiment_id: int, wanted: Sequence[tuple[str, int, datetime]]) -> set[str]:
        """Store (user id, variant id, moment) of distinct users; returns the users that were not assigned before."""
        rows = await self._connection.execute(
            _IMPORT,
            {
                "experiment_id": experiment_id,
                "user_ids": [user_id for user_id, _, _ in wanted],
                "variant_ids": [variant_id for _, variant_id, _ in wanted],
                "moments": [assigned_at for _, _, assigned_at in wanted],
            },
        )
        return set(rows.scalars())

    async def list_(
        self, experiment_id: int, variant_id: int | None, after: tuple[datetime, str] | None, limit: int
    ) -> list[StoredAssignment]:
        """Return up to `limit` stored assignments, the last stored first."""
        rows = await self._connection.execute(
            _LIST,
            {
                "experiment_id": experiment_id,
                "variant_id": variant_id,
                "after_at": after[0] if after else None,
                "after_user": after[1] if after else None,
                "limit": limit,
            },
        )
        return [
            StoredAssignment(
                user_id=row.user_id,
                variant_id=row.variant_id,
                source=Source(row.source),
                version=row.experiment_version,
                context=row.context,
                assigned_at=row.assigned_at,
                ingested_at=row.ingested_at,
            )
            for row in rows
        ]


class OverrideRepository:
    """Reads and writes overrides."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def put(self, experiment_id: int, user_id: str, variant_id: int, epoch: int) -> Override:
        """Store the override; returns the one in force, which is the former one if it says the same."""
        key = {"experiment_id": experiment_id, "user_id": user_id}
        values = {**key, "variant_id": variant_id, "epoch": epoch}
        row = (await self._connection.execute(_PUT_OVERRIDE, values)).one_or_none()
        if row is None:
            row = (await self._connection.execute(_FIND_OVERRIDE, key)).one()
        return Override(row.variant_id, row.exposed_at)

    async def find(self, experiment_id: int, user_id: str) -> Override | None:
        row = (
            await self._connection.execute(_FIND_OVERRIDE, {"experiment_id": experiment_id, "user_id": user_id})
        ).one_or_none()
        # Of a removed one the row stays, without a variant.
        return None if row is None or row.variant_id is None else Override(row.variant_id, row.exposed_at)

    async def remove(self, experiment_id: int, user_id: str, epoch: int) -> bool:
        """Remove the override; returns whether there was one."""
        result = await self._connection.execute(
            _REMOVE_OVERRIDE, {"experiment_id": experiment_id, "user_id": user_id, "epoch": epoch}
        )
        return result.rowcount > 0

    async def changed_since(self, epoch: int) -> dict[Key, Override | None]:
        """Return overrides changed after `epoch`; `None` for removed ones."""
        rows = await self._connection.execute(_CHANGED_OVERRIDES, {"epoch": epoch})
        return {
            (row.experiment_id, row.user_id): None if row.removed else Override(row.variant_id, row.exposed_at)
            for row in rows
        }


def _stored(row: Row[Any]) -> Stored:
    return Stored(row.variant_id, Source(row.source), row.experiment_version, row.assigned_at)


def _json_or_none(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
