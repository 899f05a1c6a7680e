"""Answers kept in PostgreSQL for a while, so that a number that was shown can be shown again."""

import asyncio
import hashlib
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.core.db import Database, StoreUnavailable, was_cut_short
from app.core.patience import within
from app.results.answer import Results
from app.results.provenance import STORE_UNAVAILABLE, with_answer_id, without_answer_id
from app.results.values import LONGEST_KEPT

log = structlog.get_logger()

# Long enough to settle a question about a number, short enough that nobody has to think of the disk.
KEPT_FOR = timedelta(days=30)
MOST_KEPT = 200  # Of one experiment: the newest.
# These stay however many came after them. The cache may give out an answer once more until it forgets it, and the id
# in it has to be good for a while then.
SPARED_FOR = 2 * LONGEST_KEPT
# An answer does not wait longer for its own copy.
_PATIENCE_S = 0.5
# Expired answers of experiments that nobody asks for any more go a few at a time, with the answers of others.
_EXPIRED_AT_ONCE = 20
# Of 200 kB of JSON this leaves 20 in 0.7 ms; PostgreSQL's own way leaves 70, and takes 4 ms longer.
_COMPRESSION = 1
# In the place of a moment, where it does not matter which.
_NO_MOMENT = datetime(1970, 1, 1, tzinfo=UTC)

_INSERT = text(
    "INSERT INTO answers (id, experiment_id, query_hash, packed, content_hash)"
    " VALUES (:id, :experiment_id, :query_hash, :packed, :content_hash)"
)
# The answer that holds the document becomes the newer of the two, so that it never goes before those that refer to it.
_INSERT_MOMENTS = text(
    """
WITH same AS (
    UPDATE answers SET kept_at = clock_timestamp() WHERE id = (
        SELECT id FROM answers
        WHERE experiment_id = :experiment_id AND content_hash = :content_hash AND packed IS NOT NULL
            AND kept_at >= clock_timestamp() - CAST(:kept_for AS interval)
        ORDER BY kept_at DESC LIMIT 1 FOR UPDATE
    ) RETURNING id, kept_at
)
INSERT INTO answers (id, experiment_id, query_hash, same_as, moments, kept_at)
SELECT CAST(:id AS uuid), CAST(:experiment_id AS bigint), CAST(:query_hash AS text), same.id, CAST(:moments AS text),
    same.kept_at - interval '1 microsecond'
FROM same
RETURNING id
"""
)
# Rows that somebody else is removing are left to him, so that two never wait for each other.
_REMOVE_SURPLUS = text(
    """
DELETE FROM answers WHERE id IN (
    SELECT id FROM answers
    WHERE experiment_id = :experiment_id AND kept_at < clock_timestamp() - CAST(:spared_for AS interval)
    ORDER BY kept_at DESC
    OFFSET greatest(0, :most_kept - (
        SELECT count(*) FROM answers
        WHERE experiment_id = :experiment_id AND kept_at >= clock_timestamp() - CAST(:spared_for AS interval)
    ))
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
SELECT found.document, coalesce(found.packed, same.packed) AS packed, found.moments
FROM answers AS found LEFT JOIN answers AS same ON same.id = found.same_as
WHERE found.id = :id AND found.experiment_id = :experiment_id
    AND found.kept_at >= clock_timestamp() - CAST(:kept_for AS interval)
"""
)


class KeptAnswers:
    """Keeps answers as they were given; an answer never fails because it could not be kept."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Of its own, because those that all share may be busy for long, and this takes a moment. It starts when used.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kept-answers")

    async def keep(self, results: Results) -> Results:
        """Return the answer with the id under which it is kept, or with the reason why it is not."""
        answer_id = uuid4()
        named = replace(results, provenance=with_answer_id(results.provenance, str(answer_id)))
        # The patience is for PostgreSQL alone, which has no transaction open meanwhile.
        packed = await self._packed(named)
        try:
            await within(_PATIENCE_S, self._insert(answer_id, named, packed))
        except IntegrityError:  # The experiment, a draft, was deleted in the meantime.
            return results
        except (StoreUnavailable, TimeoutError) as error:
            return _lost(results, error)
        except DBAPIError as error:
            if not was_cut_short(error):
                raise
            return _lost(results, error)
        return named

    async def find(self, experiment_id: int, answer_id: UUID) -> str | None:
        """Return the JSON text that was answered, `None` if there is none under the id.

        Raises:
            StoreUnavailable: PostgreSQL cannot be reached.
        """
        values = {"id": answer_id, "experiment_id": experiment_id, "kept_for": KEPT_FOR}
        async with self._database.read() as connection:
            row = (await connection.execute(_FIND, values)).one_or_none()
        if row is None:
            return None
        if row.document is not None:  # An earlier release kept answers as they are.
            return str(row.document)
        document = zlib.decompress(row.packed).decode()
        return document if row.moments is None else _at_moments(document, row.moments)

    async def _packed(self, results: Results) -> bytes:
        loop, document = asyncio.get_running_loop(), msgspec.json.encode(results)
        return await loop.run_in_executor(self._thread, zlib.compress, document, _COMPRESSION)

    async def _insert(self, answer_id: UUID, results: Results, packed: bytes) -> None:
        shared = {
            "id": answer_id,
            "experiment_id": results.experiment_id,
            "query_hash": results.provenance.query_hash,
            "content_hash": _content_hash(results),
        }
        surplus = {"experiment_id": results.experiment_id, "most_kept": MOST_KEPT, "spared_for": SPARED_FOR}
        async with self._database.begin() as connection:
            # An answer that says what is kept already costs a line, not a document.
            values = {**shared, "moments": _moments_of(results), "kept_for": KEPT_FOR}
            if (await connection.execute(_INSERT_MOMENTS, values)).one_or_none() is None:
                await connection.execute(_INSERT, {**shared, "packed": packed})
            await connection.execute(_REMOVE_SURPLUS, surplus)
            await connection.execute(_REMOVE_EXPIRED, {"kept_for": KEPT_FOR, "most": _EXPIRED_AT_ONCE})


def _content_hash(results: Results) -> bytes:
    """Return the SHA-256 of all that two answers to one question have in common if nothing happened between them."""
    provenance = replace(results.provenance, answer_id=None, complete_until=_NO_MOMENT, lag_seconds=0.0)
    metadata = replace(results.metadata, complete_until=_NO_MOMENT, computed_at=_NO_MOMENT)
    return hashlib.sha256(msgspec.json.encode(replace(results, provenance=provenance, metadata=metadata))).digest()


def _moments_of(results: Results) -> str:
    """Return, as JSON, what that leaves out."""
    provenance, metadata = results.provenance, results.metadata
    moments = {
        "provenance": {
            "answer_id": provenance.answer_id,
            "complete_until": provenance.complete_until,
            "lag_seconds": provenance.lag_seconds,
        },
        "metadata": {"complete_until": metadata.complete_until, "computed_at": metadata.computed_at},
    }
    return msgspec.json.encode(moments).decode()


def _at_moments(document: str, moments: str) -> str:
    """Return the kept document with the moments of another answer that says the same."""
    whole: dict[str, Any] = msgspec.json.decode(document)
    for part, values in msgspec.json.decode(moments, type=dict[str, dict[str, Any]]).items():
        whole[part] |= values
    return msgspec.json.encode(whole).decode()


def not_kept(results: Results) -> Results:
    """Return the answer saying that PostgreSQL is away."""
    return replace(results, provenance=without_answer_id(results.provenance, STORE_UNAVAILABLE))


def _lost(results: Results, error: Exception) -> Results:
    log.warning("results.answer_not_kept", experiment_id=results.experiment_id, error=type(error).__name__)
    return not_kept(results)
