"""Answers kept in PostgreSQL for a while, so that a number that was shown can be shown again."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from app.core.db import Database, StoreUnavailable
from app.results.answer import Results
from app.results.provenance import STORE_UNAVAILABLE, with_answer_id, without_answer_id

log = structlog.get_logger()

# Long enough to settle a question about a number, short enough that nobody has to think of the disk.
KEPT_FOR = timedelta(days=30)
MOST_KEPT = 200  # Of one experiment: the newest.
# An answer does not wait longer for its own copy.
_PATIENCE_S = 0.5
# Expired answers of experiments that nobody asks for any more go a few at a time, with the answers of others.
_EXPIRED_AT_ONCE = 20

_INSERT = text(
    "INSERT INTO answers (id, experiment_id, query_hash, document) VALUES (:id, :experiment_id, :query_hash, :document)"
)
# Rows that somebody else is removing are left to him, so that two never wait for each other.
_REMOVE_SURPLUS = text(
    """
DELETE FROM answers WHERE id IN (
    SELECT id FROM answers WHERE experiment_id = :experiment_id ORDER BY kept_at DESC OFFSET :most_kept
    FOR UPDATE SKIP LOCKED
)
"""
)
_REMOVE_EXPIRED = text(
    """
DELETE FROM answers WHERE id IN (
    SELECT id FROM answers WHERE kept_at < clock_timestamp() - CAST(:kept_for AS interval)
    ORDER BY kept_at LIMIT :most FOR UPDATE SKIP LOCKED
)
"""
)
_FIND = text(
    """
SELECT document FROM answers
WHERE id = :id AND experiment_id = :experiment_id AND kept_at >= clock_timestamp() - CAST(:kept_for AS interval)
"""
)


class KeptAnswers:
    """Keeps answers as they were given; an answer never fails because it could not be kept."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, results: Results) -> Results:
        """Return the answer with the id under which it is kept, or with the reason why it is not."""
        answer_id = uuid4()
        named = replace(results, provenance=with_answer_id(results.provenance, str(answer_id)))
        task = asyncio.create_task(self._insert(answer_id, named), name="keep answer")
        # Not cancelled and awaited: taking leave of a hanging server hangs, too.
        _, late = await asyncio.wait({task}, timeout=_PATIENCE_S)
        if late:
            task.add_done_callback(_mark_as_seen)
            task.cancel()
            log.warning("results.answer_not_kept", experiment_id=results.experiment_id, error="timeout")
            return not_kept(results)
        try:
            task.result()
        except StoreUnavailable as error:
            log.warning("results.answer_not_kept", experiment_id=results.experiment_id, error=str(error))
            return not_kept(results)
        except IntegrityError:  # The experiment, a draft, was deleted in the meantime.
            return results
        return named

    async def find(self, experiment_id: int, answer_id: UUID) -> str | None:
        """Return the JSON text that was answered, `None` if there is none under the id.

        Raises:
            StoreUnavailable: PostgreSQL cannot be reached.
        """
        values = {"id": answer_id, "experiment_id": experiment_id, "kept_for": KEPT_FOR}
        async with self._database.read() as connection:
            document: str | None = (await connection.execute(_FIND, values)).scalar_one_or_none()
        return document

    async def _insert(self, answer_id: UUID, results: Results) -> None:
        async with self._database.begin() as connection:
            values = {
                "id": answer_id,
                "experiment_id": results.experiment_id,
                "query_hash": results.provenance.query_hash,
                "document": msgspec.json.encode(results).decode(),
            }
            await connection.execute(_INSERT, values)
            await connection.execute(_REMOVE_SURPLUS, {"experiment_id": results.experiment_id, "most_kept": MOST_KEPT})
            await connection.execute(_REMOVE_EXPIRED, {"kept_for": KEPT_FOR, "most": _EXPIRED_AT_ONCE})


def not_kept(results: Results) -> Results:
    """Return the answer saying that PostgreSQL is away."""
    return replace(results, provenance=without_answer_id(results.provenance, STORE_UNAVAILABLE))


def _mark_as_seen(task: "asyncio.Task[None]") -> None:
    """Look at the exception of a task that nobody waits for any more, so that it is not reported as forgotten."""
    if not task.cancelled():
        task.exception()
