"""The SQL of exports: which rows, and how PostgreSQL writes them out itself.

PostgreSQL makes the lines of CSV and JSON; this process only passes them on, which costs it next to nothing a row,
so that the event loop stays free for assignment. Every text that JSON may hold is written exactly, and floats with
the fewest digits that read back to the same double.

Who counts, and from when, is not said here but taken over from the results.
"""
# ruff: noqa: S608  # All statements are made of constants.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.events.messages import MOST_AHEAD
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


def assignment_rows(subject: Subject) -> Rows:
    """Select everybody who is in the experiment, one row each, in no order."""
    who, parameters = exposed_in_postgres(subject, Question(include_overrides=True))
    return Rows(who + _MEMBERS + _ASSIGNMENTS, parameters, ASSIGNMENT_COLUMNS)


def event_rows(subject: Subject, question: Question, *, counted: bool) -> Rows:
    """Select events of the experiment's users, those that count for the question or all, in no order."""
    who, parameters_of_who = exposed_in_postgres(subject, question)
    parameters = {
        "project_id": subject.project_id,
        "experiment_id": subject.experiment_id,
        "most_ahead": MOST_AHEAD,
        "since": question.start,
        "until": question.end,
        "event_types": list(question.event_types) or None,
    }
    sql = who + _COUNTED_EVENTS if counted else who + _MEMBERS + _ALL_EVENTS
    return Rows(sql, {**parameters, **parameters_of_who}, EVENT_COLUMNS)


def as_lines(rows: Rows) -> str:
    """Select the rows with every column as the text, number or nothing that a line of CSV holds."""
    return f"SELECT {_written(rows.columns, _IN_LINES)} FROM ({rows.sql}) AS exported"


def as_objects(rows: Rows) -> str:
    """Select each row as one JSON object with a comma before it."""
    line = f"SELECT {_written(rows.columns, _IN_OBJECTS)} FROM ({rows.sql}) AS exported"
    return f"SELECT ',' || CAST(row_to_json(line) AS text) FROM ({line}) AS line"


def _written(columns: Sequence[Column], ways: Mapping[Holds, str]) -> str:
    return ", ".join(f'{ways.get(column.holds, _PLAIN).format(column.name)} AS "{column.name}"' for column in columns)
