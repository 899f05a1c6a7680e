"""The SQL of exports: which rows, and how PostgreSQL writes them out itself.

PostgreSQL makes the lines of CSV and JSON; this process only passes them on, which costs it next to nothing a row,
so that the event loop stays free for assignment. Every text that JSON may hold is written exactly, and floats with
the fewest digits that read back to the same double.

Who counts, and from when, is not said here but taken over from the results.

Where PostgreSQL has dropped events, ClickHouse's are brought back into a table of the session, `brought`, and the same
queries are about them: a name that stands for a table in one place is that of a CTE in another.
"""
# ruff: noqa: S608  # All statements are made of constants.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.events.messages import MOST_AHEAD
from app.exports.history import COLUMNS
from app.exports.values import Column, Holds
from app.results.exposed_hot import exposed_in_postgres
from app.results.values import Question, Subject

ASSIGNMENT_COLUMNS = (
    Column("user_id", Holds.TEXT),
    Column("variant", Holds.LABEL),
    Column("source", Holds.LABEL),
    Column("assigned_at", Holds.MOMENT),
    Column("exposed_at", Holds.MOMENT),
    Column("override", Holds.FLAG),
    Column("excluded", Holds.LABEL),
    Column("assigned_variant", Holds.LABEL),
    Column("experiment_version", Holds.WHOLE),
    Column("context", Holds.DOCUMENT),
    Column("ingested_at", Holds.MOMENT),
)
EVENT_COLUMNS = (
    Column("event_id", Holds.TEXT),
    Column("user_id", Holds.TEXT),
    Column("variant", Holds.LABEL),
    Column("event_type", Holds.LABEL),
    Column("timestamp", Holds.MOMENT),
    Column("value", Holds.NUMBER),
    Column("properties", Holds.DOCUMENT),
    Column("experiment_id", Holds.WHOLE),
    Column("exposed_at", Holds.MOMENT),
    Column("override", Holds.FLAG),
    Column("counted", Holds.FLAG),
    Column("ingested_at", Holds.MOMENT),
)

# Everybody who is in the experiment: by a stored assignment, by an override in force, or by both, when the override
# decides on the variant.
_MEMBERS = """, members AS (
    SELECT coalesce(stored.user_id, forced.user_id) AS user_id,
        coalesce(forced.variant_id, stored.variant_id) AS variant_id,
        stored.variant_id AS assigned_variant_id,
        CASE WHEN forced.user_id IS NULL THEN stored.source ELSE 'override' END AS source,
        stored.assigned_at,
        forced.exposed_at AS forced_at,
        forced.user_id IS NOT NULL AS override,
        stored.experiment_version,
        stored.context,
        CASE WHEN forced.user_id IS NULL THEN stored.ingested_at ELSE forced.ingested_at END AS ingested_at
    FROM (
        SELECT * FROM assignments WHERE experiment_id = CAST(:experiment_id AS bigint)
    ) AS stored
    FULL JOIN (
        SELECT * FROM overrides WHERE experiment_id = CAST(:experiment_id AS bigint) AND NOT removed
    ) AS forced ON forced.user_id = stored.user_id
)"""
# Of a user with both an assignment and an override the candidate may be either.
_EXPOSED_AT = "CASE WHEN members.override THEN members.forced_at ELSE candidates.exposed_at END"

_ASSIGNMENTS = f"""
SELECT members.user_id, variants.key AS variant, members.source, members.assigned_at, {_EXPOSED_AT} AS exposed_at,
    members.override, candidates.reason AS excluded, assigned.key AS assigned_variant, members.experiment_version,
    members.context, members.ingested_at
FROM members
JOIN variants ON variants.id = members.variant_id
LEFT JOIN variants AS assigned ON assigned.id = members.assigned_variant_id
LEFT JOIN candidates ON candidates.user_id = members.user_id"""

# The conditions on ingestion times follow from those on the events' own, and spare partitions that are too old.
_HAPPENED = """
WHERE happened.project_id = CAST(:project_id AS bigint)
  AND (CAST(:since AS timestamptz) IS NULL OR (
    happened.ts >= CAST(:since AS timestamptz)
    AND happened.ingested_at >= CAST(:since AS timestamptz) - CAST(:most_ahead AS interval)))
  AND (CAST(:until AS timestamptz) IS NULL OR happened.ts < CAST(:until AS timestamptz))
  AND (CAST(:event_types AS text[]) IS NULL OR happened.event_type = ANY (CAST(:event_types AS text[])))"""
_COUNTS = """happened.ts >= exposed.exposed_at
  AND (happened.experiment_id IS NULL OR happened.experiment_id = CAST(:experiment_id AS bigint))"""
_COUNTED_EVENTS = f"""
SELECT happened.event_id, happened.user_id, variants.key AS variant, happened.event_type, happened.ts AS "timestamp",
    happened.value, happened.properties, happened.experiment_id, exposed.exposed_at, exposed.planned = 0 AS override,
    true AS counted, happened.ingested_at
FROM events AS happened
JOIN exposed ON exposed.user_id = happened.user_id
JOIN variants ON variants.id = exposed.variant_id{_HAPPENED}
  AND happened.ingested_at >= (SELECT min(exposed_at) FROM exposed) - CAST(:most_ahead AS interval)
  AND {_COUNTS}"""
_ALL_EVENTS = f"""
SELECT happened.event_id, happened.user_id, variants.key AS variant, happened.event_type, happened.ts AS "timestamp",
    happened.value, happened.properties, happened.experiment_id, {_EXPOSED_AT} AS exposed_at, members.override,
    coalesce({_COUNTS}, false) AS counted, happened.ingested_at
FROM events AS happened
JOIN members ON members.user_id = happened.user_id
JOIN variants ON variants.id = members.variant_id
LEFT JOIN candidates ON candidates.user_id = members.user_id
LEFT JOIN exposed ON exposed.user_id = members.user_id{_HAPPENED}"""

# What a session needs to export what was brought to it. PostgreSQL drops it with the connection.
BRINGING = """
CREATE TEMPORARY TABLE brought (LIKE events);
CREATE TEMPORARY TABLE kept_exposed (user_id text, variant_id bigint, exposed_at timestamptz, planned int);
CREATE TEMPORARY TABLE kept_candidates (user_id text, exposed_at timestamptz);
CREATE TEMPORARY TABLE kept_members (user_id text, variant_id bigint, forced_at timestamptz, override boolean);
"""
EMPTY_BROUGHT = "TRUNCATE brought"
ANALYSE_KEPT = "ANALYZE kept_exposed, kept_candidates, kept_members"
EARLIEST_KEPT = "SELECT min(exposed_at) AS earliest FROM kept_exposed"
# Dropping a partition waits for whoever reads the parent; the snapshot is taken by the first query behind the lock.
FREEZE = """
BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;
LOCK TABLE events IN ACCESS SHARE MODE;
"""
SNAPSHOT = """
SELECT pg_export_snapshot() AS name, (SELECT max(upper_bound) FROM dropped_partitions) AS dropped_before"""
# Assignments happen when they come in, but for imported ones: each of the two has an index.
EARLIEST_ASSIGNED = """
SELECT least(
    (SELECT min(ingested_at) FROM assignments WHERE experiment_id = $1),
    (SELECT min(assigned_at) FROM assignments WHERE experiment_id = $1 AND assigned_at <> ingested_at)
) AS earliest"""
# In whose definition `events` is still the table.
_WITH_BROUGHT = """
WITH events AS NOT MATERIALIZED (
    SELECT {columns} FROM events UNION ALL SELECT {columns} FROM brought
), """
_KEPT_EXPOSED = "INSERT INTO kept_exposed SELECT user_id, variant_id, exposed_at, planned FROM exposed"
_KEEP_EXPOSED = f"""
{_KEPT_EXPOSED}"""
_KEEP_ALL = f""", of_exposed AS (
    {_KEPT_EXPOSED}
), of_candidates AS (
    INSERT INTO kept_candidates SELECT user_id, exposed_at FROM candidates
)
INSERT INTO kept_members SELECT user_id, variant_id, forced_at, override FROM members"""
_FROM_KEPT = f"""
WITH events AS NOT MATERIALIZED (
    SELECT {COLUMNS} FROM brought
), exposed AS NOT MATERIALIZED (
    SELECT * FROM kept_exposed
), candidates AS NOT MATERIALIZED (
    SELECT * FROM kept_candidates
), members AS NOT MATERIALIZED (
    SELECT * FROM kept_members
)"""
_KEPT_SINCE = """
  AND happened.ingested_at >= CAST(:kept_since AS timestamptz)"""
# Whom the history may not know yet as members, or not by an assignment.
LATE_MEMBERS = """
SELECT user_id FROM assignments WHERE experiment_id = $1 AND ingested_at >= $2
UNION ALL SELECT user_id FROM overrides WHERE experiment_id = $1 AND NOT removed
LIMIT $3"""

# Microseconds and UTC, always written in the same way.
_MOMENT = """to_char("{0}" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
_IN_LINES = {
    Holds.MOMENT: _MOMENT,
    Holds.FLAG: "CASE WHEN \"{0}\" THEN 'true' ELSE 'false' END",
    Holds.DOCUMENT: 'CAST("{0}" AS text)',
}
_IN_OBJECTS = {Holds.MOMENT: _MOMENT}
_PLAIN = '"{0}"'


@dataclass(frozen=True, slots=True)
class Rows:
    """A query with its named parameters, and the columns that it gives."""

    sql: str
    parameters: Mapping[str, Any]
    columns: Sequence[Column]


def assignment_rows(subject: Subject, *, with_brought: bool = False) -> Rows:
    """Select everybody who is in the experiment, one row each, in no order.

    with_brought: among the exposure events are those of `brought`.
    """
    who, parameters = _who(subject, Question(include_overrides=True), with_brought=with_brought)
    return Rows(who + _MEMBERS + _ASSIGNMENTS, parameters, ASSIGNMENT_COLUMNS)


def event_rows(subject: Subject, question: Question, *, counted: bool) -> Rows:
    """Select events of the experiment's users, those that count for the question or all, in no order."""
    who, parameters_of_who = exposed_in_postgres(subject, question)
    sql = who + _COUNTED_EVENTS if counted else who + _MEMBERS + _ALL_EVENTS
    return Rows(sql, {**_of_events(subject, question), **parameters_of_who}, EVENT_COLUMNS)


def kept_event_rows(subject: Subject, question: Question, kept_since: datetime, *, counted: bool) -> Rows:
    """Select those that were ingested since a moment; the older exposure events are in `brought`."""
    who, parameters_of_who = _who(subject, question, with_brought=True)
    sql = (who + _COUNTED_EVENTS if counted else who + _MEMBERS + _ALL_EVENTS) + _KEPT_SINCE
    parameters = {**_of_events(subject, question), **parameters_of_who, "kept_since": kept_since}
    return Rows(sql, parameters, EVENT_COLUMNS)


def keep_who(subject: Subject, question: Question, *, counted: bool) -> tuple[str, Mapping[str, Any]]:
    """Return the statement that keeps in the session who counts, and who is in the experiment if all events matter.

    The older exposure events are in `brought`.
    """
    who, parameters = _who(subject, question, with_brought=True)
    if counted:
        return who + _KEEP_EXPOSED, parameters
    return who + _MEMBERS + _KEEP_ALL, {"experiment_id": subject.experiment_id, **parameters}


def brought_event_rows(subject: Subject, question: Question, *, counted: bool) -> Rows:
    """Select the events of `brought` as `event_rows` does those of PostgreSQL, by what `keep_who` has kept."""
    sql = _FROM_KEPT + (_COUNTED_EVENTS if counted else _ALL_EVENTS)
    return Rows(sql, _of_events(subject, question), EVENT_COLUMNS)


def _who(subject: Subject, question: Question, *, with_brought: bool) -> tuple[str, Mapping[str, Any]]:
    who, parameters = exposed_in_postgres(subject, question)
    if not with_brought:
        return who, parameters
    return _WITH_BROUGHT.format(columns=COLUMNS) + who.lstrip().removeprefix("WITH "), parameters


def _of_events(subject: Subject, question: Question) -> Mapping[str, Any]:
    return {
        "project_id": subject.project_id,
        "experiment_id": subject.experiment_id,
        "most_ahead": MOST_AHEAD,
        "since": question.start,
        "until": question.end,
        "event_types": list(question.event_types) or None,
    }


def as_lines(rows: Rows) -> str:
    """Select the rows with every column as the text, number or nothing that a line of CSV holds."""
    return f"SELECT {_written(rows.columns, _IN_LINES)} FROM ({rows.sql}) AS exported"


def as_objects(rows: Rows) -> str:
    """Select each row as one JSON object with a comma before it."""
    line = f"SELECT {_written(rows.columns, _IN_OBJECTS)} FROM ({rows.sql}) AS exported"
    return f"SELECT ',' || CAST(row_to_json(line) AS text) FROM ({line}) AS line"


def _written(columns: Sequence[Column], ways: Mapping[Holds, str]) -> str:
    return ", ".join(f'{ways.get(column.holds, _PLAIN).format(column.name)} AS "{column.name}"' for column in columns)
