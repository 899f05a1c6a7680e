"""SQL of what a diagnosis reads from PostgreSQL alone: assignments, the audit log, and the newest events."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.diagnosis.changes import IN_SERIES, NO_CHANGES
from app.diagnosis.facts import Arrivals, Change, Entrances
from app.measurement.stores import PREPARE
from app.results.values import Subject

# What is said of newest events is about these.
_ARRIVALS_SINCE, _MOST_ARRIVALS = timedelta(days=7), 50_000
_LATE, _AHEAD = timedelta(hours=1), timedelta(minutes=1)

_ENTRANCES = text(
    "SELECT count(*) AS assigned, count(*) FILTER (WHERE source = 'import') AS imported,"
    " count(*) FILTER (WHERE assigned_at < :started_at) AS before_start,"
    " count(*) FILTER (WHERE assigned_at < :started_at AND source = 'import') AS imported_before_start,"
    " min(assigned_at) AS earliest FROM assignments WHERE experiment_id = :experiment_id"
)
_ARRIVALS = text(
    "SELECT count(*) AS events, count(*) FILTER (WHERE ingested_at - ts > CAST(:late AS interval)) AS late,"
    " count(*) FILTER (WHERE ts - ingested_at > CAST(:ahead AS interval)) AS ahead,"
    " max(ingested_at) AS newest FROM ("
    " SELECT user_id, ts, ingested_at FROM events WHERE project_id = :project_id"
    " AND (experiment_id IS NULL OR experiment_id = :experiment_id) AND ingested_at >= CAST(:since AS timestamptz)"
    " ORDER BY ingested_at DESC LIMIT :most_rows) AS newest"
    " WHERE user_id IN (SELECT user_id FROM assignments WHERE experiment_id = :experiment_id)"
)
# Whatever else people do, they do not change an experiment more often.
_MOST_CHANGES = 1000
_OF_EXPERIMENT = "FROM audit_log WHERE project_id = :project_id AND subject = :subject AND at >= :since"
# Overrides and imports are as many as robots like: what one actor does of a kind is one row.
_SERIES = text(
    "SELECT actor, action, min(at) AS at, max(at) AS last_at, count(*) AS times, CAST('{}' AS text[]) AS fields,"
    f" count(*) OVER () AS of {_OF_EXPERIMENT} AND action = ANY (CAST(:in_series AS text[]))"
    " GROUP BY actor, action ORDER BY min(at), actor, action LIMIT :most_rows"
)
# Of changes of fields the details are the fields; they may be large, and their names are all that is wanted. What is no
# object has none.
_SINGLE = text(
    "SELECT actor, action, at, at AS last_at, 1 AS times,"  # noqa: S608  # Made of constants.
    " CASE WHEN action = 'experiment.changed' AND jsonb_typeof(details) = 'object'"
    " THEN ARRAY(SELECT name FROM jsonb_object_keys(details) AS name WHERE name <> 'version'"
    ' ORDER BY name COLLATE "C")'
    " ELSE CAST('{}' AS text[]) END AS fields, of FROM ("
    f" SELECT id, actor, action, at, details, count(*) OVER () AS of {_OF_EXPERIMENT}"
    " AND action <> ALL (CAST(:in_series AS text[])) AND action <> ALL (CAST(:no_changes AS text[]))"
    " ORDER BY id LIMIT :most_rows) AS oldest ORDER BY id"
)


@dataclass(frozen=True, slots=True)
class Noted:
    """What the audit log has of an experiment, the oldest entries of it, and how many more there are.

    What one actor does over and over is one entry.
    """

    entries: tuple[Change, ...] = ()
    more: int = 0


class DiagnosisRepository:
    """Reads in the connection's transaction."""

    def __init__(self, connection: AsyncConnection, subject: Subject) -> None:
        self._connection = connection
        self._subject = subject

    async def entrances(self, started_at: datetime | None) -> Entrances:
        values = {"experiment_id": self._subject.experiment_id, "started_at": started_at}
        row = (await self._connection.execute(_ENTRANCES, values)).mappings().one()
        return Entrances(**row)

    async def noted(self, since: datetime) -> Noted:
        """Return what the audit log has about changes of the experiment from then on."""
        values = {
            "project_id": self._subject.project_id,
            "subject": f"experiment:{self._subject.experiment_id}",
            "since": since,
            "in_series": list(IN_SERIES),
            "most_rows": _MOST_CHANGES,
        }
        series = await self._entries(_SERIES, values)
        single = await self._entries(_SINGLE, {**values, "no_changes": list(NO_CHANGES)})
        return Noted((*series.entries, *single.entries), series.more + single.more)

    async def arrivals(self, now: datetime) -> Arrivals:
        """Tell how those of the project's newest events came that are of the experiment's users."""
        values = {
            "project_id": self._subject.project_id,
            "experiment_id": self._subject.experiment_id,
            "since": now - _ARRIVALS_SINCE,
            "late": _LATE,
            "ahead": _AHEAD,
            "most_rows": _MOST_ARRIVALS,
        }
        await self._connection.execute(PREPARE)
        row = (await self._connection.execute(_ARRIVALS, values)).mappings().one()
        return Arrivals(**row)

    async def _entries(self, statement: TextClause, values: Mapping[str, object]) -> Noted:
        rows = (await self._connection.execute(statement, values)).mappings().all()
        entries = (
            Change(
                at=row["at"],
                last_at=row["last_at"],
                actor=row["actor"],
                actions=(row["action"],),
                fields=tuple(row["fields"]),
                times=row["times"],
            )
            for row in rows
        )
        return Noted(tuple(entries), more=rows[0]["of"] - len(rows) if rows else 0)
