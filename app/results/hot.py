"""What PostgreSQL observes: one statement, one pass over the events for all that was asked.

What counts is defined here and, in the same words, in `cold`; a property test holds the two equal to the last bit.
Sums of values are exact and know no order: every value becomes a whole number of a unit that is a power of two,
chosen so that the largest value just fits 62 bits, and whole numbers are summed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.db import Database
from app.events.messages import MOST_AHEAD
from app.measurement.errors import TailTooLarge
from app.measurement.plan import look_back
from app.measurement.stores import PREPARING, measure_hot, tail_events
from app.measurement.tail_size import refuse_too_large, sizing
from app.measurement.values import Exposed, Measured
from app.results import exposed_hot
from app.results.errors import StoreIncomplete
from app.results.exposed_hot import NAMED_VARIANTS, exposed_in_postgres, sighting_parameters
from app.results.measuring import asked_of, days_of
from app.results.observed import FOREVER, LATE, P95, Row, observations_of, segments_of, with_measured, with_segments
from app.results.reach import hold_events, store_reaches
from app.results.values import NOTHING_WANTED, Observations, Question, Subject, Tail, Wanted
from app.rollups.steps import ORIGIN

# A statement of this kind needs memory for a hash of all users; the plan must not depend on statistics that a
# bulk load has left behind: every join here is one of equality over many rows, for which hashing is right, and
# parallel workers would take the processors that assignment needs.
_PREPARE = text(f"{PREPARING}, clock_timestamp() AS now")

# The conditions on ingestion times follow from those on the events' own, and spare partitions that are too old.
_COUNTED = """, counted AS MATERIALIZED (
    SELECT exposed.variant_id, exposed.unit, happened.event_type, happened.value,
        date_bin(CAST(:width AS interval), happened.ts, CAST(:origin AS timestamptz)) AS bucket,
        happened.ingested_at - happened.ts > CAST(:late AS interval) AS late
    FROM events AS happened JOIN exposed ON happened.user_id = exposed.user_id
    WHERE happened.project_id = CAST(:project_id AS bigint)
      AND happened.ts >= exposed.exposed_at
      AND happened.ingested_at >= (
        SELECT least(at, (SELECT min(exposed_at) FROM overridden)) FROM earliest) - CAST(:most_ahead AS interval)
      AND (happened.experiment_id IS NULL OR happened.experiment_id = CAST(:experiment_id AS bigint))
      AND (CAST(:since AS timestamptz) IS NULL OR (
        happened.ts >= CAST(:since AS timestamptz)
        AND happened.ingested_at >= CAST(:since AS timestamptz) - CAST(:most_ahead AS interval)))
      AND (CAST(:until AS timestamptz) IS NULL OR happened.ts < CAST(:until AS timestamptz))
      AND (CAST(:event_types AS text[]) IS NULL OR happened.event_type = ANY (CAST(:event_types AS text[])))
)"""
# The exponent field of a double is read from its bytes: no logarithm rounds as reliably. Two factors, because one
# power of two may be beyond a double's range where their product applied one by one is not. What is below `least`
# rounds to 0; it is not multiplied, because PostgreSQL makes an error of a product too small for a double.
_SCALE = """, largest AS (
    SELECT max(abs(value)) AS peak FROM counted
), scale AS MATERIALIZED (
    SELECT peak, 1084 - (((get_byte(bytes, 0) & 127) << 4) | (get_byte(bytes, 1) >> 4)) AS exponent
    FROM (SELECT peak, float8send(peak) AS bytes FROM largest) AS as_bytes
), factors AS MATERIALIZED (
    SELECT exponent, power(2::float8, (exponent / 2)::float8) AS first,
        power(2::float8, (exponent - exponent / 2)::float8) AS second,
        CASE WHEN exponent < 0 THEN peak / 2::float8 ^ 64 ELSE 0 END AS least FROM scale
)"""
_PER_USER = """, per_user AS (
    SELECT variant_id, unit, count(*) AS events, count(*) FILTER (WHERE late) AS late FROM counted
    GROUP BY variant_id, unit
)"""
# A cast from double to whole number rounds half to even.
_PER_USER_WITH_SUMS = """, per_user AS (
    SELECT variant_id, unit, count(*) AS events, count(*) FILTER (WHERE late) AS late, count(value) AS valued,
        coalesce(sum(CASE WHEN abs(value) >= (SELECT least FROM factors) THEN
            CAST(value * (SELECT first FROM factors) * (SELECT second FROM factors) AS bigint) ELSE 0 END), 0) AS total
    FROM counted GROUP BY variant_id, unit
)"""
_SLOTS = """, slots AS (
    SELECT variant_id, event_type, bucket, unit, count(*) AS events FROM counted
    GROUP BY variant_id, event_type, bucket, unit
)"""
_RANKED = """, ranked AS (
    SELECT variant_id, value, row_number() OVER in_order - 1 AS rank, count(*) OVER (PARTITION BY variant_id) AS valued
    FROM counted WHERE value IS NOT NULL WINDOW in_order AS (PARTITION BY variant_id ORDER BY value)
)"""

# Who entered before the first event that can count is as good as entered then.
_ENTRIES_ANSWER = """
SELECT 'entry' AS kind, variant_id, CAST(NULL AS text) AS label,
    CAST(date_part('epoch', bucket) * 1000000 AS bigint) AS bucket_us,
    count(*) AS users, sum(planned) AS planned, CAST(NULL AS numeric) AS events, CAST(NULL AS numeric) AS valued,
    CAST(NULL AS numeric) AS valued_squares, CAST(NULL AS numeric) AS total, CAST(NULL AS numeric) AS total_squares,
    CAST(NULL AS numeric) AS products, CAST(NULL AS int) AS exponent, CAST(NULL AS int) AS position,
    CAST(NULL AS float8) AS value, CAST(NULL AS numeric) AS late
FROM (
    SELECT variant_id, planned, date_bin(CAST(:entry_width AS interval),
        greatest(exposed_at, CAST(:since AS timestamptz)), CAST(:origin AS timestamptz)) AS bucket
    FROM exposed
) AS entered GROUP BY variant_id, bucket"""
_ARMS_ANSWER = """
UNION ALL
SELECT 'arm', variant_id, NULL, NULL, count(*), NULL, sum(events), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    sum(late)
FROM per_user GROUP BY variant_id"""
_ARMS_WITH_SUMS_ANSWER = """
UNION ALL
SELECT 'arm', variant_id, NULL, NULL, count(*), NULL, sum(events), sum(valued), sum(valued * valued), sum(total),
    sum(total * total), sum(total * valued), coalesce((SELECT exponent FROM factors), 0), NULL, NULL,
    sum(late)
FROM per_user GROUP BY variant_id"""
_SLOTS_ANSWER = """
UNION ALL (
    SELECT 'slot', variant_id, event_type, CAST(extract(epoch FROM bucket) * 1000000 AS bigint),
        count(*), NULL, sum(events), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    FROM slots GROUP BY variant_id, event_type, bucket LIMIT :most_slots
)"""
_P95_ANSWER = f"""
UNION ALL
SELECT 'p95', variant_id, NULL, NULL, NULL, NULL, NULL, valued, NULL, NULL, NULL, NULL, NULL,
    CAST(rank - {P95[0]} * (valued - 1) / {P95[1]} AS int), value, NULL
FROM ranked WHERE rank IN ({P95[0]} * (valued - 1) / {P95[1]}, {P95[0]} * (valued - 1) / {P95[1]} + 1)"""  # noqa: S608  # Made of constants.
_COUNTED_USERS_ANSWER = """
UNION ALL
SELECT '{kind}', variant_id, {label}, NULL, users, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM ({users}) AS {kind}"""
_SEGMENTS_ANSWER = """
UNION ALL
SELECT 'segment', place, value, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM segments"""

_COHORTS_ANSWER = """
UNION ALL
SELECT 'cohort', place, NULL, CAST(extract(epoch FROM value) * 1000000 AS bigint), NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, NULL
FROM segments"""

_WAITING_EXPOSURES = (
    " FROM assignments WHERE experiment_id = :experiment_id AND ingested_at >= :watermark LIMIT :most_rows"
)
_TAIL_EXPOSURES = text(
    "SELECT CAST(json_build_object('user_id', user_id, 'variant_id', variant_id, 'exposed_at', assigned_at,"
    f" 'context', coalesce(CAST(context AS text), '{{}}')) AS text) AS line{_WAITING_EXPOSURES}"
)
_SIZE_OF_TAIL_EXPOSURES = sizing("context", _WAITING_EXPOSURES)
_TAIL_OVERRIDES = text(
    "SELECT CAST(json_build_object('user_id', user_id, 'variant_id', variant_id, 'exposed_at', exposed_at) AS text)"
    " AS line FROM overrides WHERE experiment_id = :experiment_id AND NOT removed LIMIT :most_rows"
)
_TAIL_EVENTS = text(
    "SELECT CAST(json_build_object('user_id', user_id, 'event_type', event_type, 'ts', ts, 'value', value,"
    " 'late', ingested_at - ts > CAST(:late AS interval)) AS text) AS line"
    " FROM events WHERE ingested_at >= :watermark AND project_id = :project_id"
    " AND (experiment_id IS NULL OR experiment_id = :experiment_id)"
    " AND (CAST(:event_types AS text[]) IS NULL OR event_type = ANY (CAST(:event_types AS text[])))"
    " LIMIT :most_rows"
)
# Those that name no variant matter only where events expose.
_TAIL_SIGHTINGS = text(
    "SELECT CAST(json_build_object('user_id', happened.user_id, 'ts', happened.ts, 'named', coalesce(named.id, 0))"  # noqa: S608  # Made of constants.
    f" AS text) AS line FROM events AS happened LEFT JOIN {NAMED_VARIANTS}"
    " WHERE happened.ingested_at >= :watermark AND happened.project_id = :project_id"
    " AND happened.event_type = :exposure_type"
    " AND (happened.experiment_id IS NULL OR happened.experiment_id = :experiment_id)"
    " AND (named.id IS NOT NULL OR :exposing) LIMIT :most_rows"
)
_ONE_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
_NOW = text("SELECT clock_timestamp()")
# What travels with a query in about a second.
_MOST_TAIL_ROWS = 200_000


class HotStore:
    """PostgreSQL as a source of observations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def observe(
        self, subject: Subject, question: Question, *, most_slots: int, wanted: Wanted = NOTHING_WANTED
    ) -> tuple[Observations, datetime]:
        """Return what counts for the question, and the moment by PostgreSQL's clock up to which it is complete.

        At most `most_slots` entries of the time series are returned, in no order; as many as that mean there may
        be more.

        Raises:
            StoreUnavailable: PostgreSQL cannot be reached.
            StoreIncomplete: it has dropped events that count.
        """
        async with self._database.read() as connection:
            if question.is_divided or wanted.recipes:  # All that is asked is of one moment.
                await connection.execute(_ONE_SNAPSHOT)
            await hold_events(connection)
            now = await _prepare(connection)
            if not await store_reaches(connection, subject, question, look_back(wanted.recipes)):
                raise StoreIncomplete
            plain = question.undivided
            whole = await _rows(connection, subject, plain, most_slots=most_slots)
            seen = observations_of(whole, with_series=question.with_series)
            if wanted.recipes:
                seen = with_measured(seen, await _measured(connection, subject, plain, wanted, seen, now))
            if question.is_divided:
                asked = replace(question, with_series=False)
                rows = await _rows(connection, subject, asked, most_slots=most_slots)
                cells = await _measured(connection, subject, asked, wanted, None, now) if wanted.recipes else None
                seen = with_segments(seen, segments_of(rows, cells))
        return seen, now

    async def tail(
        self, subject: Subject, question: Question, watermark: datetime, wanted: Wanted = NOTHING_WANTED
    ) -> tuple[Tail, datetime]:
        """Return the rows that the history may lack, and the moment by PostgreSQL's clock that they reach to.

        Raises:
            StoreUnavailable: PostgreSQL cannot be reached.
            TailTooLarge: they are too many, or too large, to travel with a query.
        """
        parameters = {
            "experiment_id": subject.experiment_id,
            "watermark": watermark,
            "most_rows": _MOST_TAIL_ROWS + 1,
        }
        events = {
            "project_id": subject.project_id,
            "event_types": list(question.event_types) or None,
            "late": LATE,
        }
        async with self._database.read() as connection:
            await connection.execute(_ONE_SNAPSHOT)
            now: datetime = (await connection.execute(_NOW)).scalar_one()
            await refuse_too_large(connection, _SIZE_OF_TAIL_EXPOSURES, parameters)
            tail = Tail(
                exposures=await _lines(connection, _TAIL_EXPOSURES, parameters),
                overrides=await _lines(
                    connection, _TAIL_OVERRIDES, {k: v for k, v in parameters.items() if k != "watermark"}
                ),
                events=await _lines(connection, _TAIL_EVENTS, parameters | events),
                sightings=await _sightings(connection, subject, parameters),
                measured=await _tail_of_recipes(connection, subject, question, watermark, wanted),
            )
        parts = (tail.exposures, tail.overrides, tail.events, tail.sightings, tail.measured)
        if max(map(len, parts)) > _MOST_TAIL_ROWS:
            raise TailTooLarge
        return tail, now


async def _tail_of_recipes(
    connection: AsyncConnection, subject: Subject, question: Question, watermark: datetime, wanted: Wanted
) -> Sequence[bytes]:
    if not wanted.recipes:
        return ()
    asked = asked_of(subject, question)
    return await tail_events(connection, wanted.recipes, asked, watermark, most_rows=_MOST_TAIL_ROWS + 1)


async def _measured(
    connection: AsyncConnection,
    subject: Subject,
    question: Question,
    wanted: Wanted,
    seen: Observations | None,
    now: datetime,
) -> Measured:
    """Measure what is wanted, by days where it was seen when users came."""
    days = None if seen is None else days_of(seen, question, wanted, now)
    exposed = Exposed(*exposed_in_postgres(subject, question))
    asked = asked_of(subject, question, days)
    return await measure_hot(connection, wanted.recipes, asked, exposed, confidence=question.confidence)


async def _lines(connection: AsyncConnection, statement: TextClause, parameters: Mapping[str, Any]) -> list[bytes]:
    return [line.encode() for line in (await connection.execute(statement, parameters)).scalars()]


async def _sightings(connection: AsyncConnection, subject: Subject, parameters: Mapping[str, Any]) -> Sequence[bytes]:
    if not (subject.exposed_by_events or subject.finds_strayed):
        return ()
    exposing = {"exposing": subject.exposed_by_events}
    return await _lines(connection, _TAIL_SIGHTINGS, {**parameters, **sighting_parameters(subject), **exposing})


async def _rows(connection: AsyncConnection, subject: Subject, question: Question, *, most_slots: int) -> Sequence[Row]:
    sql, parameters = statement_for(subject, question, most_slots=most_slots)
    return [dict(row) for row in (await connection.execute(text(sql), parameters)).mappings()]


async def _prepare(connection: AsyncConnection) -> datetime:
    now: datetime = (await connection.execute(_PREPARE)).one().now
    return now


def statement_for(subject: Subject, question: Question, *, most_slots: int) -> tuple[str, Mapping[str, Any]]:
    """Put the statement together from constant parts, leaving out what the question does not need.

    Where the users are divided it is about the parts alone.
    """
    who, parameters_of_who = exposed_in_postgres(subject, question)
    assigned = exposed_hot.assigned(subject, question)
    parts = [
        *(who, _COUNTED),
        *((_SCALE, _PER_USER_WITH_SUMS) if question.wants_sums else (_PER_USER,)),
        *((_SLOTS,) if question.with_series else ()),
        *((_RANKED,) if question.wants_p95 else ()),
        _ENTRIES_ANSWER,
        _ARMS_WITH_SUMS_ANSWER if question.wants_sums else _ARMS_ANSWER,
        *((_SLOTS_ANSWER,) if question.with_series else ()),
        *((_P95_ANSWER,) if question.wants_p95 else ()),
        _COUNTED_USERS_ANSWER.format(kind="excluded", label="reason", users=exposed_hot.left_out(question)),
        *((_COUNTED_USERS_ANSWER.format(kind="assigned", label="NULL", users=assigned),) if assigned else ()),
        *((_SEGMENTS_ANSWER,) if question.breakdown is not None else ()),
        *((_COHORTS_ANSWER,) if question.cohorts is not None else ()),
    ]
    parameters: dict[str, Any] = {
        "project_id": subject.project_id,
        "experiment_id": subject.experiment_id,
        "most_ahead": MOST_AHEAD,
        "since": question.start,
        "until": question.end,
        "event_types": list(question.event_types) or None,
        "origin": ORIGIN,
        "width": question.granularity.width,
        "entry_width": question.granularity.width if question.with_series else FOREVER,
        "late": LATE,
    }
    if question.with_series:
        parameters["most_slots"] = most_slots
    return "".join(parts), {**parameters, **parameters_of_who}
